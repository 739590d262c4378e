"""The file-system contract: what every tree offers and every protocol face asks for.

Implemented by the local tree, the SMB client and the NFS client; served by the SMB server, the NFS
server and the FUSE mount. All calls are coroutines of one event loop; an implementation may answer
without ever suspending.

Names are `str` as `os.fsdecode` makes them (undecodable bytes as surrogates). Times are integers of
nanoseconds since the Unix epoch. Sizes and offsets are bytes. A failed call raises `FsError` and nothing
else; cancelling a call is always allowed.
"""

from __future__ import annotations

import enum
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Final

from quicfs.vfs.status import FsError, Status

__all__ = [
    "HANDLE_MAX",
    "NOW",
    "Access",
    "Attr",
    "Caller",
    "Change",
    "DirEntry",
    "DirPage",
    "FileKind",
    "FileSystem",
    "FsError",
    "LockKind",
    "Node",
    "OpenFile",
    "OpenFlags",
    "SetAttr",
    "StatFs",
    "Status",
    "Watch",
]

NOW: Final = -1
"""In `SetAttr`: the server's own clock."""

HANDLE_MAX: Final = 40
"""Bytes of a handle (`FileSystem.handle`): with what a server adds it fits into the 64 of NFSv3."""


class FileKind(enum.Enum):
    REGULAR = "regular"
    DIRECTORY = "directory"
    SYMLINK = "symlink"
    FIFO = "fifo"
    SOCKET = "socket"
    CHARACTER = "character"
    BLOCK = "block"


class OpenFlags(enum.Flag):
    """How a file is opened. READ or WRITE (or both) must be there."""

    READ = enum.auto()
    WRITE = enum.auto()
    CREATE = enum.auto()  # make it if it is not there
    EXCLUSIVE = enum.auto()  # with CREATE: EXISTS if it is there
    TRUNCATE = enum.auto()  # to length 0
    NOFOLLOW = enum.auto()  # LOOP if the last component is a symbolic link


class LockKind(enum.Enum):
    SHARED = "shared"
    EXCLUSIVE = "exclusive"
    UNLOCK = "unlock"


class Access(enum.Flag):
    """What somebody may do with an object; the bits of access(2)."""

    NONE = 0
    READ = enum.auto()
    WRITE = enum.auto()
    EXECUTE = enum.auto()  # of a directory: search


@dataclass(frozen=True, slots=True)
class Caller:
    """In whose name a call is made: user, group and further groups, as numbers of this machine."""

    uid: int
    gid: int
    groups: tuple[int, ...] = ()


class Node:
    """An object of a file system. Opaque: only the file system that made it looks inside. Hashable."""

    __slots__ = ()


@dataclass(frozen=True, slots=True)
class Attr:
    kind: FileKind
    mode: int  # permission bits with set-user-ID, set-group-ID and sticky: 0o0000 to 0o7777
    nlink: int
    uid: int
    gid: int
    size: int
    allocated: int  # bytes that the file occupies
    fileid: int  # unique among the objects that exist
    atime_ns: int
    mtime_ns: int
    ctime_ns: int
    btime_ns: int  # birth; mtime_ns where it is not known
    change: int  # differs whenever content or attributes differ
    rdev: int = 0  # of a device, as os.makedev makes it


@dataclass(frozen=True, slots=True)
class SetAttr:
    """What to change; None leaves it. Times take `NOW`."""

    mode: int | None = None
    uid: int | None = None
    gid: int | None = None
    size: int | None = None
    atime_ns: int | None = None
    mtime_ns: int | None = None
    btime_ns: int | None = None


@dataclass(frozen=True, slots=True)
class StatFs:
    block_size: int
    blocks: int
    blocks_free: int
    blocks_available: int  # to an unprivileged user
    files: int
    files_free: int
    name_max: int
    read_only: bool


@dataclass(frozen=True, slots=True)
class DirEntry:
    name: str
    attr: Attr
    cookie: int  # continue after this entry
    node: Node | None = None  # where it comes at no further cost


@dataclass(frozen=True, slots=True)
class DirPage:
    entries: Sequence[DirEntry]  # without "." and ".."
    eof: bool


@dataclass(frozen=True, slots=True)
class Change:
    """Something happened below a watched directory; `name` is relative to it.

    The empty name with `modified`: more happened than could be told, list the directory again.
    """

    name: str
    created: bool = False
    removed: bool = False
    modified: bool = False
    renamed_from: str | None = None


class Watch(AsyncIterator[Change]):
    """Changes as they happen, from when `watch` returned until the directory is removed."""

    @abstractmethod
    async def aclose(self) -> None:
        """Stop watching; a waiting reader comes to its end. Twice is allowed."""


class OpenFile(ABC):
    """An open regular file. It stays usable after its name was renamed or unlinked."""

    @property
    @abstractmethod
    def node(self) -> Node: ...

    @abstractmethod
    async def read(self, offset: int, length: int) -> bytes | memoryview:
        """At most `length` bytes; fewer only at the end of the file, none past it."""

    @abstractmethod
    async def write(self, offset: int, data: bytes | memoryview, *, stable: bool = False) -> int:
        """Write all of `data`, growing the file; returns its length. With `stable` it is on disk then."""

    @abstractmethod
    async def getattr(self) -> Attr: ...

    @abstractmethod
    async def setattr(self, changes: SetAttr) -> Attr: ...

    async def flush(self) -> None:
        """Close(2) of one of several descriptors: whoever opens the file next sees what was written before; errors of
        delayed writes surface here. It need not be on stable storage."""
        return None

    @abstractmethod
    async def fsync(self, *, data_only: bool = False) -> None:
        """What was written before is on stable storage when this returns."""

    @abstractmethod
    async def close(self) -> None:
        """Errors of delayed writes surface here. Closing twice is allowed."""

    async def lock(self, offset: int, length: int, kind: LockKind, *, owner: int, wait: bool = False) -> None:
        """Byte-range lock; length 0 is up to the end. LOCKED if another owner holds it and `wait` is off."""
        raise FsError(Status.NOT_SUPPORTED, "byte-range locks")

    async def seek_data(self, offset: int, *, hole: bool = False) -> int:
        """The next data (or hole) at or after `offset`; NO_DATA past the end."""
        raise FsError(Status.NOT_SUPPORTED, "seek for data")

    async def allocate(self, offset: int, length: int, *, punch_hole: bool = False) -> None:
        """Reserve the range, or with `punch_hole` give it back."""
        raise FsError(Status.NOT_SUPPORTED, "space reservation")


class FileSystem(ABC):
    """A tree of nodes below `root`.

    Where a call takes `(directory, path)`, `path` is one name or several joined by "/", relative to the
    node `directory`; "" names the node itself where that makes sense. ".." and absolute paths are INVALID.
    Symbolic links on the way are followed as long as they stay inside the tree; the last component
    is followed only where the call says so.
    """

    @property
    @abstractmethod
    def root(self) -> Node: ...

    @abstractmethod
    async def lookup(self, directory: Node, path: str, *, follow: bool = False) -> tuple[Node, Attr]: ...

    @abstractmethod
    async def getattr(self, node: Node) -> Attr: ...

    @abstractmethod
    async def setattr(self, node: Node, changes: SetAttr) -> Attr: ...

    @abstractmethod
    async def open(
        self, directory: Node, path: str, flags: OpenFlags, mode: int = 0o644
    ) -> tuple[OpenFile, Attr, bool]:
        """The open file, its attributes, and whether it was created. `mode` is for a created file, exact (no
        umask). IS_DIR for a directory."""

    @abstractmethod
    async def readdir(self, directory: Node, cookie: int = 0, limit: int = 1024) -> DirPage:
        """Entries after `cookie` (0: from the start). An entry that exists during the whole listing is
        returned exactly once."""

    async def entry_node(self, directory: Node, entry: DirEntry) -> Node:
        """The object of an entry that `readdir` of `directory` has just returned. NOT_FOUND if it is gone; a tree that
        knows the object anyway need not look."""
        return (await self.lookup(directory, entry.name))[0]

    @abstractmethod
    async def mkdir(self, directory: Node, path: str, mode: int = 0o755) -> tuple[Node, Attr]: ...

    @abstractmethod
    async def symlink(self, directory: Node, path: str, target: str) -> tuple[Node, Attr]: ...

    @abstractmethod
    async def readlink(self, node: Node) -> str: ...

    @abstractmethod
    async def link(self, node: Node, directory: Node, path: str) -> Attr: ...

    @abstractmethod
    async def unlink(self, directory: Node, path: str) -> None: ...

    @abstractmethod
    async def rmdir(self, directory: Node, path: str) -> None: ...

    @abstractmethod
    async def rename(
        self, source: Node, path: str, target: Node, new_path: str, *, replace: bool = True
    ) -> None:
        """Atomic. Without `replace`, EXISTS if the new name is taken."""

    @abstractmethod
    async def statfs(self) -> StatFs: ...

    @abstractmethod
    async def fsync(self, node: Node) -> None:
        """Names and attributes of `node` are on stable storage when this returns."""

    def as_caller(self, caller: Caller) -> FileSystem:
        """The same tree with the rights of `caller`: what is refused to them is ACCESS or NOT_PERMITTED, and what they
        make is theirs. Nodes belong to both. A tree that has one user only returns itself."""
        return self

    async def access(self, node: Node, wanted: Access) -> Access:
        """Those of `wanted` that would be allowed. A tree that cannot tell says all: it refuses when the time comes."""
        return wanted

    async def handle(self, node: Node) -> bytes:
        """At most `HANDLE_MAX` bytes that name this object for as long as it exists, also after a restart, wherever it
        is moved to in the tree; never those of another object."""
        raise FsError(Status.NOT_SUPPORTED, "persistent handles")

    async def from_handle(self, handle: bytes) -> tuple[Node, Attr]:
        """The object that `handle` named. STALE if it is gone, or if the bytes make no sense."""
        raise FsError(Status.NOT_SUPPORTED, "persistent handles")

    async def parent(self, node: Node) -> tuple[Node, Attr]:
        """The directory that holds the directory `node`; NOT_FOUND for the root."""
        raise FsError(Status.NOT_SUPPORTED, "parent directories")

    async def mknod(
        self, directory: Node, path: str, kind: FileKind, mode: int = 0o644, rdev: int = 0
    ) -> tuple[Node, Attr]:
        """A FIFO, a socket, a character or block device (`rdev` as os.makedev makes it)."""
        raise FsError(Status.NOT_SUPPORTED, "special files")

    async def getxattr(self, node: Node, name: str) -> bytes:
        raise FsError(Status.NOT_SUPPORTED, "extended attributes")

    async def setxattr(
        self, node: Node, name: str, value: bytes, *, create: bool = False, replace: bool = False
    ) -> None:
        raise FsError(Status.NOT_SUPPORTED, "extended attributes")

    async def listxattr(self, node: Node) -> list[str]:
        raise FsError(Status.NOT_SUPPORTED, "extended attributes")

    async def removexattr(self, node: Node, name: str) -> None:
        raise FsError(Status.NOT_SUPPORTED, "extended attributes")

    def name_changes(self, directory: Node) -> int | None:
        """A count of the names that appear in a directory or leave it, whoever does it: a rename within it counts
        twice. If it grew by more than the caller knows of, others were there. None where that cannot be seen."""
        return None

    def watch(self, directory: Node, *, recursive: bool = False) -> Watch:
        raise FsError(Status.NOT_SUPPORTED, "change notification")

    async def copy_range(
        self, source: OpenFile, offset: int, target: OpenFile, target_offset: int, length: int
    ) -> int:
        """Copy inside the file system; returns the bytes copied, 0 at the end of `source`."""
        raise FsError(Status.NOT_SUPPORTED, "copying inside the file system")

    async def clone_range(
        self, source: OpenFile, offset: int, target: OpenFile, target_offset: int, length: int
    ) -> None:
        """As `copy_range` over the whole of the range (`length` 0: up to the end), atomic, by sharing blocks;
        NOT_SUPPORTED where the disk cannot."""
        raise FsError(Status.NOT_SUPPORTED, "cloning")

    async def close(self) -> None:
        """Give everything back. No call is under way or follows."""
        return None
