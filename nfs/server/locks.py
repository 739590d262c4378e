"""LOCK, LOCKT and LOCKU; FREE_STATEID and TEST_STATEID (RFC 8881 §18.10 to §18.12, §18.38, §18.48, §9).

A lock stateid stands for the locks of one lock owner on one file, taken under one open. What conflicts is decided by
`LockTable` for the clients of this server; the same lock is then taken on the open file of the tree, so that programs
of this machine and other servers of the same files see it, and we see theirs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, cast

from quicfs.nfs import limits
from quicfs.nfs.server.files import FileState, HeldFile, Holder
from quicfs.nfs.server.lock_table import END, Conflict, LockRange
from quicfs.nfs.server.opens import Open
from quicfs.nfs.server.stateids import ClientState, State, meant
from quicfs.nfs.v4.callback import CbNotifyLockArgs
from quicfs.nfs.v4.const import UINT64_MAX, CbOp, LockType, Nfs4Error, Op, ShareAccess, Stat
from quicfs.nfs.v4.operations_open import (
    ExistLockOwner,
    LockArgs,
    LockResok,
    LocktArgs,
    LockuArgs,
    LockuResok,
    OpenToLockOwner,
)
from quicfs.nfs.v4.operations_sessions import FreeStateidArgs, TestStateidArgs, TestStateidResok
from quicfs.nfs.v4.types import LockDenied, LockOwner, StateId
from quicfs.vfs.api import FileKind, FsError, LockKind, Status

if TYPE_CHECKING:
    from quicfs.nfs.server.context import Context, Handler

__all__ = ["HANDLERS", "LockState", "Locker", "Waiter"]

_EXCLUSIVE: Final = (LockType.WRITE, LockType.WRITEW)
_WAITING: Final = (LockType.READW, LockType.WRITEW)
_FS_END: Final = 1 << 63  # offsets of files of this machine end here


class Locker:
    """One lock owner and one file: the open file of the tree that carries its locks there."""

    __slots__ = ("_carrier", "_number", "file", "holder", "users")

    def __init__(self, file: FileState, holder: Holder) -> None:
        self.file = file
        self.holder = holder
        self.users = 0  # lock stateids
        self._number = next(file.files.lock_numbers)
        self._carrier: HeldFile | None = None

    async def take(self, held: HeldFile, start: int, end: int, *, exclusive: bool) -> None:
        """FsError: LOCKED."""
        carrier = self._carrier
        if carrier is None:
            carrier = self._carrier = held.share()
        elif exclusive and not carrier.writable:
            carrier = await self._move(held)
        # One that was opened for writing only cannot carry a shared lock.
        kind = LockKind.EXCLUSIVE if exclusive or not carrier.readable else LockKind.SHARED
        await self._set(carrier, start, end, kind)

    async def give(self, start: int, end: int) -> None:
        if self._carrier is not None:
            await self._set(self._carrier, start, end, LockKind.UNLOCK)

    async def close(self) -> None:
        """Nothing is locked any more."""
        carrier, self._carrier = self._carrier, None
        if carrier is not None:
            try:
                await self._set(carrier, 0, END, LockKind.UNLOCK)
            finally:
                await carrier.release()

    async def _move(self, held: HeldFile) -> HeldFile:
        """To a file that can be locked for writing. What is held so far is shared, so that both may hold it for a
        moment."""
        old = self._carrier
        assert old is not None
        self._carrier = held.share()
        for one in self.file.locks.ranges(self.holder):
            await self._set(held, one.start, one.end, LockKind.SHARED)
        await self._set(old, 0, END, LockKind.UNLOCK)
        await old.release()
        return held

    async def _set(self, carrier: HeldFile, start: int, end: int, kind: LockKind) -> None:
        if start >= _FS_END:
            return
        length = 0 if end >= _FS_END else end - start
        try:
            await carrier.file.lock(start, length, kind, owner=self._number)
        except FsError as error:
            if error.status is not Status.NOT_SUPPORTED:
                raise


class LockState(State):
    """What a lock stateid stands for."""

    __slots__ = ("_locker", "open", "owner")

    def __init__(self, opened: Open, owner: bytes, locker: Locker) -> None:
        super().__init__(opened.client, opened.file)
        self.open = opened
        self.owner = owner
        self._locker = locker
        locker.users += 1
        opened.locks[owner] = self
        opened.client.lock_owners += 1
        opened.client.files.lockers += 1

    @property
    def holder(self) -> Holder:
        return self.client, self.owner

    def io(self, *, write: bool) -> HeldFile:
        return self.open.io(write=write)

    @property
    def holds(self) -> bool:
        return self.file.locks.count(self.holder) > 0

    async def release(self) -> None:
        if self.open.locks.get(self.owner) is not self:
            return
        del self.open.locks[self.owner]
        self.client.lock_owners -= 1
        self.client.files.lockers -= 1
        await _leave(self._locker)


async def _leave(locker: Locker) -> None:
    """One stateid less; with the last one go the locks."""
    locker.users -= 1
    if locker.users > 0:
        return
    file = locker.file
    if file.lockers.get(locker.holder) is locker:
        del file.lockers[locker.holder]
    had = file.locks.remove(locker.holder)
    try:
        await locker.close()
    finally:
        if had:
            _wake(file)
        file.files.tidy(file)


# --- waiting


@dataclass(slots=True)
class Waiter:
    """A lock that was denied to one who wants to hear when it is worth another try (§20.11)."""

    holder: Holder
    wanted: LockRange


def _wait(file: FileState, holder: Holder, wanted: LockRange) -> None:
    waiter = Waiter(holder, wanted)
    if waiter in file.waiters:
        return
    if len(file.waiters) >= limits.MAX_LOCK_WAITERS:
        del file.waiters[0]  # it asks again anyway, from time to time
    file.waiters.append(waiter)


def _wake(file: FileState) -> None:
    """Tell those who wait and would get it now."""
    for waiter in list(file.waiters):
        wanted = waiter.wanted
        if file.locks.conflict(waiter.holder, wanted.start, wanted.end, exclusive=wanted.exclusive) is None:
            file.waiters.remove(waiter)
            file.files.spawn(_notify(file.raw, waiter.holder))


async def _notify(raw: bytes, holder: Holder) -> None:
    state, owner = holder
    args = CbNotifyLockArgs(raw, LockOwner(state.client.id, owner))
    try:
        await state.client.backchannel.call([(CbOp.NOTIFY_LOCK, args)])
    except ConnectionError:
        return  # §20.11.3: it is a hint; the client asks again by itself


# --- operations


def _range(offset: int, length: int) -> tuple[int, int]:
    """Start and end. INVAL (§18.10.3): no bytes, or more than there are offsets for."""
    if length == UINT64_MAX:
        return offset, END
    if length == 0 or offset + length > UINT64_MAX:
        raise Nfs4Error(Stat.INVAL)
    return offset, offset + length


def _denied(conflict: Conflict) -> Nfs4Error:
    state, owner = cast(Holder, conflict.owner)
    held = conflict.range
    length = UINT64_MAX if held.end == END else held.end - held.start
    kind = LockType.WRITE if held.exclusive else LockType.READ
    denied = LockDenied(held.start, length, kind, LockOwner(state.client.id, owner))
    return Nfs4Error(Stat.DENIED, result=denied)


def _denied_by_stranger(args: LockArgs | LocktArgs) -> Nfs4Error:
    """Held by a program that is no client of ours: which part of it, and how, cannot be told."""
    denied = LockDenied(args.offset, args.length, LockType.WRITE, LockOwner(0, b""))
    return Nfs4Error(Stat.DENIED, result=denied)


def _check_grace(ctx: Context, *, reclaim: bool) -> None:
    """§8.4.2.1, §18.51.3."""
    client = ctx.need_client()
    if reclaim:
        if not ctx.server.grace.may_reclaim(client):
            raise Nfs4Error(Stat.NO_GRACE)
    elif ctx.server.grace.active or not client.reclaim_complete:
        raise Nfs4Error(Stat.GRACE)


async def _conflict(ctx: Context, file: FileState, holder: Holder, wanted: LockRange) -> Conflict | None:
    """Of those who are still there."""
    while True:
        found = file.locks.conflict(holder, wanted.start, wanted.end, exclusive=wanted.exclusive)
        if found is None or not await file.files.expire_idle([cast(Holder, found.owner)[0]], ctx.now):
            return found


def _named(ctx: Context, args: LockArgs) -> tuple[Open, bytes]:
    """The open under which the lock is taken, and the owner."""
    state, raw = ctx.need_client().state, ctx.need_current().raw
    match args.locker:
        case OpenToLockOwner(open_stateid=stateid, lock_owner=owner):
            return state.find(meant(ctx, stateid), Open, raw), owner.owner
        case ExistLockOwner(lock_stateid=stateid):
            known = state.find(meant(ctx, stateid), LockState, raw)
            return known.open, known.owner
    raise Nfs4Error(Stat.BADXDR)


async def lock(ctx: Context, args: LockArgs) -> LockResok:
    """§18.10."""
    start, end = _range(args.offset, args.length)
    exclusive = args.locktype in _EXCLUSIVE
    opened, owner = _named(ctx, args)
    if not opened.access & (ShareAccess.WRITE if exclusive else ShareAccess.READ):
        raise Nfs4Error(Stat.OPENMODE)
    _check_grace(ctx, reclaim=args.reclaim)
    file, holder = opened.file, (opened.client, owner)
    wanted = LockRange(start, end, exclusive)
    async with file.lock_turn:
        if not opened.live:
            raise Nfs4Error(Stat.BAD_STATEID)
        found = await _conflict(ctx, file, holder, wanted)
        if found is not None:
            if args.reclaim:
                raise Nfs4Error(Stat.RECLAIM_CONFLICT)
            if args.locktype in _WAITING:
                _wait(file, holder, wanted)
            raise _denied(found)
        state = opened.locks.get(owner)
        if state is None and (
            opened.client.lock_owners >= limits.MAX_CLIENT_LOCK_OWNERS or file.files.crowded(opened.client)
        ):
            raise Nfs4Error(Stat.DELAY)
        if file.locks.count(holder) >= limits.MAX_LOCK_RANGES:
            raise Nfs4Error(Stat.DELAY)
        stateid = await _take(opened, holder, wanted, args)
    ctx.current_stateid = stateid
    return LockResok(stateid)


async def _take(opened: Open, holder: Holder, wanted: LockRange, args: LockArgs) -> StateId:
    file, owner = opened.file, holder[1]
    locker = file.lockers.get(holder)
    if locker is None:
        locker = file.lockers[holder] = Locker(file, holder)
    locker.users += 1  # as long as this takes
    try:
        # The rights were looked at: a file that was opened for writing only is locked for reading as well as it can.
        held = opened.writer if wanted.exclusive else opened.reader or opened.writer
        assert held is not None
        await locker.take(held, wanted.start, wanted.end, exclusive=wanted.exclusive)
        if not opened.live:
            raise Nfs4Error(Stat.BAD_STATEID)  # closed meanwhile
        file.locks.lock(holder, wanted.start, wanted.end, exclusive=wanted.exclusive)
        state = opened.locks.get(owner)
        if state is None:
            return LockState(opened, owner, locker).stateid
        return state.changed()
    except FsError as error:
        if error.status is not Status.LOCKED:
            raise
        raise _denied_by_stranger(args) from None
    finally:
        await _leave(locker)


async def locku(ctx: Context, args: LockuArgs) -> LockuResok:
    """§18.12: any part of what is locked, or more than that."""
    start, end = _range(args.offset, args.length)
    state = ctx.need_client().state.find(meant(ctx, args.stateid), LockState, ctx.need_current().raw)
    file = state.file
    async with file.lock_turn:
        if not state.live:
            raise Nfs4Error(Stat.BAD_STATEID)
        if file.locks.count(state.holder) > limits.MAX_LOCK_RANGES:
            raise Nfs4Error(Stat.DELAY)
        locker = file.lockers.get(state.holder)
        if locker is not None:
            await locker.give(start, end)
        if file.locks.unlock(state.holder, start, end):
            _wake(file)
        ctx.current_stateid = state.changed()
    return LockuResok(ctx.current_stateid)


async def lockt(ctx: Context, args: LocktArgs) -> None:
    """§18.11: as LOCK would be answered now."""
    target = ctx.need_current()
    attr = target.attr or await target.fs.getattr(target.node)
    if attr.kind is not FileKind.REGULAR:
        raise Nfs4Error(_NO_FILE.get(attr.kind, Stat.WRONG_TYPE))
    start, end = _range(args.offset, args.length)
    _check_grace(ctx, reclaim=False)
    file = ctx.server.files.get(target.raw)
    if file is None:
        return
    holder = ctx.need_client().state, args.owner.owner
    wanted = LockRange(start, end, args.locktype in _EXCLUSIVE)
    found = await _conflict(ctx, file, holder, wanted)
    if found is not None:
        raise _denied(found)
    if await _held_by_stranger(file, holder, wanted):
        raise _denied_by_stranger(args)


async def _held_by_stranger(file: FileState, holder: Holder, wanted: LockRange) -> bool:
    """Whether a program that is no client of ours has it, as far as that can be tried out: on a file that is open, and
    where the asker itself holds nothing."""
    held = file.any_held()
    if held is None or file.locks.overlaps(holder, wanted.start, wanted.end):
        return False
    if not (held.writable if wanted.exclusive else held.readable):
        return False
    locker = Locker(file, holder)
    async with file.lock_turn:
        try:
            await locker.take(held, wanted.start, wanted.end, exclusive=wanted.exclusive)
        except FsError as error:
            if error.status is not Status.LOCKED:
                raise
            return True
        finally:
            await locker.close()
    return False


_NO_FILE: Final = {FileKind.DIRECTORY: Stat.ISDIR, FileKind.SYMLINK: Stat.SYMLINK}


async def free_stateid(ctx: Context, args: FreeStateidArgs) -> None:
    """§18.38: a lock stateid without locks, or anything that was taken away."""
    client: ClientState = ctx.need_client().state
    state = client.states.get(args.stateid.other)
    if state is None:
        raise Nfs4Error(Stat.BAD_STATEID)
    if state.fault is None:
        client.any_kind(args.stateid)
        if state.holds:
            raise Nfs4Error(Stat.LOCKS_HELD)
        client.forget(state)
        await state.release()
    else:
        client.forget(state)


async def test_stateid(ctx: Context, args: TestStateidArgs) -> TestStateidResok:
    """§18.48."""
    client: ClientState = ctx.need_client().state
    return TestStateidResok([client.test(stateid) for stateid in args.stateids])


HANDLERS: Final[dict[Op, Handler]] = {
    Op.LOCK: lock,
    Op.LOCKT: lockt,
    Op.LOCKU: locku,
    Op.FREE_STATEID: free_stateid,
    Op.TEST_STATEID: test_stateid,
}
