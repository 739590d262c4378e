"""NFSv3 on names: LOOKUP, and what makes, moves and removes them (RFC 1813 §3.3)."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Final

from quicfs.nfs.server.access import need_writable
from quicfs.nfs.server.creating import Creation
from quicfs.nfs.server.directories import recall
from quicfs.nfs.server.names import component
from quicfs.nfs.server.v3_call import Handler, Nfs3Error, Work, need_directory
from quicfs.nfs.server.v3_files import changes_of, resize
from quicfs.nfs.v3.nfs3 import (
    CreateArgs,
    CreateOk,
    LinkArgs,
    LinkRes,
    LookupOk,
    MkdirArgs,
    MknodArgs,
    RenameArgs,
    RenameRes,
    SymlinkArgs,
    Wcc,
)
from quicfs.nfs.v3.types import CreateMode, DirOpArgs, FileType, Sattr, Stat
from quicfs.nfs.v4 import const
from quicfs.nfs.v4.attributes import Attribute, Attributes
from quicfs.nfs.v4.operations_open import CreateHow
from quicfs.vfs.api import NOW, Attr, FileKind, FsError, Node, SetAttr, Status

if TYPE_CHECKING:
    from quicfs.nfs.server.context import Target

__all__ = ["HANDLERS"]

_NEW_DIRECTORY: Final = 0o755
_NEW_FILE: Final = 0o644
_MODES: Final = {
    CreateMode.UNCHECKED: const.CreateMode.UNCHECKED,
    CreateMode.GUARDED: const.CreateMode.GUARDED,
    CreateMode.EXCLUSIVE: const.CreateMode.EXCLUSIVE,
}
_SPECIAL: Final[dict[int, FileKind]] = {
    FileType.BLK: FileKind.BLOCK,
    FileType.CHR: FileKind.CHARACTER,
    FileType.SOCK: FileKind.SOCKET,
    FileType.FIFO: FileKind.FIFO,
}


async def lookup(work: Work, args: DirOpArgs) -> LookupOk:
    """ "." and ".." are names here like others (§3.3.3)."""
    directory = await work.target(args.dir)
    need_directory(directory)
    tree = work.ctx.server.tree
    if args.name == ".":
        found = directory
    elif args.name == "..":
        found = await tree.parent_or_self(work.ctx, directory)
    else:
        found = await tree.child(work.ctx, directory, component(args.name))
    return LookupOk(found.raw, await work.post_of(found), await work.post())


async def _directory(work: Work, where: DirOpArgs) -> tuple[Target, str]:
    """The directory that is to be changed, and the name in it."""
    directory = await work.target(where.dir)
    need_writable(directory)
    need_directory(directory)
    if where.name in (".", ".."):
        raise Nfs3Error(Stat.INVAL)
    return directory, component(where.name)


async def _made(work: Work, directory: Target, node: Node, attr: Attr) -> CreateOk:
    target = await work.ctx.server.tree.target(directory, node, attr)
    directory.attr = None
    return CreateOk(target.raw, work.fattr(directory, attr), await work.wcc())


async def _finished(directory: Target, node: Node, attr: Attr, wanted: SetAttr) -> Attr:
    """A new object with the rest of what it should have."""
    rest = SetAttr(uid=wanted.uid, gid=wanted.gid, atime_ns=wanted.atime_ns, mtime_ns=wanted.mtime_ns)
    return attr if rest == SetAttr() else await directory.fs.setattr(node, rest)


async def create(work: Work, args: CreateArgs) -> CreateOk:
    directory, name = await _directory(work, args.where)
    wanted = args.how.attributes or Sattr()
    how = CreateHow(_MODES[args.how.mode], _attributes(wanted), args.how.verf)
    creation = Creation(work.ctx, how)
    try:
        node, attr = await directory.fs.lookup(directory.node, name)
    except FsError as error:
        if error.status is not Status.NOT_FOUND:
            raise
    else:
        return await _existing(work, directory, node, attr, creation, wanted)
    try:
        held, made = await creation.make(directory, name)
    except FsError as taken:
        if taken.status is not Status.EXISTS:
            raise
        node, attr = await directory.fs.lookup(directory.node, name)  # somebody was faster
        return await _existing(work, directory, node, attr, creation, wanted)
    await held.release()
    assert made.attr is not None
    return await _made(work, directory, made.node, made.attr)


async def _existing(
    work: Work, directory: Target, node: Node, attr: Attr, creation: Creation, wanted: Sattr
) -> CreateOk:
    """UNCHECKED takes what is there, with the size that was asked for; EXIST."""
    creation.check_existing(attr)
    if wanted.size is not None:
        target = await work.ctx.server.tree.target(directory, node, attr)
        await resize(work, target, wanted.size)
        attr = await directory.fs.getattr(node)
    return await _made(work, directory, node, attr)


def _attributes(wanted: Sattr) -> Attributes:
    """As NFSv4 says it."""
    changes = changes_of(wanted)
    values: Attributes = {}
    if changes.mode is not None:
        values[Attribute.MODE] = changes.mode
    if wanted.uid is not None:
        values[Attribute.OWNER] = str(wanted.uid)
    if wanted.gid is not None:
        values[Attribute.OWNER_GROUP] = str(wanted.gid)
    if wanted.size is not None:
        values[Attribute.SIZE] = wanted.size
    for attribute, time_ns in (
        (Attribute.TIME_ACCESS_SET, wanted.atime),
        (Attribute.TIME_MODIFY_SET, wanted.mtime),
    ):
        if time_ns is not None:
            values[attribute] = None if time_ns == NOW else time_ns
    return values


async def mkdir(work: Work, args: MkdirArgs) -> CreateOk:
    directory, name = await _directory(work, args.where)
    wanted = changes_of(args.attributes)
    mode = _NEW_DIRECTORY if wanted.mode is None else wanted.mode
    node, attr = await directory.fs.mkdir(directory.node, name, mode)
    return await _made(work, directory, node, await _finished(directory, node, attr, wanted))


async def symlink(work: Work, args: SymlinkArgs) -> CreateOk:
    directory, name = await _directory(work, args.where)
    if not args.data or "\0" in args.data:
        raise Nfs3Error(Stat.INVAL)
    node, attr = await directory.fs.symlink(directory.node, name, args.data)
    wanted = changes_of(args.attributes)
    return await _made(work, directory, node, await _finished(directory, node, attr, wanted))


async def mknod(work: Work, args: MknodArgs) -> CreateOk:
    directory, name = await _directory(work, args.where)
    kind = _SPECIAL.get(args.what.type)
    if kind is None:
        raise Nfs3Error(Stat.BADTYPE)
    wanted = changes_of(args.what.attributes or Sattr())
    spec = args.what.spec
    rdev = os.makedev(spec.major, spec.minor) if spec is not None else 0
    mode = _NEW_FILE if wanted.mode is None else wanted.mode
    node, attr = await directory.fs.mknod(directory.node, name, kind, mode, rdev)
    return await _made(work, directory, node, await _finished(directory, node, attr, wanted))


async def _recall(work: Work, beside: Target, node: Node, attr: Attr) -> None:
    if attr.kind is FileKind.REGULAR:
        await recall(work.ctx, await work.ctx.server.tree.target(beside, node, attr))


async def remove(work: Work, args: DirOpArgs) -> Wcc:
    directory, name = await _directory(work, args)
    await _recall(work, directory, *await directory.fs.lookup(directory.node, name))
    directory.attr = None
    await directory.fs.unlink(directory.node, name)
    return Wcc(await work.wcc())


async def rmdir(work: Work, args: DirOpArgs) -> Wcc:
    directory, name = await _directory(work, args)
    directory.attr = None
    await directory.fs.rmdir(directory.node, name)
    return Wcc(await work.wcc())


async def rename(work: Work, args: RenameArgs) -> RenameRes:
    source, old = await _directory(work, args.source)
    target, new = await _directory(work, args.target)
    if source.export is not target.export:
        raise Nfs3Error(Stat.XDEV)
    moved = await source.fs.lookup(source.node, old)
    try:
        replaced = await target.fs.lookup(target.node, new)
    except FsError as error:
        if error.status is not Status.NOT_FOUND:
            raise
    else:
        if replaced[0] == moved[0]:
            return RenameRes(await work.wcc(0), await work.wcc(1))  # §3.3.14: nothing is done
        await _recall(work, target, *replaced)
    await _recall(work, source, *moved)
    source.attr = target.attr = None
    await target.fs.rename(source.node, old, target.node, new)
    return RenameRes(await work.wcc(0), await work.wcc(1))


async def link(work: Work, args: LinkArgs) -> LinkRes:
    file = await work.target(args.file)
    directory, name = await _directory(work, args.link)
    if file.export is not directory.export:
        raise Nfs3Error(Stat.XDEV)
    await recall(work.ctx, file)
    file.attr = directory.attr = None
    file.attr = await directory.fs.link(file.node, directory.node, name)
    return LinkRes(await work.post(), await work.wcc(1))


HANDLERS: Final[dict[int, Handler]] = {
    3: lookup,
    8: create,
    9: mkdir,
    10: symlink,
    11: mknod,
    12: remove,
    13: rmdir,
    14: rename,
    15: link,
}
