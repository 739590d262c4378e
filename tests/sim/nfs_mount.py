"""`NfsFileSystem` against the server of `nfs_rig`, in memory and in virtual time.

async with Mounted(tmp_path) as nfs:
    file, attr, _ = await nfs.fs.open(nfs.fs.root, "a", CREATE | WRITE)
    nfs.cut()                                 # the connection breaks without a word
    await nfs.rig.kill(); await nfs.rig.restart()
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

from quicfs.nfs.client.filesystem import NfsFileSystem
from quicfs.nfs.rpc.client import RpcClient
from quicfs.nfs.rpc.message import AuthSys
from quicfs.nfs.rpc.quic import NoMoreStreams
from quicfs.nfs.rpc.service import Program
from quicfs.vfs.api import OpenFlags
from tests.sim.nfs_rig import Link, Rig

READ, WRITE, CREATE = OpenFlags.READ, OpenFlags.WRITE, OpenFlags.CREATE
EXCLUSIVE, TRUNCATE = OpenFlags.EXCLUSIVE, OpenFlags.TRUNCATE

ROOT = AuthSys(0, "client", 0, 0, ())


class Way:
    """A connection of the rig, with what can be wrong with it: `streams`, how many the server allows."""

    def __init__(self, mounted: Mounted, link: Link) -> None:
        self._mounted = mounted
        self.link = link
        self.clients: list[RpcClient] = []

    @property
    def alive(self) -> bool:
        return self.link.alive

    async def open(self) -> RpcClient:
        if sum(client.alive for client in self.clients) >= self._mounted.streams:
            raise NoMoreStreams("no further stream now")
        client = await self.link.open()
        self.clients.append(client)
        return client

    async def aclose(self) -> None:
        for client in self.clients:
            await client.aclose()
        await self.link.aclose()


class Mounted:
    """A server and one client of it. `reachable` off: no connection comes about."""

    def __init__(
        self,
        directory: Path,
        *,
        streams: int = 64,
        delay: float = 0.0,
        fs_options: dict[str, Any] | None = None,
        **options: Any,
    ) -> None:
        self.rig = Rig(directory, **options)
        self.streams = streams
        self.delay = delay
        self.reachable = True
        self.ways: list[Way] = []
        self._fs_options = fs_options or {}
        self._mounts: list[NfsFileSystem] = []
        self._muted: set[NfsFileSystem] = set()
        self.fs: NfsFileSystem

    async def __aenter__(self) -> Self:
        await self.rig.__aenter__()
        self.fs = self.another()
        return self

    async def __aexit__(self, *exc: object) -> None:
        for fs in self._mounts:
            await fs.close()
        await self.rig.__aexit__(*exc)

    def another(self, **options: Any) -> NfsFileSystem:
        """One more client of the same server."""

        async def connect(programs: Sequence[Program]) -> Way:
            await asyncio.sleep(0)
            if not self.reachable or self.rig.server is None or fs in self._muted:
                raise ConnectionError("the server cannot be reached")
            way = Way(self, self.rig.connect("client", programs, delay=self.delay))
            self.ways.append(way)
            return way

        settings = {"credential": ROOT, "timeout": 10.0, **self._fs_options, **options}
        fs = NfsFileSystem(connect, "server", "/export", **settings)
        self._mounts.append(fs)
        return fs

    def mute(self, fs: NfsFileSystem) -> None:
        """It will not get through to the server any more."""
        self._muted.add(fs)

    @property
    def way(self) -> Way:
        """The newest connection."""
        return self.ways[-1]

    def cut(self) -> None:
        """All connections are gone."""
        for way in self.ways:
            way.link.cut()

    async def restart(self) -> None:
        """kill -9, and a new start at once."""
        await self.rig.kill()
        await self.rig.restart()
