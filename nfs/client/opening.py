"""OPEN (RFC 8881 §18.16): one COMPOUND finds, makes, cuts short and opens a file, and tells handle and attributes."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

from quicfs.nfs.client.attributes import attr_of
from quicfs.nfs.client.channel import Operation
from quicfs.nfs.client.errors import CompoundFailed
from quicfs.nfs.client.nodes import NfsNode, split
from quicfs.nfs.client.openfile import NfsOpenFile
from quicfs.nfs.client.requests import GETATTR, GETFH
from quicfs.nfs.client.status import fs_error
from quicfs.nfs.client.walking import shown
from quicfs.nfs.v4.attributes import Attribute, Attributes
from quicfs.nfs.v4.compound import Result
from quicfs.nfs.v4.const import CreateMode, Op, ShareDeny, Stat
from quicfs.nfs.v4.operations_files import SetattrArgs
from quicfs.nfs.v4.operations_open import ClaimFh, ClaimNull, CreateHow, OpenArgs
from quicfs.nfs.v4.types import CURRENT, OpenOwner
from quicfs.vfs.api import NOW, Attr, OpenFile, OpenFlags, SetAttr
from quicfs.vfs.status import FsError, Status

if TYPE_CHECKING:
    from quicfs.nfs.client.filesystem import NfsFileSystem

__all__ = ["open_file"]

_MODE_SET: Final = 1 << Attribute.MODE
_TIMES_SET: Final = (
    1 << Attribute.TIME_ACCESS
    | 1 << Attribute.TIME_MODIFY
    | (1 << Attribute.TIME_ACCESS_SET | 1 << Attribute.TIME_MODIFY_SET)
)
_MAX_LINKS: Final = 40
_EMPTY: Final[Attributes] = {Attribute.SIZE: 0}


async def open_file(
    fs: NfsFileSystem, directory: NfsNode, path: str, flags: OpenFlags, mode: int
) -> tuple[OpenFile, Attr, bool]:
    names = split(path)
    if names:
        await fs.behind.flush_named(names[-1])
    else:
        await fs.behind.flush(directory)
    if not flags & (OpenFlags.EXCLUSIVE | OpenFlags.TRUNCATE):
        opened = await _open_locally(fs, directory, path, flags)
        if opened is not None:
            return opened
    for _ in range(_MAX_LINKS):
        file = fs.new_file(flags)
        try:
            return await _open(fs, file, directory, names, mode)
        except CompoundFailed as failed:
            what = shown(directory, names)
            if failed.status is not Stat.SYMLINK:
                raise _refused(failed, what) from failed
            if OpenFlags.NOFOLLOW in flags:
                raise FsError(Status.LOOP, what) from failed
            if OpenFlags.EXCLUSIVE in flags:
                raise FsError(Status.EXISTS, what) from failed
        directory, names = await _behind_link(fs, directory, names)
    raise FsError(Status.LOOP, path)


async def _open_locally(
    fs: NfsFileSystem, directory: NfsNode, path: str, flags: OpenFlags
) -> tuple[OpenFile, Attr, bool] | None:
    """Under a delegation that we hold; None if there is no such."""
    file = fs.new_file(flags)
    held = fs.delegations.local((directory, path), fs.credential, file.access)
    if held is None:
        return None
    file.opened_locally(held)
    fs.keep(file)
    try:
        return file, await file.getattr(), False
    except BaseException:
        await file.close()
        raise


def _refused(failed: CompoundFailed, what: str) -> FsError:
    if failed.status in (Stat.WRONG_TYPE, Stat.INVAL) and failed.index == 0:
        return FsError(Status.INVALID, f"{what} is no regular file")
    return fs_error(failed, what)


async def _behind_link(fs: NfsFileSystem, directory: NfsNode, names: list[str]) -> tuple[NfsNode, list[str]]:
    """Where the symbolic link leads that the path ends in: a directory and what to open there."""
    here = directory
    if len(names) > 1:
        here, _ = await fs.walker.walk(directory, names[:-1])
    node, _ = await fs.walker.look(here, names[-1])
    target = await fs.walker.readlink(node)
    if target.startswith("/"):
        raise FsError(Status.CROSS_DEVICE, f"{shown(directory, names)} leads out of the export")
    parts = [name for name in target.split("/") if name not in ("", ".")]
    if not parts or parts[-1] == "..":
        raise FsError(Status.IS_DIR, shown(directory, names))
    if len(parts) > 1:
        here, _ = await fs.walker.walk(here, parts[:-1])
    return here, [parts[-1]]


def _how(flags: OpenFlags, mode: int) -> CreateHow | None:
    if OpenFlags.CREATE not in flags:
        return None
    attrs: Attributes = {Attribute.MODE: mode & 0o7777}
    if OpenFlags.EXCLUSIVE in flags:
        # Also when the reply is lost with the server itself, the second try knows the file for its own (§18.16.3).
        return CreateHow(CreateMode.EXCLUSIVE4_1, attrs, os.urandom(8))
    if OpenFlags.TRUNCATE in flags:
        attrs = {Attribute.SIZE: 0, **attrs}
    return CreateHow(CreateMode.UNCHECKED, attrs)


async def _open(
    fs: NfsFileSystem, file: NfsOpenFile, directory: NfsNode, names: list[str], mode: int
) -> tuple[OpenFile, Attr, bool]:
    flags = file.flags
    claim = ClaimNull(names[-1]) if names else ClaimFh()
    how = _how(flags, mode) if names else None
    access = file.access | fs.delegations.want
    args = OpenArgs(0, access, ShareDeny.NONE, OpenOwner(0, file.owner), how, claim)
    operations: list[Operation] = [(Op.OPEN, args), GETFH]
    cut = OpenFlags.TRUNCATE in flags and how is None
    exclusive = how is not None and how.mode is CreateMode.EXCLUSIVE4_1
    if cut:
        operations.append((Op.SETATTR, SetattrArgs(CURRENT, _EMPTY)))
    operations.append(GETATTR)

    def orphaned(results: Sequence[Result]) -> None:
        """Nobody wants it any more."""
        opened = [result.value for result in results if result.op is Op.OPEN and result.status is Stat.OK]
        handles = [result.value for result in results if result.op is Op.GETFH and result.status is Stat.OK]
        if opened and handles:
            fs.poster.post_close(handles[0].object, opened[0].stateid, fs.credential)
            fs.delegations.unwanted(handles[0].object, opened[0].delegation)

    rest: CompoundFailed | None = None
    fs.delegations.opening()
    try:
        values = await fs.walker.run(directory, names[:-1], operations, cache=True, orphaned=orphaned)
    except CompoundFailed as failed:
        if failed.index < 2:
            raise
        rest, values = failed, [result.value for result in failed.results[:-1]]
    finally:
        fs.delegations.answered()
    opened, fh = values[0], values[1].object
    place = (directory, "/".join(names)) if names else None
    attr = attr_of(values[-1].attributes) if rest is None else None
    node = fs.nodes.at(fh, attr.fileid if attr is not None else 0, place)
    file.opened(node, opened.stateid, fs.uplink.generation)
    fs.keep(file)
    fs.delegations.opened(file, place, opened.delegation)
    try:
        # (nfs-ganesha names the attributes also of a file that it found.)
        changed = opened.cinfo.before != opened.cinfo.after
        created = how is not None and bool(opened.attrset & _MODE_SET) and changed
        if exclusive:
            created = True
            attr = await _finish_exclusive(file, attr, opened.attrset, mode)
        elif rest is not None and cut and rest.index == 2:
            attr = await file.setattr(SetAttr(size=0))
        if cut or (OpenFlags.TRUNCATE in flags and not created):
            fs.unstable.cut(node, 0, 1 << 63)
        if attr is None:
            attr = await file.getattr()
    except BaseException:
        await file.close()
        raise
    node.fileid = node.fileid or attr.fileid
    return file, attr, created


async def _finish_exclusive(file: NfsOpenFile, attr: Attr | None, attrset: int, mode: int) -> Attr | None:
    """A server may have kept the verifier in attributes, and says which (§18.16.3): they are set now. Not in the
    request that created it: that may have to be repeated, and the verifier is what it is known by."""
    wanted: dict[str, Any] = {}
    if not attrset & _MODE_SET and (attr is None or attr.mode != mode & 0o7777):
        wanted["mode"] = mode & 0o7777
    if attrset & _TIMES_SET:
        wanted["atime_ns"] = wanted["mtime_ns"] = NOW  # it may wait for what comes next
    return await file.setattr(SetAttr(**wanted)) if wanted else attr
