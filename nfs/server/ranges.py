"""What NFSv4.2 does with ranges of files inside the server: COPY, CLONE, SEEK, ALLOCATE, DEALLOCATE, READ_PLUS and
IO_ADVISE (RFC 7862 §15.2, §15.13, §15.11, §15.1, §15.4, §15.10, §15.5)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from quicfs.nfs.limits import MAX_COPY, MAX_IO, MAX_SEGMENTS
from quicfs.nfs.server.access import need_writable
from quicfs.nfs.server.io import borrow
from quicfs.nfs.v4.const import DataContent, Nfs4Error, Op, StableHow, Stat
from quicfs.nfs.v4.operations_io import (
    AllocateArgs,
    CloneArgs,
    CopyArgs,
    CopyRequirements,
    CopyResok,
    Data,
    DeallocateArgs,
    Hole,
    IoAdviseArgs,
    IoAdviseResok,
    ReadPlusArgs,
    ReadPlusResok,
    SeekArgs,
    SeekResok,
)
from quicfs.nfs.v4.types import StateId, WriteResponse
from quicfs.vfs.api import FsError, OpenFile, Status

if TYPE_CHECKING:
    from quicfs.nfs.server.context import Context, Handler, Target

__all__ = ["HANDLERS"]

_OFFSET_MAX: Final = (1 << 63) - 1
_SEGMENT_SIZE: Final = 20  # of a segment of READ_PLUS besides its data
_OF_READ_PLUS: Final = 16  # operation, status, eof, number of segments


async def _changed(ctx: Context, target: Target, file: OpenFile) -> None:
    """After the content of `target` was changed: nothing that was known of it holds."""
    target.attr = None
    state = ctx.server.files.get(target.raw)
    if state is not None:
        state.size = 0


def _need_range(offset: int, length: int) -> None:
    if not length:
        raise Nfs4Error(Stat.INVAL)
    if offset + length > _OFFSET_MAX:
        raise Nfs4Error(Stat.FBIG)


async def copy(ctx: Context, args: CopyArgs) -> CopyResok:
    """Within this server, before the reply is sent; perhaps less than was asked for (§15.2.3)."""
    source, target = ctx.need_saved(), ctx.need_current()
    if args.source_server:
        raise Nfs4Error(Stat.NOTSUPP)
    need_writable(target)
    if source.export is not target.export:
        raise Nfs4Error(Stat.XDEV)
    reader = await borrow(ctx, args.src_stateid, source, write=False)
    try:
        writer = await borrow(ctx, args.dst_stateid, target, write=True)
        try:
            count = await _copy_length(args, reader.file, source.raw == target.raw)
            done = 0
            while done < count:
                piece = min(count - done, MAX_COPY)
                moved = await target.fs.copy_range(
                    reader.file, args.src_offset + done, writer.file, args.dst_offset + done, piece
                )
                done += moved
                if not moved or args.count:
                    break
        finally:
            await _changed(ctx, target, writer.file)
            await writer.release()
    finally:
        await reader.release()
    response = WriteResponse(None, done, StableHow.UNSTABLE, ctx.server.files.write_verifier)
    return CopyResok(response, CopyRequirements(consecutive=True, synchronous=True))


async def _copy_length(args: CopyArgs, source: OpenFile, same: bool) -> int:
    """Bytes to be copied. INVAL past the end and where a file would be copied onto itself."""
    size = (await source.getattr()).size
    if args.src_offset > size or args.src_offset + args.count > _OFFSET_MAX:
        raise Nfs4Error(Stat.INVAL)
    count = min(args.count or size, size - args.src_offset)
    if args.dst_offset + count > _OFFSET_MAX:
        raise Nfs4Error(Stat.FBIG)
    if same and abs(args.src_offset - args.dst_offset) < count:
        raise Nfs4Error(Stat.INVAL)
    return count


async def clone(ctx: Context, args: CloneArgs) -> None:
    source, target = ctx.need_saved(), ctx.need_current()
    need_writable(target)
    if source.export is not target.export:
        raise Nfs4Error(Stat.XDEV)
    if max(args.src_offset, args.dst_offset) + args.count > _OFFSET_MAX:
        raise Nfs4Error(Stat.INVAL)
    reader = await borrow(ctx, args.src_stateid, source, write=False)
    try:
        writer = await borrow(ctx, args.dst_stateid, target, write=True)
        try:
            await target.fs.clone_range(
                reader.file, args.src_offset, writer.file, args.dst_offset, args.count
            )
        finally:
            await _changed(ctx, target, writer.file)
            await writer.release()
    finally:
        await reader.release()


async def allocate(ctx: Context, args: AllocateArgs) -> None:
    await _reserve(ctx, args.stateid, args.offset, args.length, punch_hole=False)


async def deallocate(ctx: Context, args: DeallocateArgs) -> None:
    await _reserve(ctx, args.stateid, args.offset, args.length, punch_hole=True)


async def _reserve(ctx: Context, stateid: StateId, offset: int, length: int, *, punch_hole: bool) -> None:
    target = ctx.need_current()
    need_writable(target)
    _need_range(offset, length)
    held = await borrow(ctx, stateid, target, write=True)
    try:
        await held.file.allocate(offset, length, punch_hole=punch_hole)
    finally:
        await _changed(ctx, target, held.file)
        await held.release()


async def seek(ctx: Context, args: SeekArgs) -> SeekResok:
    target = ctx.need_current()
    held = await borrow(ctx, args.stateid, target, write=False)
    try:
        size = (await held.file.getattr()).size
        if args.offset >= size:
            raise Nfs4Error(Stat.NXIO)  # §15.11.3
        found = await _next(held.file, args.offset, size, hole=args.what is DataContent.HOLE)
    finally:
        await held.release()
    return SeekResok(found >= size, found)


async def _next(file: OpenFile, offset: int, size: int, *, hole: bool) -> int:
    """Where data (or a hole) comes next, `size` where there is none. A file system that cannot tell has no holes."""
    try:
        return min(await file.seek_data(offset, hole=hole), size)
    except FsError as error:
        if error.status is Status.NO_DATA:
            return size
        if error.status is Status.NOT_SUPPORTED:
            return size if hole else offset
        raise


async def read_plus(ctx: Context, args: ReadPlusArgs) -> ReadPlusResok:
    """READ that tells holes instead of sending their zeros."""
    target = ctx.need_current()
    held = await borrow(ctx, args.stateid, target, write=False)
    contents: list[Data | Hole] = []
    try:
        size = (await held.file.getattr()).size
        position = args.offset
        end = min(position + min(args.count, MAX_IO), size)
        room = ctx.room - _OF_READ_PLUS
        while position < end and len(contents) < MAX_SEGMENTS:
            room -= _SEGMENT_SIZE
            start = await _next(held.file, position, size, hole=False)
            if start > position:
                length = min(start, end) - position
                contents.append(Hole(position, length))
            else:
                stop = min(await _next(held.file, position, size, hole=True), end)
                wanted = min(stop - position, room & ~3)
                if wanted <= 0:
                    break
                data = await held.file.read(position, wanted)
                length = len(data)
                if not length:
                    break  # it has become shorter
                room -= length + (-length & 3)
                contents.append(Data(position, data))
            position += length
    finally:
        await held.release()
    return ReadPlusResok(position >= size, contents)


async def io_advise(ctx: Context, args: IoAdviseArgs) -> IoAdviseResok:
    """Advice is heard, and none of it followed (§15.5.3): what is read ahead is the kernel's business."""
    await (await borrow(ctx, args.stateid, ctx.need_current(), write=False)).release()
    return IoAdviseResok(0)


HANDLERS: Final[dict[Op, Handler]] = {
    Op.COPY: copy,
    Op.CLONE: clone,
    Op.ALLOCATE: allocate,
    Op.DEALLOCATE: deallocate,
    Op.SEEK: seek,
    Op.READ_PLUS: read_plus,
    Op.IO_ADVISE: io_advise,
}
