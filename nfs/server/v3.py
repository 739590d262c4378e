"""NFSv3 (RFC 1813) on the same tree, for clients that speak only that. It has no state: each call names its objects."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Final

from quicfs.nfs.rpc.message import AcceptStat, Call, RpcFault
from quicfs.nfs.rpc.service import Peer
from quicfs.nfs.server import v3_directories, v3_files, v3_names
from quicfs.nfs.server.context import Context
from quicfs.nfs.server.v3_call import Handler, Nfs3Error, Work, status_of
from quicfs.nfs.v3 import nfs3
from quicfs.nfs.v3.types import Stat
from quicfs.nfs.v4.const import Nfs4Error
from quicfs.nfs.xdr import Packer, Struct
from quicfs.vfs.status import FsError

if TYPE_CHECKING:
    from quicfs.nfs.server.server import NfsServer

__all__ = ["Nfs3"]


class Nfs3:
    """The program NFS, version 3."""

    number: Final = nfs3.PROGRAM
    versions: Final = range(nfs3.VERSION, nfs3.VERSION + 1)

    def __init__(self, server: NfsServer) -> None:
        self._server = server

    async def call(self, call: Call, peer: Peer) -> Packer:
        row = nfs3.PROCEDURES.get(call.procedure)
        if row is None:
            raise RpcFault(AcceptStat.PROC_UNAVAIL)
        packer = Packer()
        if row.args is None:
            return packer  # NULL
        args = row.args.unpack(call.args)
        server = self._server
        work = Work(Context(server, peer, call.credential, 0, server.clock()))
        try:
            result: Struct | None = await _HANDLERS[call.procedure](work, args)
            status = Stat.OK
        except (Nfs3Error, Nfs4Error, FsError) as error:
            status = status_of(error)
            result = await _FAILED[row.failed](work) if row.failed is not None else None
        row.pack_result(packer, status, result)
        return packer


async def _attributes(work: Work) -> Struct:
    return nfs3.Attributes(await work.post())


async def _wcc(work: Work) -> Struct:
    return nfs3.Wcc(await work.wcc())


async def _rename(work: Work) -> Struct:
    return nfs3.RenameRes(await work.wcc(0), await work.wcc(1))


async def _link(work: Work) -> Struct:
    return nfs3.LinkRes(await work.post(0), await work.wcc(1))


_FAILED: Final[dict[type[Struct], Callable[[Work], Awaitable[Struct]]]] = {
    nfs3.Attributes: _attributes,
    nfs3.Wcc: _wcc,
    nfs3.RenameRes: _rename,
    nfs3.LinkRes: _link,
}
"""What comes with a failure."""

_HANDLERS: Final[dict[int, Handler]] = v3_files.HANDLERS | v3_names.HANDLERS | v3_directories.HANDLERS
