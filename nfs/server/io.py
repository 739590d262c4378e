"""READ, WRITE and COMMIT (RFC 8881 §18.22, §18.32, §18.3), and which open file a stateid stands for (§9.1.2).

What was answered FILE_SYNC, DATA_SYNC or OK to COMMIT is on disk, with the name of a file that was just made. What was
answered UNSTABLE is lost when the server is; its verifier is another one then.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from quicfs.nfs import limits
from quicfs.nfs.server.creating import need_regular
from quicfs.nfs.server.files import FileState, HeldFile
from quicfs.nfs.server.stateids import is_special, meant
from quicfs.nfs.v4.const import Nfs4Error, Op, StableHow, Stat
from quicfs.nfs.v4.operations_io import CommitArgs, CommitResok, ReadArgs, ReadResok, WriteArgs, WriteResok
from quicfs.nfs.v4.types import ANONYMOUS, READ_BYPASS, StateId
from quicfs.vfs.api import OpenFlags
from quicfs.vfs.status import FsError, Status

if TYPE_CHECKING:
    from quicfs.nfs.server.context import Context, Handler, Target

__all__ = ["HANDLERS", "borrow", "check_anonymous"]

_OFFSETS: Final = (1 << 63) - 1  # the largest offset of a file of this machine
_READ_OVERHEAD: Final = 16  # operation, status, eof, length
_PADDING: Final = 3


def _held(ctx: Context, stateid: StateId, raw: bytes, *, write: bool) -> tuple[HeldFile, FileState] | None:
    """The open file behind a stateid; None for the special ones, which stand for none."""
    client = ctx.client
    if client is not None:
        states = client.state
        state = states.states.get(stateid.other)
        if state is None and is_special(stateid):
            stateid = meant(ctx, stateid)
            state = states.states.get(stateid.other)
        if state is not None:
            if state.fault is not None or stateid.seqid != state.seqid or state.file.raw != raw:
                state = states.any_kind(stateid, raw)
            return state.io(write=write), state.file
    # §8.2.3: other values of that kind mean nothing.
    if stateid not in (ANONYMOUS, READ_BYPASS):
        raise Nfs4Error(Stat.BAD_STATEID)
    return None


async def borrow(ctx: Context, stateid: StateId, target: Target, *, write: bool) -> HeldFile:
    """The open file behind a stateid, or one opened just now for a special stateid, with the rights of the caller and
    against what opens and delegations of others forbid (LOCKED, DELAY, GRACE). To be released by the one who asked."""
    found = _held(ctx, stateid, target.raw, write=write)
    if found is not None:
        held, file = found
        if write:
            _changed(ctx, file)
        return held.share()
    await check_anonymous(ctx, target, write=write, bypass=stateid == READ_BYPASS)
    attr = target.attr or await target.fs.getattr(target.node)
    need_regular(attr)
    file_, _, _ = await target.fs.open(target.node, "", OpenFlags.WRITE if write else OpenFlags.READ)
    return HeldFile(file_, readable=not write, writable=write)


async def check_anonymous(ctx: Context, target: Target, *, write: bool, bypass: bool = False) -> None:
    """Whether the file may be read or written without an open of one's own now."""
    if ctx.server.grace.active:
        raise Nfs4Error(Stat.GRACE)  # §8.4.2.1: what is not reclaimed yet may forbid it
    # §8.2.3: READ bypass goes past denials, and is the anonymous one for everything else.
    if write or not bypass:
        await ctx.server.files.conflicts(target, write=write, by=ctx.client)
    else:
        await ctx.server.files.recall(target, for_write=False, by=ctx.client)
    if write and (target.export is None or target.export.read_only):
        raise Nfs4Error(Stat.ROFS)


def _changed(ctx: Context, file: FileState) -> None:
    if file.delegations and ctx.client is not None:
        own = file.delegations.get(ctx.client.state)
        if own is not None:
            own.touched()


async def read(ctx: Context, args: ReadArgs) -> ReadResok:
    """§18.22. Fewer bytes than asked for, before the end of the file, when the reply has no room for more."""
    target = ctx.need_current()
    found = _held(ctx, args.stateid, target.raw, write=False)
    count = min(args.count, limits.MAX_IO)
    room = ctx.room - _READ_OVERHEAD - _PADDING
    if count > room:
        count = max(room, 0)
    if found is None:
        held = await borrow(ctx, args.stateid, target, write=False)
        try:
            return await _read(held, None, args.offset, count)
        finally:
            await held.release()
    return await _read(*found, args.offset, count)


async def _read(held: HeldFile, file: FileState | None, offset: int, count: int) -> ReadResok:
    if offset > _OFFSETS:
        return ReadResok(True, b"")
    data = await held.file.read(offset, count)
    length = len(data)
    if length < count:
        return ReadResok(True, data)
    # All that was asked for: whether more follows is known without asking as long as the file does not shrink. A client
    # that hears of no end reads on, and finds it.
    end = offset + length
    if file is not None and end < file.size:
        return ReadResok(False, data)
    size = (await held.file.getattr()).size
    if file is not None:
        file.size = size
    return ReadResok(end >= size, data)


async def write(ctx: Context, args: WriteArgs) -> WriteResok:
    """§18.32."""
    target = ctx.need_current()
    target.attr = None
    data = args.data
    if args.offset + len(data) > _OFFSETS:
        raise Nfs4Error(Stat.FBIG)
    found = _held(ctx, args.stateid, target.raw, write=True)
    if found is None:
        held = await borrow(ctx, args.stateid, target, write=True)
        try:
            count = await _write(ctx, held, None, args)
        finally:
            await held.release()
    else:
        held, file = found
        if file.delegations:
            _changed(ctx, file)
        count = await _write(ctx, held, file, args)
    return WriteResok(count, args.stable, ctx.server.files.write_verifier)


async def _write(ctx: Context, held: HeldFile, file: FileState | None, args: WriteArgs) -> int:
    if args.stable is StableHow.UNSTABLE:
        return await held.file.write(args.offset, args.data)
    try:
        if args.stable is StableHow.DATA_SYNC:
            count = await held.file.write(args.offset, args.data, stable=True)
        else:
            count = await held.file.write(args.offset, args.data)
            await held.file.fsync()
        if file is not None:
            await file.sync_name()
    except FsError:
        ctx.server.files.new_verifier()
        raise
    return count


async def commit(ctx: Context, args: CommitArgs) -> CommitResok:
    """§18.3, of the whole file, whatever part was asked for."""
    target = ctx.need_current()
    if args.offset + args.count > 1 << 64:
        raise Nfs4Error(Stat.INVAL)
    files = ctx.server.files
    verifier = files.write_verifier
    file = files.get(target.raw)
    held = None if file is None else file.any_held()
    try:
        if held is None or file is None:
            need_regular(target.attr or await target.fs.getattr(target.node))
            await target.fs.fsync(target.node)
        else:
            held.share()
            try:
                await held.file.fsync()
            finally:
                await held.release()
            await file.sync_name()
    except FsError as error:
        # What the disk has refused once it may claim to have the next time. Of a file that is gone it says nothing.
        if error.status not in (Status.STALE, Status.NOT_FOUND):
            files.new_verifier()
        raise
    # The one from before: what was written while we waited may not be there.
    return CommitResok(verifier)


HANDLERS: Final[dict[Op, Handler]] = {Op.READ: read, Op.WRITE: write, Op.COMMIT: commit}
