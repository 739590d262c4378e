"""LOCK and LOCKU of an open file (RFC 8881 §18.10, §18.12)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from quicfs.nfs import limits
from quicfs.nfs.client.channel import Operation
from quicfs.nfs.client.errors import CompoundFailed
from quicfs.nfs.client.locks import (
    END,
    LOCK_TYPES,
    WAITING_TYPES,
    LockOwnerState,
    check_range,
    length_of,
)
from quicfs.nfs.client.requests import put
from quicfs.nfs.client.status import LOST_STATE, fs_error
from quicfs.nfs.client.tries import Tries
from quicfs.nfs.v4.compound import Result
from quicfs.nfs.v4.const import LockType, Op, Stat
from quicfs.nfs.v4.operations_open import ExistLockOwner, LockArgs, LockuArgs, OpenToLockOwner
from quicfs.nfs.v4.operations_sessions import FreeStateidArgs
from quicfs.nfs.v4.types import LockOwner, StateId
from quicfs.vfs.api import LockKind
from quicfs.vfs.status import FsError, Status

if TYPE_CHECKING:
    from quicfs.nfs.client.openfile import NfsOpenFile

__all__ = ["lock", "reclaims", "releases"]

_FIRST_POLL_S: Final = 0.02
_LONGEST_POLL_S: Final = 1.0


async def lock(
    file: NfsOpenFile, offset: int, length: int, kind: LockKind, owner: int, *, wait: bool
) -> None:
    end = check_range(offset, length)
    if kind is LockKind.UNLOCK:
        await _unlock(file, offset, end, owner)
        return
    state = file.locks.owner(owner)
    if len(state.ranges) >= limits.LOCK_RANGES:
        raise FsError(Status.NO_RESOURCES, "too many locks of one owner")
    delay = _FIRST_POLL_S
    while not await _try(file, state, offset, end, kind, wait=wait):
        if not wait:
            raise FsError(Status.LOCKED, file.shown)
        # The server may tell (CB_NOTIFY_LOCK), but need not (§18.10.4).
        await file.fs.wait_for_lock(state.name, delay)
        delay = min(2 * delay, _LONGEST_POLL_S)


async def _try(
    file: NfsOpenFile, state: LockOwnerState, start: int, end: int, kind: LockKind, *, wait: bool
) -> bool:
    """False when another owner is in the way."""
    kinds = WAITING_TYPES if wait else LOCK_TYPES

    def orphaned(results: Sequence[Result]) -> None:
        """Nobody waits for it any more: give it back."""
        if results and results[-1].op is Op.LOCK and results[-1].status is Stat.OK:
            granted(state, results[-1].value.stateid)
            file.fs.spawn(_unlock(file, start, end, owner_number(state)))

    async with state.turn:
        tries = Tries(file)
        while True:
            stateid = await file.stateid()
            if state.lost:
                raise FsError(Status.IO, f"{file.shown}: its lock was lost while the server was away")
            mine = state.stateid
            args = _lock_args(state, stateid, kinds[kind], start, end, reclaim=False)
            try:
                values = await file.fs.compound(
                    [put(file.nfs_node), (Op.LOCK, args)], file.shown, cache=True, orphaned=orphaned
                )
            except CompoundFailed as failed:
                if failed.status is Stat.DENIED:
                    return False
                if not tries.again(failed.status):
                    raise fs_error(failed, file.shown) from failed
                if mine is not None and state.stateid is mine and not state.ranges:
                    state.stateid = None  # the server forgot an owner without locks, as it may
                else:
                    file.forgotten(stateid)
                continue
            granted(state, values[1].stateid)
            state.remember(start, end, kind)
            return True


def granted(state: LockOwnerState, stateid: StateId) -> None:
    state.stateid = StateId(0, stateid.other)


def owner_number(state: LockOwnerState) -> int:
    return int(state.name.rpartition(b".")[2])


def _lock_args(
    state: LockOwnerState, open_stateid: StateId, kind: LockType, start: int, end: int, *, reclaim: bool
) -> LockArgs:
    locker: ExistLockOwner | OpenToLockOwner
    if state.stateid is not None:
        locker = ExistLockOwner(state.stateid, 0)
    else:
        locker = OpenToLockOwner(0, open_stateid, 0, LockOwner(0, state.name))
    return LockArgs(kind, reclaim, start, length_of(start, end), locker)


async def _unlock(file: NfsOpenFile, start: int, end: int, owner: int) -> None:
    state = file.locks.known(owner)
    if state is None:
        return
    async with state.turn:
        state.lost = False  # who gives locks back has no use for the news any more
        if state.stateid is None:
            state.remember(start, end, LockKind.UNLOCK)
            return
        args = LockuArgs(LockType.WRITE, 0, state.stateid, start, length_of(start, end))
        try:
            await file.fs.compound([put(file.nfs_node), (Op.LOCKU, args)], file.shown, cache=True)
        except CompoundFailed as failed:
            if failed.status not in LOST_STATE:
                raise fs_error(failed, file.shown) from failed
            state.stateid = None
        state.remember(start, end, LockKind.UNLOCK)


def releases(owners: Sequence[LockOwnerState]) -> list[Operation]:
    """Before CLOSE: give back every lock, and what the server remembers of its owner (§18.38)."""
    operations: list[Operation] = []
    for state in owners:
        assert state.stateid is not None
        if state.ranges:
            operations.append((Op.LOCKU, LockuArgs(LockType.WRITE, 0, state.stateid, 0, length_of(0, END))))
        operations.append((Op.FREE_STATEID, FreeStateidArgs(state.stateid)))
    return operations


def reclaims(state: LockOwnerState, open_stateid: StateId, start: int, end: int, kind: LockKind) -> Operation:
    """After the server restarted: the lock that we held (§8.4.2.1)."""
    return Op.LOCK, _lock_args(state, open_stateid, LOCK_TYPES[kind], start, end, reclaim=True)
