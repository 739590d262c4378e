"""The current and the saved file handle, and ways through the tree (RFC 8881 §18.8, §18.13, §18.14, §18.19 to §18.21,
§18.27 to §18.29, §18.45)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from quicfs.nfs.server.access import need_directory
from quicfs.nfs.server.names import component
from quicfs.nfs.v4.const import Nfs4Error, Op, SecFlavor, SecinfoStyle, Stat
from quicfs.nfs.v4.operations_directories import LookupArgs
from quicfs.nfs.v4.operations_files import (
    GetfhResok,
    PutfhArgs,
    Secinfo,
    SecinfoArgs,
    SecinfoNoNameArgs,
    SecinfoResok,
)

if TYPE_CHECKING:
    from quicfs.nfs.server.context import Context, Handler

__all__ = ["HANDLERS"]


async def putrootfh(ctx: Context, args: None) -> None:
    ctx.set_current(await ctx.server.tree.root(ctx))


async def putfh(ctx: Context, args: PutfhArgs) -> None:
    ctx.set_current(await ctx.server.handles.target(args.object, ctx))


async def getfh(ctx: Context, args: None) -> GetfhResok:
    return GetfhResok(ctx.need_current().raw)


async def savefh(ctx: Context, args: None) -> None:
    ctx.saved = ctx.need_current()
    ctx.saved_stateid = ctx.current_stateid


async def restorefh(ctx: Context, args: None) -> None:
    if ctx.saved is None:
        raise Nfs4Error(Stat.NOFILEHANDLE)
    ctx.saved.attr = None  # the operations since may have changed them
    ctx.current = ctx.saved
    ctx.current_stateid = ctx.saved_stateid


async def lookup(ctx: Context, args: LookupArgs) -> None:
    directory = ctx.need_current()
    await need_directory(directory)
    ctx.set_current(await ctx.server.tree.child(ctx, directory, component(args.objname)))


async def lookupp(ctx: Context, args: None) -> None:
    directory = ctx.need_current()
    await need_directory(directory)
    ctx.set_current(await ctx.server.tree.parent(ctx, directory))


async def secinfo(ctx: Context, args: SecinfoArgs) -> SecinfoResok:
    directory = ctx.need_current()
    await need_directory(directory)
    await ctx.server.tree.child(ctx, directory, component(args.name))
    return _flavors(ctx)


async def secinfo_no_name(ctx: Context, args: SecinfoNoNameArgs) -> SecinfoResok:
    target = ctx.need_current()
    if args.style == SecinfoStyle.PARENT:
        await need_directory(target)
        await ctx.server.tree.parent(ctx, target)
    return _flavors(ctx)


def _flavors(ctx: Context) -> SecinfoResok:
    """What is let in; the same everywhere. The file handle is used up (§2.6.3.1.1.8)."""
    ctx.current = None
    ctx.current_stateid = None
    return SecinfoResok([Secinfo(SecFlavor.SYS), Secinfo(SecFlavor.NONE)])


HANDLERS: Final[dict[Op, Handler]] = {
    Op.PUTROOTFH: putrootfh,
    Op.PUTPUBFH: putrootfh,  # §18.20: the public file handle is the root's
    Op.PUTFH: putfh,
    Op.GETFH: getfh,
    Op.SAVEFH: savefh,
    Op.RESTOREFH: restorefh,
    Op.LOOKUP: lookup,
    Op.LOOKUPP: lookupp,
    Op.SECINFO: secinfo,
    Op.SECINFO_NO_NAME: secinfo_no_name,
}
