"""The NFS server: composes the tables of files and clients, and is the RPC programs that clients call."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from quicfs.nfs import limits
from quicfs.nfs.rpc.identity import IdentityMap, resolve
from quicfs.nfs.rpc.message import AcceptStat, Call, Credential, RpcFault
from quicfs.nfs.rpc.service import Peer, Program
from quicfs.nfs.server import compound
from quicfs.nfs.server.clients import ClientTable
from quicfs.nfs.server.exports import Export
from quicfs.nfs.server.files import Files
from quicfs.nfs.server.grace import Grace
from quicfs.nfs.server.mount import Mount
from quicfs.nfs.server.recent import RecentFiles
from quicfs.nfs.server.recovery import Recovery
from quicfs.nfs.server.sessions import SessionTable
from quicfs.nfs.server.tree import Tree
from quicfs.nfs.server.v3 import Nfs3
from quicfs.nfs.v4.const import PROGRAM, VERSION, Procedure
from quicfs.nfs.v4.types import ImplId, NfsTime, ServerOwner
from quicfs.nfs.xdr import Packer
from quicfs.vfs.api import Caller, FsError

__all__ = ["NfsServer"]

_log = logging.getLogger("quicfs.nfs")


class NfsServer:
    """Serves `exports` to whoever calls its `programs`.

    `state_directory` holds what must outlive the process: which clients held state, who this server is, the key of the
    file handles. Without one, clients lose their opens and locks when the server restarts. `lease` is in seconds; so is
    `grace`, the time after a restart that clients have to claim what they had (None: one lease, if there is anybody
    who could). `clock`: monotonic seconds.
    """

    def __init__(
        self,
        exports: Sequence[Export],
        *,
        state_directory: Path | None = None,
        lease: float = 90.0,
        grace: float | None = None,
        identities: IdentityMap | None = None,
        delegations: bool = True,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.clock: Final = clock
        self.lease: Final = lease
        self.delegations: Final = delegations
        self.identities: Final = identities
        self.recovery: Final = Recovery(state_directory)
        self.epoch: Final = self.recovery.epoch
        self.owner: Final = ServerOwner(minor_id=0, major_id=self.recovery.server_id)
        self.scope: Final = self.recovery.server_id
        self.implementation: Final = ImplId("quicfs", "quicfs", NfsTime(0, 0))
        self.tree: Final = Tree(exports, state_directory, lease_time=int(lease))
        self.handles: Final = self.tree.handles
        self.recent: Final = RecentFiles()
        self.files: Final = Files(self, run=self.epoch.to_bytes(4, "big"))
        self.clients: Final = ClientTable(self)
        self.sessions: Final = SessionTable(self)
        self.grace: Final = Grace(self, lease if grace is None else grace)
        self.programs: Final[Sequence[Program]] = (_Nfs4(self), Nfs3(self), Mount(self))
        self._laundry: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Begins the grace period, and from then on looks after leases."""
        self.grace.begin(self.clock())
        self._laundry = asyncio.get_running_loop().create_task(self._launder())

    async def aclose(self) -> None:
        """What clients have open is closed. Those that had something may claim it at the next start; the others are not
        waited for then."""
        if self._laundry is not None:
            self._laundry.cancel()
            await asyncio.gather(self._laundry, return_exceptions=True)
            self._laundry = None
        await self.files.aclose()
        await self.recent.aclose()
        idle = [client.owner for client in self.clients if client.confirmed and not client.state.any]
        for client in self.clients:
            await self.clients.remove(client)
        try:
            await self.recovery.forget(*idle)
        except OSError as error:
            _log.error("the list of clients was not brought up to date: %s", error)
        await self.recovery.aclose()

    async def sweep(self) -> None:
        """What the passing of time brings: the end of the grace period and of leases."""
        now = self.clock()
        await self.grace.sweep(now)
        await self.clients.sweep(now)
        await self.files.tick(now)
        await self.recent.tick(now)

    @property
    def edition(self) -> int:
        """Another one when `caller` may say something else."""
        return self.identities.edition if self.identities is not None else 0

    def caller(self, credential: Credential, peer: Peer, export: Export) -> Caller:
        """As whom `export` sees the sender of a call."""
        return resolve(credential, peer, export.squash, self.identities)

    async def _launder(self) -> None:
        while True:
            await asyncio.sleep(limits.SWEEP_S)
            try:
                await self.sweep()
            except (OSError, FsError) as error:
                _log.error("looking after leases failed, and is tried again: %s", error)


class _Nfs4:
    """The program NFS, version 4."""

    number = PROGRAM
    versions = range(VERSION, VERSION + 1)

    def __init__(self, server: NfsServer) -> None:
        self._server = server

    async def call(self, call: Call, peer: Peer) -> Packer:
        if call.procedure == Procedure.COMPOUND:
            return await compound.run(self._server, call, peer)
        if call.procedure == Procedure.NULL:
            return Packer()
        raise RpcFault(AcceptStat.PROC_UNAVAIL)
