"""One client of a server: connection, session, state and caches, which all views of a file system share."""

from __future__ import annotations

import asyncio
import os
import socket
from typing import Final

from quicfs.nfs import limits
from quicfs.nfs.client.around import Around
from quicfs.nfs.client.attributes import attr_of
from quicfs.nfs.client.behind import WriteBehind
from quicfs.nfs.client.caching import Caches
from quicfs.nfs.client.callback import CallbackProgram
from quicfs.nfs.client.channel import Connect
from quicfs.nfs.client.data import DataCache
from quicfs.nfs.client.delegations import Delegations
from quicfs.nfs.client.errors import CompoundFailed, ConnectError, ConnectProblem
from quicfs.nfs.client.link import Link, LinkSettings
from quicfs.nfs.client.nodes import NfsNode, Nodes
from quicfs.nfs.client.observing import Observer
from quicfs.nfs.client.posting import Poster
from quicfs.nfs.client.recovery import Opens
from quicfs.nfs.client.requests import GETATTR, GETFH, PUTROOTFH, lookups, put
from quicfs.nfs.client.session import Session
from quicfs.nfs.client.status import fs_error
from quicfs.nfs.client.transfer import read_limit, write_limit
from quicfs.nfs.client.unstable import Piece, UnstableData
from quicfs.nfs.rpc.message import Credential
from quicfs.nfs.v4.attributes import Attribute, bitmap
from quicfs.nfs.v4.const import Op, ShareAccess, StableHow, Stat
from quicfs.nfs.v4.operations_files import GetattrArgs
from quicfs.nfs.v4.operations_io import CommitArgs, WriteArgs
from quicfs.nfs.v4.types import ANONYMOUS, ClientOwner
from quicfs.vfs.pieces import PIECE
from quicfs.vfs.status import FsError, Status

__all__ = ["Client"]

_SERVER: Final = GetattrArgs(
    bitmap(
        (
            Attribute.TYPE,
            Attribute.LEASE_TIME,
            Attribute.FILEID,
            Attribute.MAXREAD,
            Attribute.MAXWRITE,
        )
    )
)
_DEFAULT_LEASE_S: Final = 90


def _room_for_data() -> int:
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return min(limits.CLIENT_DATA, memory // limits.CLIENT_DATA_SHARE)


class Client:
    """What all views of one file system share: one client of the server."""

    def __init__(
        self,
        connect: Connect,
        host: str,
        export: str,
        credential: Credential,
        streams: int,
        timeout: float,
        *,
        attr_timeout: float,
        delegations: bool,
    ) -> None:
        self._credential = credential
        owner = ClientOwner(os.urandom(8), f"quicfs {socket.gethostname()} {os.urandom(8).hex()}".encode())
        settings = LinkSettings(host, owner, credential, streams, timeout)
        self.opens = Opens()
        self.nodes = Nodes()
        self.caches = Caches(attr_timeout, DataCache(_room_for_data()))
        self.delegations = Delegations(self.caches, wanted=delegations)
        self.link = Link(
            connect,
            settings,
            self._recover,
            programs=(CallbackProgram(self),),
            on_state_flags=self.opens.on_flags,
            find_again=self._find_again,
            observe=Observer(self.nodes, self.caches, self.delegations).begin,
        )
        self.opens.link = self.delegations.link = self.link
        self.caches.leased = lambda: self.link.leased
        self.opens.delegations = self.delegations
        self.session_known = self.link.session_known
        self.recall = self.delegations.recall
        self.recall_any = self.delegations.recall_any
        self.attributes = self.delegations.attributes
        self.export = [name for name in export.split("/") if name]
        self.root = NfsNode(b"", 0, None)
        self.poster = self.delegations.poster = Poster(self.link)
        self.unstable = UnstableData(self._write_again, self._commit)
        self.behind = self.delegations.behind = WriteBehind(self.caches, self.unstable, self.poster)
        self.read_limit = self.write_limit = PIECE
        self.around = Around(self.caches, self.delegations)
        self._next_owner = 0
        self._waiting_locks: dict[bytes, set[asyncio.Event]] = {}

    def next_owner(self) -> bytes:
        self._next_owner += 1
        return b"%x" % self._next_owner

    async def _recover(self, session: Session, generation: int) -> None:
        """In each new session: reclaim, and learn where the export is and what the server can do."""
        timeout = self.link.settings.timeout
        await self.opens.reclaim(session, generation, timeout)
        operations = [PUTROOTFH, *lookups(self.export), GETFH, (Op.GETATTR, _SERVER)]
        deadline = asyncio.get_running_loop().time() + timeout
        try:
            values = await self.link.through(session, operations, "the export", deadline=deadline)
        except CompoundFailed as failed:
            if not 0 < failed.index <= len(self.export):
                raise
            raise ConnectError(ConnectProblem.EXPORT, self._refused(failed)) from failed
        server = values[-1].attributes
        self.nodes.moved(self.root, values[-2].object)
        self.root.fileid = server.get(Attribute.FILEID, 0)
        self.read_limit = read_limit(session, server.get(Attribute.MAXREAD, 0))
        self.write_limit = write_limit(session, server.get(Attribute.MAXWRITE, 0))
        self.link.keep_alive(server.get(Attribute.LEASE_TIME, _DEFAULT_LEASE_S))

    async def _find_again(self, fh: bytes) -> bytes | None:
        """The handle that an object has now, by its name, if that still leads to it."""
        node = self.nodes.once(fh)
        if node is None or node.fh != fh:
            return None if node is None else node.fh
        if node is self.root:
            start, names = [PUTROOTFH], self.export
        elif node.place is not None:
            start, names = [put(node.place[0])], node.place[1].split("/")
        else:
            return None
        try:
            values = await self.link.compound([*start, *lookups(names), GETFH, GETATTR], node.shown)
        except CompoundFailed:
            return None
        if node.fh == fh:
            if attr_of(values[-1].attributes).fileid != node.fileid:
                return None
            self.nodes.moved(node, values[-2].object)
        return node.fh

    def renamed(self, old: tuple[NfsNode, str], new: tuple[NfsNode, str]) -> None:
        """Where open files, and those with data to commit, are found from now on."""
        path = f"{old[0].shown.rstrip('/')}/{old[1]}"
        places: dict[NfsNode, tuple[NfsNode, str]] = {}
        seen: set[NfsNode] = set()
        for each in {*(file.nfs_node for file in self.opens), *(file.node for file in self.unstable.files)}:
            node = each
            while (place := node.place) is not None and node not in seen:
                seen.add(node)
                shown = node.shown
                if shown == path:
                    places[node] = new
                elif shown.startswith(path + "/") and not f"{place[0].shown}/".startswith(path + "/"):
                    places[node] = new[0], new[1] + shown[len(path) :]
                node = place[0]
        for node, place in places.items():
            node.place = place

    def _refused(self, failed: CompoundFailed) -> str:
        host, export = self.link.settings.host, "/" + "/".join(self.export)
        if failed.status in (Stat.NOENT, Stat.NOTDIR, Stat.SYMLINK):
            return f"{host} exports no {export}: ask its administrator for the path."
        return f"{host} refuses {export} ({failed.status.name}): ask its administrator for access."

    # Data that was not committed

    async def _write_again(self, node: NfsNode, piece: Piece) -> bytes:
        offset, data, _ = piece
        for file in list(node.opens):
            if ShareAccess.WRITE & file.access and not file.closed:
                result = (
                    await file.run(
                        lambda stateid: [(Op.WRITE, WriteArgs(stateid, offset, StableHow.FILE_SYNC, data))]
                    )
                )[0]
                break
        else:  # closed since: no share reservation of ours is in the way
            args = WriteArgs(ANONYMOUS, offset, StableHow.FILE_SYNC, data)
            result = (await self.link.run([put(node), (Op.WRITE, args)], node.shown))[1]
        if result.count != len(data):
            raise FsError(Status.IO, f"{node.shown}: the server wrote {result.count} of {len(data)} bytes")
        verifier: bytes = result.writeverf
        return verifier

    async def _commit(self, node: NfsNode) -> bytes:
        outcome = await self.poster.together([put(node), (Op.COMMIT, CommitArgs(0, 0))], self._credential)
        if isinstance(outcome, CompoundFailed):
            raise fs_error(outcome, node.shown) from outcome
        if isinstance(outcome, FsError):
            raise outcome
        verifier: bytes = outcome[1].writeverf
        return verifier

    # Locks that are waited for

    async def wait_for_lock(self, owner: bytes, timeout: float) -> None:
        event = asyncio.Event()
        waiting = self._waiting_locks.setdefault(owner, set())
        waiting.add(event)
        try:
            async with asyncio.timeout(timeout):
                await event.wait()
        except TimeoutError:
            pass
        finally:
            waiting.discard(event)
            if not waiting:
                self._waiting_locks.pop(owner, None)

    def lock_is_free(self, owner: bytes) -> None:
        """CB_NOTIFY_LOCK (RFC 8881 §20.11): a hint to try again now."""
        for event in self._waiting_locks.get(owner, ()):
            event.set()

    def recall_slots(self, target_highest: int) -> None:
        """CB_RECALL_SLOT (§20.8)."""
        session = self.link.current
        if session is not None:
            session.slots.aim(target_highest)
