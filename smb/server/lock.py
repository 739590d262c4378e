"""LOCK at the server ([MS-SMB2] §3.3.5.14)."""

from __future__ import annotations

from typing import Final

from quicfs.smb.errors import SmbError
from quicfs.smb.limits import MAX_LOCKS_PER_REQUEST
from quicfs.smb.messages.access import Access
from quicfs.smb.messages.lock import LockElement, LockFlags, LockRequest
from quicfs.smb.messages.simple import EMPTY_BODY
from quicfs.smb.ntstatus import NtStatus
from quicfs.smb.server.byte_locks import HeldLock
from quicfs.smb.server.opens import FileOpen
from quicfs.smb.server.request import Reply, Request
from quicfs.vfs import FsError, LockKind, Status

__all__ = ["handle_lock"]

_UNLOCK: Final = int(LockFlags.UNLOCK)
_IMMEDIATE: Final = int(LockFlags.FAIL_IMMEDIATELY)
_EXCLUSIVE: Final = int(LockFlags.EXCLUSIVE_LOCK)
_LOCKS: Final = (int(LockFlags.SHARED_LOCK), _EXCLUSIVE)
_DATA: Final = int(Access.FILE_READ_DATA | Access.FILE_WRITE_DATA | Access.FILE_APPEND_DATA)
_LAST_BYTE: Final = 1 << 64
_FS_END: Final = (1 << 63) - 1  # byte ranges of Unix files end here


async def handle_lock(request: Request) -> Reply:
    asked = LockRequest.parse(request.message)
    open_ = request.file(asked.file_id)
    open_.require(_DATA)
    open_.data()
    if len(asked.locks) > MAX_LOCKS_PER_REQUEST:
        raise SmbError(NtStatus.INSUFFICIENT_RESOURCES)
    for element in asked.locks:
        if element.offset + element.length > _LAST_BYTE:
            raise SmbError(NtStatus.INVALID_LOCK_RANGE)
    # §3.3.5.14: the first element tells what all of them are.
    if asked.locks[0].flags == _UNLOCK:
        await _unlock(open_, asked)
    else:
        await _lock(request, open_, asked)
    return Reply(EMPTY_BODY)


async def _unlock(open_: FileOpen, asked: LockRequest) -> None:
    for element in asked.locks:
        if element.flags != _UNLOCK:
            raise SmbError(NtStatus.INVALID_PARAMETER)
        open_.state.locks.remove(open_.owner, element.offset, element.length)
        await _give_up(open_, element)


async def _lock(request: Request, open_: FileOpen, asked: LockRequest) -> None:
    for element in asked.locks:
        if element.flags & ~_IMMEDIATE not in _LOCKS:
            raise SmbError(NtStatus.INVALID_PARAMETER)
        # §3.3.5.14.2: with several elements none may wait.
        if len(asked.locks) > 1 and not element.flags & _IMMEDIATE:
            raise SmbError(NtStatus.INVALID_PARAMETER)
    taken: list[tuple[LockElement, HeldLock]] = []
    try:
        for element in asked.locks:
            taken.append((element, await _take(request, open_, element)))
    except BaseException:
        for element, held in taken:
            open_.state.locks.discard(held)
            await _give_up(open_, element)
        raise


async def _take(request: Request, open_: FileOpen, element: LockElement) -> HeldLock:
    locks = open_.state.locks
    exclusive = bool(element.flags & _EXCLUSIVE)
    wait = not element.flags & _IMMEDIATE
    while True:
        held = locks.try_add(open_.owner, element.offset, element.length, exclusive=exclusive)
        if held is not None:
            break
        if not wait:
            raise SmbError(NtStatus.LOCK_NOT_GRANTED)
        async with request.waiting(open_):
            await locks.changed()
        if open_.closed:
            raise SmbError(NtStatus.RANGE_NOT_LOCKED)
    try:
        await _take_file(request, open_, element, exclusive=exclusive, wait=wait)
    except BaseException:
        locks.discard(held)
        raise
    return held


async def _take_file(
    request: Request, open_: FileOpen, element: LockElement, *, exclusive: bool, wait: bool
) -> None:
    """The same lock in the file system, for those who come to the file on another way."""
    length = min(element.length, _FS_END - element.offset)
    if length <= 0:
        return
    kind = LockKind.EXCLUSIVE if exclusive else LockKind.SHARED
    file = open_.data()
    try:
        await file.lock(element.offset, length, kind, owner=open_.owner)
    except FsError as error:
        if error.status is Status.NOT_SUPPORTED:
            return
        if error.status is not Status.LOCKED or not wait:
            raise
        async with request.waiting(open_):
            await file.lock(element.offset, length, kind, owner=open_.owner, wait=True)


async def _give_up(open_: FileOpen, element: LockElement) -> None:
    length = min(element.length, _FS_END - element.offset)
    if length > 0:
        await open_.unlock_file(element.offset, length)
