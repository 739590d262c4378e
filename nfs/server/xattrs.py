"""Extended attributes (RFC 8276). Names on the wire go without the prefix that Linux gives to those of users."""

from __future__ import annotations

import os
from collections.abc import Awaitable
from typing import TYPE_CHECKING, Final, TypeVar

from quicfs.nfs.server.access import need_writable
from quicfs.nfs.server.directories import Changes, recall
from quicfs.nfs.v4.const import Nfs4Error, Op, SetxattrOption, Stat
from quicfs.nfs.v4.operations_xattr import (
    GetxattrArgs,
    GetxattrResok,
    ListxattrsArgs,
    ListxattrsResok,
    RemovexattrArgs,
    RemovexattrResok,
    SetxattrArgs,
    SetxattrResok,
)
from quicfs.vfs.api import FsError, Status

if TYPE_CHECKING:
    from quicfs.nfs.server.context import Context, Handler

__all__ = ["HANDLERS"]

T = TypeVar("T")

_PREFIX: Final = "user."
_NAME_MAX: Final = 255 - len(_PREFIX)  # bytes; Linux counts the prefix
_LIST_SIZE: Final = 16  # LISTXATTRS4resok without names
_OF_STATUS: Final = 8  # operation and status before the result
_ERRORS: Final = {Status.NO_DATA: Stat.NOXATTR, Status.RANGE: Stat.XATTR2BIG}  # §8.3.1


def _full(name: str) -> str:
    """A name as the tree knows it."""
    if not name or "\0" in name:
        raise Nfs4Error(Stat.INVAL)
    if len(os.fsencode(name)) > _NAME_MAX:
        raise Nfs4Error(Stat.NAMETOOLONG)
    return _PREFIX + name


async def _done(call: Awaitable[T]) -> T:
    try:
        return await call
    except FsError as error:
        if error.status in _ERRORS:
            raise Nfs4Error(_ERRORS[error.status]) from None
        raise


async def getxattr(ctx: Context, args: GetxattrArgs) -> GetxattrResok:
    target = ctx.need_current()
    value = await _done(target.fs.getxattr(target.node, _full(args.name)))
    if len(value) + _LIST_SIZE > ctx.room:
        raise Nfs4Error(Stat.REP_TOO_BIG)
    return GetxattrResok(value)


async def setxattr(ctx: Context, args: SetxattrArgs) -> SetxattrResok:
    target = ctx.need_current()
    name = _full(args.key)
    need_writable(target)
    await recall(ctx, target)
    async with Changes(target, None) as changes:
        create = args.option is SetxattrOption.CREATE
        replace = args.option is SetxattrOption.REPLACE
        await _done(target.fs.setxattr(target.node, name, args.value, create=create, replace=replace))
    return SetxattrResok(changes.info)


async def removexattr(ctx: Context, args: RemovexattrArgs) -> RemovexattrResok:
    target = ctx.need_current()
    name = _full(args.name)
    need_writable(target)
    await recall(ctx, target)
    async with Changes(target, None) as changes:
        await _done(target.fs.removexattr(target.node, name))
    return RemovexattrResok(changes.info)


async def listxattrs(ctx: Context, args: ListxattrsArgs) -> ListxattrsResok:
    """The cookie is the number of names that were told already (§8.4.3.2)."""
    target = ctx.need_current()
    names = sorted(name.removeprefix(_PREFIX) for name in await target.fs.listxattr(target.node))
    if args.cookie > len(names):
        raise Nfs4Error(Stat.BAD_COOKIE)
    room = min(args.maxcount, ctx.room - _OF_STATUS) - _LIST_SIZE
    chosen: list[str] = []
    for name in names[args.cookie :]:
        size = len(os.fsencode(name))
        room -= 4 + size + (-size & 3)
        if room < 0:
            break
        chosen.append(name)
    told = args.cookie + len(chosen)
    if room < 0 and not chosen:
        raise Nfs4Error(Stat.TOOSMALL)
    return ListxattrsResok(told, chosen, told == len(names))


HANDLERS: Final[dict[Op, Handler]] = {
    Op.GETXATTR: getxattr,
    Op.SETXATTR: setxattr,
    Op.LISTXATTRS: listxattrs,
    Op.REMOVEXATTR: removexattr,
}
