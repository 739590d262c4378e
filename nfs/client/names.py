"""CREATE, LINK, REMOVE and RENAME (RFC 8881 §18): names come, go and change."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Final

from quicfs.nfs.client.attributes import KIND_TYPE, attr_of
from quicfs.nfs.client.channel import Operation
from quicfs.nfs.client.errors import CompoundFailed
from quicfs.nfs.client.nodes import NfsNode, split
from quicfs.nfs.client.requests import GETATTR, GETFH, RESTOREFH, SAVEFH, lookups, put
from quicfs.nfs.client.status import fs_error
from quicfs.nfs.client.walking import shown
from quicfs.nfs.v4.attributes import Attribute, Attributes
from quicfs.nfs.v4.const import FileType, Op, Stat
from quicfs.nfs.v4.operations_directories import (
    CreateArgs,
    CreateType,
    LinkArgs,
    LookupArgs,
    RemoveArgs,
    RenameArgs,
)
from quicfs.nfs.v4.operations_files import VerifyArgs
from quicfs.nfs.v4.types import SpecData
from quicfs.vfs.api import Attr, FileKind, Node
from quicfs.vfs.status import FsError, Status

if TYPE_CHECKING:
    from quicfs.nfs.client.filesystem import NfsFileSystem

__all__ = ["create", "link", "remove", "rename"]

_IS_DIRECTORY: Final = VerifyArgs({Attribute.TYPE: FileType.DIR})


def _split(path: str) -> tuple[list[str], str]:
    names = split(path)
    if not names:
        raise FsError(Status.INVALID, "an empty name")
    return names[:-1], names[-1]


async def create(
    fs: NfsFileSystem,
    directory: NfsNode,
    path: str,
    kind: FileKind,
    mode: int,
    *,
    target: str = "",
    rdev: int = 0,
) -> tuple[Node, Attr]:
    """Anything but a regular file."""
    way, name = _split(path)
    type_ = KIND_TYPE[kind]
    objtype = CreateType(type_)
    if type_ is FileType.LNK:
        objtype = CreateType(type_, linkdata=target)
    elif type_ in (FileType.BLK, FileType.CHR):
        objtype = CreateType(type_, devdata=SpecData(os.major(rdev), os.minor(rdev)))
    attrs: Attributes = {Attribute.MODE: mode & 0o7777}
    tail: list[Operation] = [(Op.CREATE, CreateArgs(objtype, name, attrs)), GETFH, GETATTR]
    try:
        values = await fs.walker.run(directory, way, tail, cache=True, again=False)
    except CompoundFailed as failed:
        if failed.index < 2:
            raise fs_error(failed, failed.what) from failed
        fh = failed.results[1].value.object  # it is made; only its attributes did not come
        node = fs.nodes.at(fh, 0, (directory, path))
        return node, await fs.getattr(node)
    attr = attr_of(values[2].attributes)
    return fs.nodes.at(values[1].object, attr.fileid, (directory, path)), attr


async def link(fs: NfsFileSystem, node: NfsNode, directory: NfsNode, path: str) -> Attr:
    way, name = _split(path)
    if way:
        directory, _ = await fs.walker.walk(directory, way)
    operations = [put(node), SAVEFH, put(directory), (Op.LINK, LinkArgs(name)), put(node), GETATTR]
    values = await fs.run(operations, f"{node.shown} as {shown(directory, [name])}", cache=True, again=False)
    return attr_of(values[5].attributes)


async def remove(fs: NfsFileSystem, directory: NfsNode, path: str, *, directory_wanted: bool) -> None:
    """REMOVE takes files and directories alike; what the name is, is looked at in the same COMPOUND. A name that
    becomes something else between the two operations is removed all the same, if it is empty."""
    way, name = _split(path)
    if await _removed_as_known(fs, directory, way, name, directory_wanted=directory_wanted):
        return
    check = Op.VERIFY if directory_wanted else Op.NVERIFY
    tail: list[Operation] = [
        SAVEFH,
        (Op.LOOKUP, LookupArgs(name)),
        GETFH,
        (check, _IS_DIRECTORY),
        RESTOREFH,
        (Op.REMOVE, RemoveArgs(name)),
    ]
    try:
        await fs.walker.run(directory, way, tail, cache=True, again=False)
    except CompoundFailed as failed:
        if failed.status is Stat.NOT_SAME:
            raise FsError(Status.NOT_DIR, failed.what + "/" + name) from failed
        if failed.status is Stat.SAME:
            raise FsError(Status.IS_DIR, failed.what + "/" + name) from failed
        if failed.status is Stat.EXIST:  # what some servers say of a directory with something in it
            raise FsError(Status.NOT_EMPTY, failed.what + "/" + name) from failed
        raise fs_error(failed, failed.what + "/" + name) from failed


async def _removed_as_known(
    fs: NfsFileSystem, directory: NfsNode, way: list[str], name: str, *, directory_wanted: bool
) -> bool:
    """REMOVE alone, if what the name is was seen just now."""
    node, rest = fs.caches.closest(directory, way)
    kind = None if rest else fs.caches.kind(node, name)
    if kind is None or (kind == FileType.DIR) is not directory_wanted:
        return False
    what = shown(directory, [*way, name])
    gone = fs.caches.name(node, name)
    attr = fs.caches.attr(gone) if isinstance(gone, NfsNode) else None
    try:
        await fs.compound([put(node), (Op.REMOVE, RemoveArgs(name))], what, cache=True, again=False)
    except CompoundFailed as failed:
        if failed.index:
            status = Stat.NOTEMPTY if failed.status is Stat.EXIST else failed.status
            raise fs_error(CompoundFailed(status, failed.results, what), what) from failed
        return False
    if isinstance(gone, NfsNode) and attr is not None and attr.nlink == 1:
        fs.unstable.removed(gone)
    return True


async def rename(
    fs: NfsFileSystem,
    source: NfsNode,
    path: str,
    target: NfsNode,
    new_path: str,
    *,
    replace: bool,
) -> None:
    """Atomic with `replace`. Without, NFS has no operation for it. A file gets the new name by LINK, which fails if the
    name is taken, and then loses the old one, in one COMPOUND: for a moment it has both. A directory is renamed
    after a look whether the name is free: an empty directory that somebody makes in between is replaced."""
    way, name = _split(path)
    new_way, new_name = _split(new_path)
    if not replace:
        await _rename_new(fs, source, way, name, target, new_way, new_name)
        return
    what = f"{shown(source, [*way, name])} to {shown(target, [*new_way, new_name])}"
    operation = (Op.RENAME, RenameArgs(name, new_name))
    source, way = fs.caches.closest(source, way)
    target, new_way = fs.caches.closest(target, new_way)
    try:
        operations = [put(source), *lookups(way), SAVEFH, put(target), *lookups(new_way), operation]
        await fs.compound(operations, what, cache=True, again=False)
    except CompoundFailed as failed:
        if not (way or new_way) or failed.status not in (Stat.SYMLINK, Stat.NOTDIR):
            raise fs_error(failed, what) from failed
        source, _ = await fs.walker.walk(source, way)
        target, _ = await fs.walker.walk(target, new_way)
        await fs.run([put(source), SAVEFH, put(target), operation], what, cache=True, again=False)


async def _rename_new(
    fs: NfsFileSystem,
    source: NfsNode,
    way: list[str],
    name: str,
    target: NfsNode,
    new_way: list[str],
    new_name: str,
) -> None:
    source, _ = await fs.walker.walk(source, way)
    target, _ = await fs.walker.walk(target, new_way)
    what = f"{shown(source, [name])} to {shown(target, [new_name])}"
    looked, attr = await fs.walker.look(source, name)
    if attr.kind is FileKind.DIRECTORY:
        try:
            await fs.walker.look(target, new_name)
        except FsError as error:
            if error.status is not Status.NOT_FOUND:
                raise
        else:
            raise FsError(Status.EXISTS, what)
        operation = (Op.RENAME, RenameArgs(name, new_name))
        await fs.run([put(source), SAVEFH, put(target), operation], what, cache=True, again=False)
        return
    await fs.run(
        [
            put(looked),
            SAVEFH,
            put(target),
            (Op.LINK, LinkArgs(new_name)),
            put(source),
            (Op.REMOVE, RemoveArgs(name)),
        ],
        what,
        cache=True,
        again=False,
    )
