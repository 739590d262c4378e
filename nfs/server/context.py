"""What an operation knows about the COMPOUND it is part of (RFC 8881 §16.2.3)."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from quicfs.nfs.rpc.message import Credential
from quicfs.nfs.rpc.service import Peer
from quicfs.nfs.v4.const import Nfs4Error, Stat
from quicfs.nfs.v4.types import StateId
from quicfs.vfs.api import Attr, Caller, FileSystem, Node

if TYPE_CHECKING:
    from quicfs.nfs.server.clients import Client
    from quicfs.nfs.server.exports import Export
    from quicfs.nfs.server.server import NfsServer
    from quicfs.nfs.server.sessions import Session
    from quicfs.nfs.server.slots import Slot

__all__ = ["Context", "Handler", "Target"]


@dataclass(slots=True)
class Target:
    """A file that a COMPOUND works on.

    `raw` is the file handle that clients know; `export` is None in the pseudo file system; `fs` is the tree with the
    rights of the caller; `attr` is there when the object was just looked up, and only then.
    """

    raw: bytes
    export: Export | None
    fs: FileSystem
    node: Node
    attr: Attr | None = None


@dataclass(slots=True, eq=False)
class Context:
    """One COMPOUND under way. `now` is monotonic, in seconds; `credential` is what the call said, `caller_for` what an
    export makes of it. `session`, `slot` and `client` are there after SEQUENCE."""

    server: NfsServer
    peer: Peer
    credential: Credential
    minor: int
    now: float
    session: Session | None = None
    slot: Slot | None = None
    client: Client | None = None
    current: Target | None = None
    saved: Target | None = None
    current_stateid: StateId | None = None  # §16.2.3.1.2
    saved_stateid: StateId | None = None
    room: int = 1 << 20  # bytes that results, the present one included, may still take

    def need_current(self) -> Target:
        """NOFILEHANDLE without a current file handle."""
        if self.current is None:
            raise Nfs4Error(Stat.NOFILEHANDLE)
        return self.current

    def need_saved(self) -> Target:
        """NOFILEHANDLE without a saved file handle (RENAME, LINK, COPY, RESTOREFH)."""
        if self.saved is None:
            raise Nfs4Error(Stat.NOFILEHANDLE)
        return self.saved

    def need_client(self) -> Client:
        """The client of the session. Operations that came without SEQUENCE were refused before."""
        assert self.client is not None
        return self.client

    def set_current(self, target: Target) -> None:
        """Another current file handle; the current stateid belonged to the one before (§16.2.3.1.2)."""
        self.current = target
        self.current_stateid = None

    def caller_for(self, export: Export) -> Caller:
        """As whom `export` sees the one who called."""
        return self._seen(export)[2]

    def view(self, export: Export) -> FileSystem:
        """The tree of `export` with the rights of the one who called."""
        return self._seen(export)[3]

    def _seen(self, export: Export) -> tuple[Export, Credential, Caller, FileSystem, int]:
        """Mostly, a connection carries call after call of one user to one export."""
        seen: tuple[Export, Credential, Caller, FileSystem, int] | None = self.peer.memo
        edition = self.server.edition
        if seen is None or seen[0] is not export or seen[1] is not self.credential or seen[4] != edition:
            caller = self.server.caller(self.credential, self.peer, export)
            seen = self.peer.memo = export, self.credential, caller, export.view(caller), edition
        return seen


Handler = Callable[[Context, Any], Awaitable[Any]]
"""An operation: its arguments to its results (None where it has none). Failure is Nfs4Error or FsError."""
