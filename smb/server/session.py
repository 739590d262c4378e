"""Sessions and tree connects ([MS-SMB2] §3.3.1.8 and §3.3.1.9)."""

from __future__ import annotations

import enum
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from quicfs.smb.auth_api import AuthExchange
from quicfs.smb.crypto import PreauthHash, SessionKeys
from quicfs.smb.errors import SmbError
from quicfs.smb.ntstatus import NtStatus
from quicfs.smb.server.name_cache import NameCache
from quicfs.smb.server.opens import FileOpen, PipeOpen
from quicfs.smb.server.shares import Share, ShareState
from quicfs.smb.signing import Signer
from quicfs.smb.transform import Opener, Sealer
from quicfs.vfs import FileSystem

if TYPE_CHECKING:
    from quicfs.smb.server.connection import Connection

__all__ = ["Session", "SessionState", "Tree"]


class SessionState(enum.Enum):
    IN_PROGRESS = "the first exchange goes on"
    VALID = "authenticated"
    CLOSED = "logged off or replaced"


@dataclass(slots=True, eq=False)
class Tree:
    """One TREE_CONNECT. `share` is None for IPC$."""

    tree_id: int
    session: Session
    share: Share | None
    maximal_access: int
    _state: ShareState | None
    _names: NameCache | None

    @property
    def disk(self) -> Share:
        if self.share is None:
            raise SmbError(NtStatus.INVALID_DEVICE_REQUEST)
        return self.share

    @property
    def disk_id(self) -> int:
        """Tells this file system from the server's others."""
        return self.state.disk_id

    @property
    def fs(self) -> FileSystem:
        return self.disk.fs

    @property
    def state(self) -> ShareState:
        if self._state is None:
            raise SmbError(NtStatus.INVALID_DEVICE_REQUEST)
        return self._state

    @property
    def names(self) -> NameCache:
        if self._names is None:
            raise SmbError(NtStatus.INVALID_DEVICE_REQUEST)
        return self._names

    def forget_name(self, path: str) -> None:
        self.names.removed(path)


@dataclass(slots=True, eq=False)
class Session:
    session_id: int
    connection: Connection
    state: SessionState = SessionState.IN_PROGRESS
    exchange: AuthExchange | None = None
    preauth: PreauthHash | None = None  # of the exchange that goes on
    rounds: int = 0
    user: str = ""
    is_guest: bool = False
    is_anonymous: bool = False
    keys: SessionKeys | None = None
    signer: Signer | None = None
    sealer: Sealer | None = None
    opener: Opener | None = None
    signing_required: bool = False
    encryption_required: bool = False
    trees: dict[int, Tree] = field(default_factory=dict)
    opens: dict[bytes, FileOpen | PipeOpen] = field(default_factory=dict)
    next_tree_id: int = 1  # never given twice
