"""What callers may do (ACCESS, RFC 8881 §18.1), and what an export lets nobody do."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Final

from quicfs.nfs.v4 import const
from quicfs.nfs.v4.const import Nfs4Error, Op, Stat
from quicfs.nfs.v4.operations_files import AccessArgs, AccessResok
from quicfs.vfs.api import Access, Attr, FileKind

if TYPE_CHECKING:
    from quicfs.nfs.server.context import Context, Handler, Target

__all__ = ["HANDLERS", "granted", "need_directory", "need_writable"]

B = const.Access

_OF_DIRECTORY: Final = {
    B.READ: Access.READ,
    B.LOOKUP: Access.EXECUTE,
    B.MODIFY: Access.WRITE | Access.EXECUTE,
    B.EXTEND: Access.WRITE | Access.EXECUTE,
    B.DELETE: Access.WRITE | Access.EXECUTE,
    B.XAREAD: Access.READ,
    B.XAWRITE: Access.WRITE,
    B.XALIST: Access.READ,
}
_OF_FILE: Final = {
    B.READ: Access.READ,
    B.MODIFY: Access.WRITE,
    B.EXTEND: Access.WRITE,
    B.EXECUTE: Access.EXECUTE,
    B.XAREAD: Access.READ,
    B.XAWRITE: Access.WRITE,
    B.XALIST: Access.READ,
}
_XATTR: Final = B.XAREAD | B.XAWRITE | B.XALIST
_CHANGES: Final = B.MODIFY | B.EXTEND | B.DELETE | B.XAWRITE
_DIRECTORY_BITS: Final = sum(_OF_DIRECTORY)
_FILE_BITS: Final = sum(_OF_FILE)


def need_writable(target: Target) -> None:
    """ROFS in a read-only export and in the pseudo file system."""
    if target.export is None or target.export.read_only:
        raise Nfs4Error(Stat.ROFS)


async def need_directory(target: Target) -> Attr:
    """The attributes of a directory; SYMLINK or NOTDIR for something else."""
    attr = target.attr or await target.fs.getattr(target.node)
    if attr.kind is not FileKind.DIRECTORY:
        raise Nfs4Error(Stat.SYMLINK if attr.kind is FileKind.SYMLINK else Stat.NOTDIR)
    return attr


@functools.lru_cache(4096)
def _question(wanted: int, *, directory: bool) -> Access:
    """What to ask the tree for these bits."""
    needed = Access.NONE
    for bit, needs in (_OF_DIRECTORY if directory else _OF_FILE).items():
        if wanted & bit:
            needed |= needs
    return needed


@functools.lru_cache(4096)
def _answer(wanted: int, may: Access, *, directory: bool) -> int:
    allowed = 0
    for bit, needs in (_OF_DIRECTORY if directory else _OF_FILE).items():
        if wanted & bit and needs & may == needs:
            allowed |= bit
    return allowed


async def granted(ctx: Context, target: Target, wanted: int, *, xattrs: bool) -> tuple[int, int]:
    """Of the bits `wanted`: those that mean something for this object, and of these those that are allowed."""
    attr = target.attr or await ctx.server.tree.attr(ctx, target)
    directory = attr.kind is FileKind.DIRECTORY
    supported = wanted & (_DIRECTORY_BITS if directory else _FILE_BITS)
    if not xattrs:
        supported &= ~_XATTR
    asked = supported
    if target.export is None or target.export.read_only:
        asked &= ~_CHANGES
    may = await target.fs.access(target.node, _question(asked, directory=directory))
    return supported, _answer(asked, may, directory=directory)


async def access(ctx: Context, args: AccessArgs) -> AccessResok:
    target = ctx.need_current()
    facts = await ctx.server.tree.facts(target.export)
    return AccessResok(*await granted(ctx, target, args.access, xattrs=facts.xattr_support))


HANDLERS: Final[dict[Op, Handler]] = {Op.ACCESS: access}
