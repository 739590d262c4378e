"""What changes directories: CREATE, REMOVE, RENAME and LINK (RFC 8881 §18.4, §18.25, §18.26, §18.9); and READLINK."""

from __future__ import annotations

import os
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from quicfs.nfs.server.access import need_directory, need_writable
from quicfs.nfs.server.attributes import MODES, NOT_SET, settings
from quicfs.nfs.server.names import component
from quicfs.nfs.v4.attributes import bitmap
from quicfs.nfs.v4.const import FileType, Nfs4Error, Op, Stat
from quicfs.nfs.v4.operations_directories import (
    CreateArgs,
    CreateResok,
    CreateType,
    LinkArgs,
    LinkResok,
    ReadlinkResok,
    RemoveArgs,
    RemoveResok,
    RenameArgs,
    RenameResok,
)
from quicfs.nfs.v4.types import ChangeInfo
from quicfs.vfs.api import Attr, FileKind, FsError, Node, SetAttr, Status

if TYPE_CHECKING:
    from quicfs.nfs.server.context import Context, Handler, Target

__all__ = ["HANDLERS", "Changes", "recall"]

_SPECIAL: Final[dict[int, FileKind]] = {
    FileType.BLK: FileKind.BLOCK,
    FileType.CHR: FileKind.CHARACTER,
    FileType.SOCK: FileKind.SOCKET,
    FileType.FIFO: FileKind.FIFO,
}
_CREATABLE: Final = {FileType.DIR, FileType.LNK, *_SPECIAL}
_NEW_DIRECTORY: Final = 0o755
_NEW_FILE: Final = 0o644
_NOTHING: Final = SetAttr()


class Changes:
    """change_info4: `async with Changes(directory) as changes: ...`, then `changes.info`.

    Programs of this machine, or another server of the same files, may change the directory at the same time. It is
    atomic if that can be seen, and the names in the directory changed by `names` only; None never is.
    """

    def __init__(self, directory: Target, names: int | None = 1) -> None:
        self.names = names
        self._directory = directory
        self._count: int | None = None
        self._before = 0
        self.info = ChangeInfo(False, 0, 0)

    async def __aenter__(self) -> Changes:
        directory = self._directory
        if self.names is not None:
            self._count = directory.fs.name_changes(directory.node)
        self._before = (await directory.fs.getattr(directory.node)).change
        directory.attr = None
        return self

    async def __aexit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None:
            return
        directory = self._directory
        after = (await directory.fs.getattr(directory.node)).change
        atomic = False
        if self._count is not None and self.names is not None:
            atomic = directory.fs.name_changes(directory.node) == self._count + self.names
        self.info = ChangeInfo(atomic, self._before, after)


async def readlink(ctx: Context, args: None) -> ReadlinkResok:
    target = ctx.need_current()
    attr = target.attr or await ctx.server.tree.attr(ctx, target)
    if attr.kind is not FileKind.SYMLINK:
        raise Nfs4Error(Stat.WRONG_TYPE)  # §18.24.4
    return ReadlinkResok(await target.fs.readlink(target.node))


async def create(ctx: Context, args: CreateArgs) -> CreateResok:
    directory = ctx.need_current()
    need_writable(directory)
    await need_directory(directory)
    what = args.objtype
    name = component(args.objname)
    wanted = settings(args.createattrs, ctx.server.tree.owners, creating=True)
    if wanted.size is not None:
        raise Nfs4Error(Stat.INVAL)
    if what.type not in _CREATABLE:
        raise Nfs4Error(Stat.BADTYPE)  # §18.4.3: files are made by OPEN
    async with Changes(directory) as changes:
        node, attr = await _make(directory, name, what, wanted.mode)
        rest = replace(wanted, mode=None)
        if rest != _NOTHING:
            attr = await directory.fs.setattr(node, rest)
    ctx.set_current(await ctx.server.tree.target(directory, node, attr))
    done = bitmap(args.createattrs) & ~NOT_SET
    if what.type == FileType.LNK:
        done &= ~MODES  # links have none of their own
    return CreateResok(changes.info, done)


async def _make(directory: Target, name: str, what: CreateType, mode: int | None) -> tuple[Node, Attr]:
    fs, parent = directory.fs, directory.node
    if what.type == FileType.DIR:
        return await fs.mkdir(parent, name, _NEW_DIRECTORY if mode is None else mode)
    if what.type == FileType.LNK:
        if not what.linkdata or "\0" in what.linkdata:
            raise Nfs4Error(Stat.INVAL)
        return await fs.symlink(parent, name, what.linkdata)
    rdev = os.makedev(what.devdata.major, what.devdata.minor) if what.devdata else 0
    return await fs.mknod(parent, name, _SPECIAL[what.type], _NEW_FILE if mode is None else mode, rdev)


async def remove(ctx: Context, args: RemoveArgs) -> RemoveResok:
    directory = ctx.need_current()
    need_writable(directory)
    await need_directory(directory)
    name = component(args.target)
    node, attr = await directory.fs.lookup(directory.node, name)
    await _recall_named(ctx, directory, node, attr)
    async with Changes(directory) as changes:
        if attr.kind is FileKind.DIRECTORY:
            await directory.fs.rmdir(directory.node, name)
        else:
            await directory.fs.unlink(directory.node, name)
    return RemoveResok(changes.info)


async def rename(ctx: Context, args: RenameArgs) -> RenameResok:
    source, target = ctx.need_saved(), ctx.need_current()
    _same_export(source, target)
    need_writable(target)
    await need_directory(source)
    await need_directory(target)
    old, new = component(args.oldname), component(args.newname)
    node, attr = await source.fs.lookup(source.node, old)
    try:
        replaced = await target.fs.lookup(target.node, new)
    except FsError as error:
        if error.status is not Status.NOT_FOUND:
            raise
    else:
        if replaced[0] == node:
            # §18.26.3: two names of one object: nothing is done.
            async with Changes(source, 0) as before, Changes(target, 0) as after:
                pass
            return RenameResok(before.info, after.info)
        await _recall_named(ctx, target, *replaced)
    await _recall_named(ctx, source, node, attr)
    names = 2 if source.node == target.node else 1
    async with Changes(source, names) as left, Changes(target, names) as joined:
        await target.fs.rename(source.node, old, target.node, new)
    return RenameResok(left.info, joined.info)


async def link(ctx: Context, args: LinkArgs) -> LinkResok:
    source, directory = ctx.need_saved(), ctx.need_current()
    _same_export(source, directory)
    need_writable(directory)
    await need_directory(directory)
    name = component(args.newname)
    attr = await ctx.server.tree.attr(ctx, source)
    if attr.kind is FileKind.DIRECTORY:
        raise Nfs4Error(Stat.ISDIR)
    await recall(ctx, source)
    source.attr = None
    async with Changes(directory) as changes:
        await directory.fs.link(source.node, directory.node, name)
    return LinkResok(changes.info)


def _same_export(source: Target, target: Target) -> None:
    if source.export is not target.export:
        raise Nfs4Error(Stat.XDEV)


async def recall(ctx: Context, target: Target) -> None:
    """Delegations of a file whose names, links or attributes change are called back first (§10.4)."""
    attr = target.attr or await ctx.server.tree.attr(ctx, target)
    if attr.kind is FileKind.REGULAR:
        await ctx.server.files.recall(target, for_write=True, by=ctx.client)
        await ctx.server.recent.drop(target.raw)


async def _recall_named(ctx: Context, beside: Target, node: Node, attr: Attr) -> None:
    if attr.kind is FileKind.REGULAR:
        await recall(ctx, await ctx.server.tree.target(beside, node, attr))


HANDLERS: Final[dict[Op, Handler]] = {
    Op.READLINK: readlink,
    Op.CREATE: create,
    Op.REMOVE: remove,
    Op.RENAME: rename,
    Op.LINK: link,
}
