"""The SMB server: shares, users and sessions behind any number of byte streams."""

from __future__ import annotations

import logging
import os
import secrets
from collections.abc import Mapping
from typing import Final

from quicfs.smb import limits
from quicfs.smb.auth_api import Authenticator
from quicfs.smb.errors import SmbProtocolError
from quicfs.smb.rpc import ShareEntry, SrvsvcPipe
from quicfs.smb.server.connection import Connection
from quicfs.smb.server.name_cache import NameCache
from quicfs.smb.server.pipes import PipeFactory
from quicfs.smb.server.session import Session
from quicfs.smb.server.shares import IPC_SHARE, Share, ShareState
from quicfs.transport.bytestream import ByteStream

__all__ = ["SmbServer"]

_log = logging.getLogger("quicfs.smb")


class SmbServer:
    """Serves `shares` to whom `authenticator` lets in.

    `guest`: unknown users become the guest instead of being refused.
    `encryption_required`: on streams that are not secured themselves, sessions must encrypt.
    `server_name` is what lists of shares say.
    """

    def __init__(
        self,
        shares: Mapping[str, Share],
        authenticator: Authenticator,
        *,
        guest: bool = False,
        encryption_required: bool = False,
        server_name: str = "QUICFS",
    ) -> None:
        self.authenticator = authenticator
        self.guest = guest
        self.encryption_required = encryption_required
        self.guid: Final = os.urandom(16)
        listed = [ShareEntry(share.name, ShareEntry.DISK, share.comment) for share in shares.values()]
        listed.append(ShareEntry(IPC_SHARE, ShareEntry.IPC | ShareEntry.SPECIAL, "Remote IPC"))
        self.pipes: Mapping[str, PipeFactory] = {"srvsvc": lambda: SrvsvcPipe(listed, server_name)}
        self.sessions: dict[int, Session] = {}
        self._shares = {name.casefold(): share for name, share in shares.items()}
        self._states: dict[int, tuple[ShareState, NameCache]] = {}
        for share in self._shares.values():
            self._states.setdefault(id(share.fs), (ShareState(secrets.randbits(63)), NameCache(share.fs)))
        self._complained: set[str] = set()
        self._connections = 0

    def find_share(self, name: str) -> Share | None:
        return self._shares.get(name.casefold())

    def state_of(self, share: Share) -> tuple[ShareState, NameCache]:
        """Shared by all shares of one file system."""
        return self._states[id(share.fs)]

    async def serve_stream(self, stream: ByteStream) -> None:
        """Run one connection until the stream ends; then everything it had open is closed.

        Never raises because of what the client sent.
        """
        self._connections += 1
        try:
            if self._connections > limits.MAX_CONNECTIONS:
                raise ConnectionError(f"more than {limits.MAX_CONNECTIONS} connections")
            await Connection(self, stream).run()
        except SmbProtocolError as error:
            self._complain(stream.peer, error)
        except ConnectionError as error:
            _log.info("%s: %s", stream.peer, error)
        finally:
            self._connections -= 1
            await stream.aclose()

    async def end_previous(self, session_id: int, new: Session) -> None:
        """[MS-SMB2] §3.3.5.5.3: a client that lost its connection replaces its session.

        Only the same user may do so; anybody else's wish is ignored.
        """
        old = self.sessions.get(session_id)
        if old is None or old is new:
            return
        if not old.user or new.is_guest or (old.user, old.is_guest) != (new.user, new.is_guest):
            return
        await old.connection.end_session(old)

    def _complain(self, peer: str, error: SmbProtocolError) -> None:
        """Once for each source: a scanner must not fill the log."""
        source = peer.rpartition(":")[0] or peer
        if source in self._complained:
            return
        if len(self._complained) >= limits.MAX_SOURCES_LOGGED:
            self._complained.clear()
        self._complained.add(source)
        _log.warning("%s: connection ended: %s (said once for each source)", peer, error)
