"""Attributes of objects, GETATTR, VERIFY, NVERIFY (RFC 8881 §18.7, §18.31, §18.15); what clients want them to be."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from quicfs.nfs.server import fattr
from quicfs.nfs.server.delegations import seen_by_others
from quicfs.nfs.v4.attributes import Attribute, Attributes, PackedFattr, bitmap, unpack_fattr
from quicfs.nfs.v4.const import Nfs4Error, Op, Stat
from quicfs.nfs.v4.operations_files import GetattrArgs, GetattrResok, VerifyArgs
from quicfs.nfs.xdr import Unpacker
from quicfs.vfs.api import NOW, Attr, SetAttr

if TYPE_CHECKING:
    from quicfs.nfs.server.context import Context, Handler, Target
    from quicfs.nfs.server.owners import Owners

__all__ = ["HANDLERS", "MODES", "NOT_SET", "packed", "settings"]

A = Attribute
_HIDDEN: Final = bitmap((A.SIZE, A.CHANGE, A.SPACE_USED, A.TIME_MODIFY, A.TIME_METADATA))
"""What others cannot see in the file while a client has it delegated for writing (RFC 8881 §10.4.3)."""

_MODE_MAX: Final = 0o7777
_SIZE_MAX: Final = (1 << 63) - 1
MODES: Final = bitmap((A.MODE, A.MODE_SET_MASKED, A.MODE_UMASK))
NOT_SET: Final = bitmap((A.TIME_CREATE,))
"""Taken, and left as it is: no Linux file system lets a time of birth be set. Replies do not name it."""


async def packed(ctx: Context, target: Target, mask: int) -> PackedFattr:
    """What we have of the attributes of `mask`."""
    tree = ctx.server.tree
    attr = target.attr or await tree.attr(ctx, target)
    if ctx.server.files.delegations and mask & _HIDDEN:
        attr = await seen_by_others(ctx, target, attr)
    statfs = await target.fs.statfs() if mask & fattr.STATFS else None
    facts = await tree.facts(target.export)
    return fattr.encoder(mask & fattr.READABLE)(attr, facts, target.raw, tree.mounted_on(target), statfs)


async def getattr_(ctx: Context, args: GetattrArgs) -> GetattrResok:
    if args.attr_request & fattr.WRITE_ONLY:
        raise Nfs4Error(Stat.INVAL)  # §18.7.3
    attributes = await packed(ctx, ctx.need_current(), args.attr_request)
    return GetattrResok(attributes)  # type: ignore[arg-type]  # packed already


def settings(
    values: Attributes, owners: Owners, old: Attr | None = None, *, creating: bool = False
) -> SetAttr:
    """What a client wants to be set; `old` is what is there already.

    ATTRNOTSUPP for what we do not know, INVAL for what cannot be set or makes no sense (§5.5), BADOWNER.
    """
    mask = bitmap(values)
    if mask & ~fattr.SUPPORTED:
        raise Nfs4Error(Stat.ATTRNOTSUPP)
    if mask & ~fattr.SETTABLE or (not creating and mask & fattr.CREATE_ONLY):
        raise Nfs4Error(Stat.INVAL)
    if values.get(A.SIZE, 0) > _SIZE_MAX:
        raise Nfs4Error(Stat.FBIG)
    return SetAttr(
        mode=_mode(values, mask & MODES, old),
        uid=owners.uid(values[A.OWNER]) if A.OWNER in values else None,
        gid=owners.gid(values[A.OWNER_GROUP]) if A.OWNER_GROUP in values else None,
        size=values.get(A.SIZE),
        atime_ns=_time(values, A.TIME_ACCESS_SET),
        mtime_ns=_time(values, A.TIME_MODIFY_SET),
    )


def _mode(values: Attributes, which: int, old: Attr | None) -> int | None:
    if not which:
        return None
    if which & which - 1:
        raise Nfs4Error(Stat.INVAL)  # §6.2.5, RFC 8275 §5: one of them
    if A.MODE in values:
        mode = values[A.MODE]
    elif A.MODE_UMASK in values:
        asked = values[A.MODE_UMASK]
        mode = asked.mode & ~(asked.umask & 0o777)
    else:
        asked = values[A.MODE_SET_MASKED]
        if asked.value & ~asked.mask:
            raise Nfs4Error(Stat.INVAL)  # §6.2.5
        mode = (old.mode & ~asked.mask if old else 0) | asked.value
    if mode > _MODE_MAX:
        raise Nfs4Error(Stat.INVAL)
    return int(mode)


def _time(values: Attributes, which: Attribute) -> int | None:
    if which not in values:
        return None
    time_ns: int | None = values[which]
    return NOW if time_ns is None else time_ns


async def _same(ctx: Context, args: VerifyArgs) -> bool:
    """Whether the object has the attributes that the client names."""
    values: Attributes = args.attributes
    mask = bitmap(values)
    if mask & ~fattr.SUPPORTED:
        raise Nfs4Error(Stat.ATTRNOTSUPP)
    if mask & (fattr.WRITE_ONLY | 1 << A.RDATTR_ERROR):
        raise Nfs4Error(Stat.INVAL)  # §18.31.3
    found = unpack_fattr(Unpacker(await packed(ctx, ctx.need_current(), mask)))
    return found == values


async def verify(ctx: Context, args: VerifyArgs) -> None:
    if not await _same(ctx, args):
        raise Nfs4Error(Stat.NOT_SAME)


async def nverify(ctx: Context, args: VerifyArgs) -> None:
    if await _same(ctx, args):
        raise Nfs4Error(Stat.SAME)


HANDLERS: Final[dict[Op, Handler]] = {
    Op.GETATTR: getattr_,
    Op.VERIFY: verify,
    Op.NVERIFY: nverify,
}
