"""Clients of one server whose calls are counted: `fs, calls = site.client()`; `calls` are lists of operations."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Self

from quicfs.nfs.client.filesystem import NfsFileSystem
from quicfs.nfs.rpc.client import RpcClient
from quicfs.nfs.rpc.message import AuthSys
from quicfs.nfs.rpc.service import Program
from quicfs.nfs.v4.compound import CompoundCall
from quicfs.nfs.v4.const import Op, Procedure
from quicfs.nfs.xdr import Packer, Unpacker
from tests.sim.nfs_rig import Link, Rig

Calls = list[list[Op]]
_QUIET = frozenset({Op.SEQUENCE, Op.PUTFH})


class _Counted:
    """An RpcClient that notes which operations it carries."""

    def __init__(self, client: RpcClient, calls: Calls) -> None:
        self._client = client
        self._calls = calls

    @property
    def alive(self) -> bool:
        return self._client.alive

    def on_close(self, callback: Callable[..., Any]) -> None:
        self._client.on_close(callback)

    async def call(
        self, program: int, version: int, procedure: int, credential: Any, args: Packer, **options: Any
    ) -> Unpacker:
        if procedure == Procedure.COMPOUND:
            raw = args.getvalue()
            call = CompoundCall.unpack(Unpacker(raw))
            operations = []
            while call.more:
                operations.append(call.next()[0])
            args = Packer()
            args.fixed(raw)
            self._calls.append([op for op in operations if op not in _QUIET])
        return await self._client.call(program, version, procedure, credential, args, **options)

    async def aclose(self) -> None:
        await self._client.aclose()


class _Connection:
    def __init__(self, link: Link, calls: Calls) -> None:
        self._link = link
        self._calls = calls

    @property
    def alive(self) -> bool:
        return self._link.alive

    async def open(self) -> Any:
        return _Counted(await self._link.open(), self._calls)

    async def aclose(self) -> None:
        await self._link.aclose()


class Site:
    def __init__(self, directory: Path, **options: Any) -> None:
        self.rig = Rig(directory, **options)
        self.links: list[Link] = []
        self.reachable = True  # for the client "one"
        self._mounts: list[NfsFileSystem] = []

    async def __aenter__(self) -> Self:
        await self.rig.__aenter__()
        return self

    async def __aexit__(self, *exc: object) -> None:
        for fs in self._mounts:
            await fs.close()
        await self.rig.__aexit__(*exc)

    async def client(
        self, name: str = "client", *, delay: float = 0.0, **options: Any
    ) -> tuple[NfsFileSystem, Calls]:
        """Connected; nothing is in `calls` yet."""
        calls: Calls = []

        async def connect(programs: Sequence[Program]) -> Any:
            await asyncio.sleep(0)
            if self.rig.server is None or not (self.reachable or name != "one"):
                raise ConnectionError("the server cannot be reached")
            self.links.append(self.rig.connect(name, programs, delay=delay))
            return _Connection(self.links[-1], calls)

        settings = {"credential": AuthSys(0, name, 0, 0, ()), "timeout": 10.0, "streams": 2, **options}
        fs = NfsFileSystem(connect, "server", "/export", **settings)
        self._mounts.append(fs)
        await fs.connect()
        await asyncio.sleep(0.5)
        calls.clear()
        return fs, calls
