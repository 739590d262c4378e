"""MOUNT (RFC 1813 §5): the first file handle, for clients of NFSv3."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, Final

from quicfs.nfs.limits import MAX_MOUNT_DEPTH, MAX_MOUNTS
from quicfs.nfs.rpc.message import AcceptStat, Call, Flavor, RpcFault
from quicfs.nfs.rpc.service import Peer
from quicfs.nfs.server.context import Context
from quicfs.nfs.server.names import component
from quicfs.nfs.v3 import mount3
from quicfs.nfs.v3.mount3 import DumpRes, ExportNode, ExportRes, MntOk, Mounted, MountStat, PathArgs
from quicfs.nfs.v4.const import Nfs4Error, Stat
from quicfs.nfs.xdr import Packer, Struct
from quicfs.vfs.api import FileKind, FsError, Status

if TYPE_CHECKING:
    from quicfs.nfs.server.server import NfsServer

__all__ = ["Mount"]

_OF_STATUS: Final = {
    Status.NOT_FOUND: MountStat.NOENT,
    Status.NOT_DIR: MountStat.NOTDIR,
    Status.ACCESS: MountStat.ACCES,
    Status.NOT_PERMITTED: MountStat.PERM,
    Status.NAME_TOO_LONG: MountStat.NAMETOOLONG,
    Status.INVALID: MountStat.INVAL,
    Status.BAD_NAME: MountStat.INVAL,
    Status.NOT_SUPPORTED: MountStat.NOTSUPP,
}
"""From the contract's outcomes to those of MOUNT; the rest is IO."""
_OF_NAME: Final = {Stat.NAMETOOLONG: MountStat.NAMETOOLONG}


class Mount:
    """The program MOUNT, version 3. Who mounted what is remembered for DUMP only, and says nothing about rights."""

    number: Final = mount3.PROGRAM
    versions: Final = range(mount3.VERSION, mount3.VERSION + 1)

    def __init__(self, server: NfsServer) -> None:
        self._server = server
        self._mounts: dict[tuple[str, str], None] = {}
        self._procedures: dict[int, Callable[[Context, Any], Awaitable[tuple[int, Struct | None]]]] = {
            1: self._mnt,
            2: self._dump,
            3: self._umnt,
            4: self._umntall,
            5: self._export,
        }

    async def call(self, call: Call, peer: Peer) -> Packer:
        row = mount3.PROCEDURES.get(call.procedure)
        if row is None:
            raise RpcFault(AcceptStat.PROC_UNAVAIL)
        packer = Packer()
        if not call.procedure:
            return packer
        args = None if row.args is None else row.args.unpack(call.args)
        server = self._server
        ctx = Context(server, peer, call.credential, 0, server.clock())
        row.pack_result(packer, *await self._procedures[call.procedure](ctx, args))
        return packer

    async def _mnt(self, ctx: Context, args: PathArgs) -> tuple[int, Struct | None]:
        """The handle of an export, of a directory in one, or of one that leads there."""
        tree = ctx.server.tree
        names = [name for name in args.path.split("/") if name]
        if len(names) > MAX_MOUNT_DEPTH:
            return MountStat.NAMETOOLONG, None
        try:
            target = await tree.root(ctx)
            for name in names:
                target = await tree.child(ctx, target, component(name))
        except FsError as error:
            return _OF_STATUS.get(error.status, MountStat.IO), None
        except Nfs4Error as error:
            return _OF_NAME.get(error.status, MountStat.INVAL), None
        assert target.attr is not None
        if target.attr.kind is not FileKind.DIRECTORY:
            return MountStat.NOTDIR, None
        if len(self._mounts) >= MAX_MOUNTS:
            del self._mounts[next(iter(self._mounts))]
        self._mounts[_host(ctx.peer), "/" + "/".join(names)] = None
        return MountStat.OK, MntOk(target.raw, [Flavor.SYS, Flavor.NONE])

    async def _dump(self, ctx: Context, args: None) -> tuple[int, Struct | None]:
        return MountStat.OK, DumpRes([Mounted(host, path) for host, path in self._mounts])

    async def _umnt(self, ctx: Context, args: PathArgs) -> tuple[int, Struct | None]:
        path = "/" + "/".join(name for name in args.path.split("/") if name)
        self._mounts.pop((_host(ctx.peer), path), None)
        return MountStat.OK, None

    async def _umntall(self, ctx: Context, args: None) -> tuple[int, Struct | None]:
        host = _host(ctx.peer)
        for known in [known for known in self._mounts if known[0] == host]:
            del self._mounts[known]
        return MountStat.OK, None

    async def _export(self, ctx: Context, args: None) -> tuple[int, Struct | None]:
        """Everything that is exported, to everybody: rights are the file system's."""
        return MountStat.OK, ExportRes(
            [ExportNode(export.path, []) for export in ctx.server.tree.pseudo.exports]
        )


def _host(peer: Peer) -> str:
    """Without the port, and no longer than the protocol allows."""
    return peer.name.rpartition(":")[0][:255] or peer.name[:255]
