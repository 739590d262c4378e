"""Byte-range locks of one open file. SMB unlocks only what was locked, range by range; POSIX any part."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from quicfs.smb.client.operation import Operation
from quicfs.smb.client.session import Session
from quicfs.smb.errors import SmbError
from quicfs.smb.messages.header import Command
from quicfs.smb.messages.lock import LockElement, LockFlags, LockRequest
from quicfs.vfs.api import LockKind
from quicfs.vfs.status import FsError, Status

__all__ = ["LockTable"]

_END: Final = (1 << 64) - 1  # length 0 of the contract: up to the end
MAX_RANGES: Final = 4096


@dataclass(frozen=True, slots=True)
class _Held:
    start: int
    end: int  # after the last byte
    kind: LockKind
    owner: int

    def element(self, flags: int) -> LockElement:
        return LockElement(self.start, self.end - self.start, flags)


_FLAGS: Final = {LockKind.SHARED: LockFlags.SHARED_LOCK, LockKind.EXCLUSIVE: LockFlags.EXCLUSIVE_LOCK}


class LockTable:
    """What this open holds at the server, by owner. The server sees all owners of one open as one."""

    def __init__(self) -> None:
        self._held: list[_Held] = []

    async def lock(
        self,
        session: Session,
        handle: bytes,
        offset: int,
        length: int,
        kind: LockKind,
        owner: int,
        *,
        wait: bool,
    ) -> None:
        end = offset + length if length else _END
        if offset < 0 or end > _END or end <= offset:
            raise FsError(Status.INVALID, "a lock beyond the largest offset")
        mine = [held for held in self._held if held.owner == owner and held.start < end and offset < held.end]
        if kind is not LockKind.UNLOCK:
            if any(held.start <= offset and end <= held.end and held.kind is kind for held in mine):
                return
            self._check_others(offset, end, kind, owner)
            if len(self._held) >= MAX_RANGES:
                raise FsError(Status.NO_RESOURCES, "too many locks on one file")
        await self._release(session, handle, mine)
        try:
            if kind is not LockKind.UNLOCK:
                await self._take(session, handle, _Held(offset, end, kind, owner), wait=wait)
        except BaseException:
            await self._retake(session, handle, mine)
            raise
        for held in mine:  # what lies outside of the range stays locked
            if held.start < offset:
                await self._take(session, handle, _Held(held.start, offset, held.kind, owner), wait=False)
            if end < held.end:
                await self._take(session, handle, _Held(end, held.end, held.kind, owner), wait=False)

    def _check_others(self, start: int, end: int, kind: LockKind, owner: int) -> None:
        for held in self._held:
            exclusive = LockKind.EXCLUSIVE in (kind, held.kind)
            if held.owner != owner and exclusive and held.start < end and start < held.end:
                raise FsError(Status.LOCKED, "another owner of this open file")

    async def _take(self, session: Session, handle: bytes, held: _Held, *, wait: bool) -> None:
        flags = int(_FLAGS[held.kind]) | (0 if wait else int(LockFlags.FAIL_IMMEDIATELY))
        await self._send(session, handle, [held.element(flags)], wait=wait)
        self._held.append(held)

    async def _release(self, session: Session, handle: bytes, held: list[_Held]) -> None:
        if held:
            await self._send(session, handle, [one.element(int(LockFlags.UNLOCK)) for one in held])
            self._held = [one for one in self._held if one not in held]

    async def _retake(self, session: Session, handle: bytes, held: list[_Held]) -> None:
        for one in held:
            if one not in self._held:
                await self._take(session, handle, one, wait=False)

    async def _send(
        self, session: Session, handle: bytes, locks: list[LockElement], *, wait: bool = False
    ) -> None:
        body = LockRequest(handle, locks).pack()
        await session.call(Operation(Command.LOCK, (body,)), patient=wait)

    async def take_again(self, session: Session, handle: bytes) -> None:
        """After the file was opened again. STALE when somebody else took a lock in between."""
        held, self._held = self._held, []
        try:
            await self._retake(session, handle, held)
        except SmbError as error:
            raise FsError(Status.STALE, "a lock was lost with the connection") from error
