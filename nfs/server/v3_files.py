"""NFSv3 on objects: attributes, data, and what their file system is like (RFC 1813 §3.3)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from quicfs.nfs.limits import MAX_IO, MAX_LISTING
from quicfs.nfs.server import access as access_rules
from quicfs.nfs.server.access import need_writable
from quicfs.nfs.server.delegations import seen_by_others
from quicfs.nfs.server.directories import recall
from quicfs.nfs.server.files import HeldFile
from quicfs.nfs.server.io import borrow, check_anonymous
from quicfs.nfs.server.v3_call import Handler, Nfs3Error, Work
from quicfs.nfs.v3.nfs3 import (
    AccessArgs,
    AccessOk,
    CommitArgs,
    CommitOk,
    FileArgs,
    FsinfoOk,
    FsstatOk,
    GetattrOk,
    PathconfOk,
    ReadArgs,
    ReadlinkOk,
    ReadOk,
    SetattrArgs,
    Wcc,
    WriteArgs,
    WriteOk,
)
from quicfs.nfs.v3.types import FsProperty, Sattr, StableHow, Stat
from quicfs.nfs.v4.types import ANONYMOUS
from quicfs.vfs.api import FileKind, FsError, OpenFlags, SetAttr, Status

if TYPE_CHECKING:
    from quicfs.nfs.server.context import Target

__all__ = ["HANDLERS", "changes_of", "resize"]

_OFFSET_MAX: Final = (1 << 63) - 1
_MODE_MAX: Final = 0o7777
_BLOCK: Final = 4096
_LINK_MAX: Final = 65000  # what the strictest of the usual file systems allows


async def getattr_(work: Work, args: FileArgs) -> GetattrOk:
    target = await work.target(args.object)
    assert target.attr is not None
    attr = await seen_by_others(work.ctx, target, target.attr)
    return GetattrOk(work.fattr(target, attr))


def changes_of(wanted: Sattr) -> SetAttr:
    """What is to be set besides the size. INVAL for what no object can have."""
    if wanted.size is not None and wanted.size > _OFFSET_MAX:
        raise Nfs3Error(Stat.FBIG)
    mode = None if wanted.mode is None else wanted.mode & _MODE_MAX  # clients send the type, too
    return SetAttr(mode=mode, uid=wanted.uid, gid=wanted.gid, atime_ns=wanted.atime, mtime_ns=wanted.mtime)


async def setattr_(work: Work, args: SetattrArgs) -> Wcc:
    target = await work.target(args.object)
    need_writable(target)
    assert target.attr is not None
    if args.guard is not None and args.guard != target.attr.ctime_ns:
        raise Nfs3Error(Stat.NOT_SYNC)
    changes = changes_of(args.new_attributes)
    size = args.new_attributes.size
    if size is not None:
        await resize(work, target, size)
    elif target.attr.kind is FileKind.REGULAR:
        await recall(work.ctx, target)
    if changes != SetAttr():
        target.attr = None
        target.attr = await target.fs.setattr(target.node, changes)
    return Wcc(await work.wcc())


async def resize(work: Work, target: Target, size: int) -> None:
    held = await _opened(work, target, write=True)
    target.attr = None
    try:
        target.attr = await held.file.setattr(SetAttr(size=size))
    finally:
        _changed(work, target)
        await held.release()


async def access(work: Work, args: AccessArgs) -> AccessOk:
    target = await work.target(args.object)
    _, allowed = await access_rules.granted(work.ctx, target, args.access & 0x3F, xattrs=False)
    return AccessOk(await work.post(), allowed)


async def readlink(work: Work, args: FileArgs) -> ReadlinkOk:
    target = await work.target(args.object)
    assert target.attr is not None
    if target.attr.kind is not FileKind.SYMLINK:
        raise Nfs3Error(Stat.INVAL)
    return ReadlinkOk(await work.post(), await target.fs.readlink(target.node))


# --- data


async def _opened(work: Work, target: Target, *, write: bool) -> HeldFile:
    """The file for one call, against what opens and delegations of NFSv4 forbid. To be released."""
    ctx, export = work.ctx, target.export
    if export is None:
        raise Nfs3Error(Stat.ISDIR)
    caller, recent = ctx.caller_for(export), ctx.server.recent
    held = recent.find(target.raw, caller, write=write, now=ctx.now)
    if held is None:
        held = await _open_now(work, target, write=write)
        await recent.keep(target.raw, caller, held, write=write, now=ctx.now)
        return held
    try:
        await check_anonymous(ctx, target, write=write)
    except BaseException:
        await held.release()
        raise
    return held


async def _open_now(work: Work, target: Target, *, write: bool) -> HeldFile:
    """The owner gets in whatever the mode says: there is no OPEN here, so it may have been changed since the client
    opened the file (§4.4)."""
    try:
        return await borrow(work.ctx, ANONYMOUS, target, write=write)
    except FsError as error:
        attr, export = target.attr, target.export
        if error.status is not Status.ACCESS or attr is None or export is None:
            raise
        if attr.uid != work.ctx.caller_for(export).uid:
            raise
        flags = OpenFlags.WRITE if write else OpenFlags.READ
        file, _, _ = await export.file_system.open(target.node, "", flags)
        return HeldFile(file, readable=not write, writable=write)


def _changed(work: Work, target: Target) -> None:
    """The size that opens of NFSv4 remember does not hold any more."""
    state = work.ctx.server.files.get(target.raw)
    if state is not None:
        state.size = 0


async def read(work: Work, args: ReadArgs) -> ReadOk:
    target = await work.target(args.file)
    held = await _opened(work, target, write=False)
    try:
        data: bytes | memoryview = b""
        if args.offset <= _OFFSET_MAX:
            data = await held.file.read(args.offset, min(args.count, MAX_IO))
        attr = target.attr = await held.file.getattr()
    finally:
        await held.release()
    eof = args.offset + len(data) >= attr.size
    return ReadOk(work.fattr(target, attr), len(data), eof, data)


async def write(work: Work, args: WriteArgs) -> WriteOk:
    target = await work.target(args.file)
    need_writable(target)
    data = args.data[: args.count]
    if len(data) != args.count:
        raise Nfs3Error(Stat.INVAL)
    if args.offset + len(data) > _OFFSET_MAX:
        raise Nfs3Error(Stat.FBIG)
    files = work.ctx.server.files
    held = await _opened(work, target, write=True)
    try:
        count = await held.file.write(args.offset, data, stable=args.stable is StableHow.DATA_SYNC)
        if args.stable is StableHow.FILE_SYNC:
            await held.file.fsync()
        target.attr = await held.file.getattr()
    except FsError:
        files.new_verifier()
        raise
    finally:
        _changed(work, target)
        await held.release()
    return WriteOk(await work.wcc(), count, args.stable, files.write_verifier)


async def commit(work: Work, args: CommitArgs) -> CommitOk:
    """Of the whole file, whatever part was asked for."""
    target = await work.target(args.file)
    files = work.ctx.server.files
    verifier = files.write_verifier
    try:
        await target.fs.fsync(target.node)
    except FsError:
        files.new_verifier()
        raise
    return CommitOk(await work.wcc(), verifier)


# --- file systems


async def fsstat(work: Work, args: FileArgs) -> FsstatOk:
    target = await work.target(args.object)
    found = await target.fs.statfs()
    size = found.block_size
    return FsstatOk(
        await work.post(), found.blocks * size, found.blocks_free * size, found.blocks_available * size,
        found.files, found.files_free, found.files_free, 0,
    )  # fmt: skip


async def fsinfo(work: Work, args: FileArgs) -> FsinfoOk:
    await work.target(args.object)
    properties = FsProperty.LINK | FsProperty.SYMLINK | FsProperty.HOMOGENEOUS | FsProperty.CANSETTIME
    return FsinfoOk(
        await work.post(), MAX_IO, MAX_IO, _BLOCK, MAX_IO, MAX_IO, _BLOCK, min(MAX_IO, MAX_LISTING),
        _OFFSET_MAX, 1, properties,
    )  # fmt: skip


async def pathconf(work: Work, args: FileArgs) -> PathconfOk:
    target = await work.target(args.object)
    found = await target.fs.statfs()
    return PathconfOk(
        await work.post(), _LINK_MAX, found.name_max, no_trunc=True, chown_restricted=True,
        case_insensitive=False, case_preserving=True,
    )  # fmt: skip


HANDLERS: Final[dict[int, Handler]] = {
    1: getattr_,
    2: setattr_,
    4: access,
    5: readlink,
    6: read,
    7: write,
    18: fsstat,
    19: fsinfo,
    20: pathconf,
    21: commit,
}
