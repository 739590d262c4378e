"""Shares, and what all connections must know of the files in them: opens, sharing, pending deletes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from quicfs.smb.errors import SmbError
from quicfs.smb.messages.access import Access, ShareAccess
from quicfs.smb.messages.tree import ShareType
from quicfs.smb.ntstatus import NtStatus
from quicfs.smb.server.byte_locks import ByteLocks
from quicfs.vfs import FileSystem

if TYPE_CHECKING:
    from quicfs.smb.server.opens import FileOpen

__all__ = ["IPC_SHARE", "FileState", "Share", "ShareState"]

IPC_SHARE: Final = "IPC$"

_READS: Final = int(Access.FILE_READ_DATA | Access.FILE_EXECUTE)
_WRITES: Final = int(Access.FILE_WRITE_DATA | Access.FILE_APPEND_DATA)
_DELETES: Final = int(Access.DELETE)
_RULES: Final = (
    (_READS, int(ShareAccess.READ)),
    (_WRITES, int(ShareAccess.WRITE)),
    (_DELETES, int(ShareAccess.DELETE)),
)
_SHARED: Final = _READS | _WRITES | _DELETES


@dataclass(frozen=True, slots=True)
class Share:
    """A tree that clients may connect to, under the name it has in the server's mapping."""

    name: str
    fs: FileSystem
    read_only: bool = False
    comment: str = ""
    file_mode: int = 0o644  # of files made by clients that name no mode
    directory_mode: int = 0o755

    @property
    def kind(self) -> ShareType:
        return ShareType.DISK


@dataclass(slots=True, eq=False)
class FileState:
    """One object with at least one open."""

    fileid: int
    opens: list[FileOpen] = field(default_factory=list)
    delete_pending: bool = False
    locks: ByteLocks = field(default_factory=ByteLocks)

    def check_sharing(self, access: int, sharing: int) -> None:
        """[MS-FSA] §2.1.5.1.2.2: SHARING_VIOLATION when either open forbids what the other does."""
        if not access & _SHARED:
            return
        for other in self.opens:
            for what, allowed in _RULES:
                if (access & what and not other.share_access & allowed and other.access & _SHARED) or (
                    other.access & what and not sharing & allowed
                ):
                    raise SmbError(NtStatus.SHARING_VIOLATION)


class ShareState:
    """All objects of one file system that are open through this server."""

    def __init__(self, disk_id: int) -> None:
        self.disk_id = disk_id
        self._files: dict[int, FileState] = {}

    def __len__(self) -> int:
        """Objects with at least one open."""
        return len(self._files)

    def find(self, fileid: int) -> FileState | None:
        return self._files.get(fileid)

    def add(self, open_: FileOpen, fileid: int) -> FileState:
        state = self._files.get(fileid)
        if state is None:
            state = self._files[fileid] = FileState(fileid)
        state.opens.append(open_)
        return state

    def remove(self, open_: FileOpen) -> bool:
        """Whether it was the last open of the object."""
        state = open_.state
        if open_ in state.opens:
            state.opens.remove(open_)
        if state.opens:
            return False
        self._files.pop(state.fileid, None)
        return True

    def opens_below(self, path: str) -> Iterator[FileOpen]:
        """Opens of `path` and of everything below it."""
        prefix = path + "/"
        for state in self._files.values():
            for open_ in state.opens:
                if open_.path == path or open_.path.startswith(prefix):
                    yield open_

    def renamed(self, old: str, new: str) -> None:
        for open_ in list(self.opens_below(old)):
            open_.path = new + open_.path[len(old) :]
