"""A raw client of NFSv3 and MOUNT for the rig."""

from __future__ import annotations

from typing import Any

from quicfs.nfs.rpc.client import RpcClient
from quicfs.nfs.rpc.message import AuthSys, Credential
from quicfs.nfs.v3 import mount3, nfs3
from quicfs.nfs.v3.types import Stat
from quicfs.nfs.xdr import Packer, Struct
from tests.sim.nfs_rig import Rig

NUMBERS = {row.name: row for row in nfs3.PROCEDURES.values()}
MOUNTING = {row.name: row for row in mount3.PROCEDURES.values()}


class Nfs3Client:
    def __init__(self, rig: Rig, uid: int = 0, credential: Credential | None = None) -> None:
        self.credential = credential or AuthSys(0, "old", uid, uid, ())
        self._link = rig.connect(f"nfs3-{uid}:700")
        self._rpc: RpcClient | None = None

    async def call(self, name: str, args: Struct | None = None) -> tuple[Any, Any]:
        """(status, result) of a procedure of NFS or MOUNT."""
        program, version, row = nfs3.PROGRAM, nfs3.VERSION, NUMBERS.get(name)
        if row is None:
            program, version, row = mount3.PROGRAM, mount3.VERSION, MOUNTING[name]
        if self._rpc is None or not self._rpc.alive:
            self._rpc = await self._link.open()
        packer = Packer()
        if args is not None:
            args.pack(packer)
        unpacker = await self._rpc.call(program, version, row.number, self.credential, packer, timeout=300.0)
        result: tuple[Any, Any] = row.unpack_result(unpacker)
        unpacker.done()
        return result

    async def do(self, name: str, args: Struct | None = None) -> Any:
        """The result; it must be OK."""
        status, result = await self.call(name, args)
        assert status == Stat.OK, f"{name}: {status!r}"
        return result

    async def mount(self, path: str = "/export") -> bytes:
        raw: bytes = (await self.do("MNT", mount3.PathArgs(path))).fhandle
        return raw
