"""SETATTR (RFC 8881 §18.30)."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Final

from quicfs.nfs.server.access import need_writable
from quicfs.nfs.server.attributes import NOT_SET, settings
from quicfs.nfs.server.io import borrow
from quicfs.nfs.server.status import STATUS
from quicfs.nfs.v4.attributes import Attribute, bitmap
from quicfs.nfs.v4.const import Nfs4Error, Op, Stat
from quicfs.nfs.v4.operations_files import SetattrArgs, SetattrRes
from quicfs.nfs.v4.types import ANONYMOUS, StateId
from quicfs.vfs.api import Attr, FsError, SetAttr, Status

if TYPE_CHECKING:
    from quicfs.nfs.server.context import Context, Handler, Target

__all__ = ["HANDLERS"]

_NOTHING: Final = SetAttr()


async def setattr_(ctx: Context, args: SetattrArgs) -> SetattrRes:
    target = ctx.need_current()
    need_writable(target)
    changes = settings(
        args.attributes, ctx.server.tree.owners, target.attr or await ctx.server.tree.attr(ctx, target)
    )
    done = 0
    if changes.size is not None:
        await _resize(ctx, target, args.stateid, changes.size)
        done = 1 << Attribute.SIZE
        changes = replace(changes, size=None)
    else:
        await ctx.server.files.recall(target, for_write=True, by=ctx.client)
    await ctx.server.recent.drop(target.raw)
    if changes != _NOTHING:
        target.attr = None
        try:
            target.attr = await _change(ctx, target, args.stateid, changes)
        except FsError as error:
            raise Nfs4Error(STATUS[error.status], result=SetattrRes(done)) from None
    return SetattrRes(bitmap(args.attributes) & ~NOT_SET)


async def _change(ctx: Context, target: Target, stateid: StateId, changes: SetAttr) -> Attr:
    try:
        return await target.fs.setattr(target.node, changes)
    except FsError as error:
        if error.status is not Status.STALE or stateid == ANONYMOUS:
            raise
    # A file without a name is reached by who has it open.
    try:
        held = await borrow(ctx, stateid, target, write=False)
    except Nfs4Error as refused:
        if refused.status is not Stat.OPENMODE:
            raise
        held = await borrow(ctx, stateid, target, write=True)
    try:
        return await held.file.setattr(changes)
    finally:
        await held.release()


async def _resize(ctx: Context, target: Target, stateid: StateId, size: int) -> None:
    """Truncating and growing are writing (§18.30.3): the stateid says by which open."""
    held = await borrow(ctx, stateid, target, write=True)
    target.attr = None
    try:
        target.attr = await held.file.setattr(SetAttr(size=size))
    finally:
        state = ctx.server.files.get(target.raw)
        if state is not None:
            state.size = 0
        await held.release()


HANDLERS: Final[dict[Op, Handler]] = {Op.SETATTR: setattr_}
