"""LOCK ([MS-SMB2] §2.2.26). The response has no fields."""

from __future__ import annotations

import enum
import struct
from collections.abc import Sequence
from dataclasses import dataclass

from quicfs.smb.errors import SmbProtocolError
from quicfs.smb.messages.wire import HEADER_SIZE, body

__all__ = ["LockElement", "LockFlags", "LockRequest"]


class LockFlags(enum.IntFlag):
    SHARED_LOCK = 0x01
    EXCLUSIVE_LOCK = 0x02
    UNLOCK = 0x04
    FAIL_IMMEDIATELY = 0x10


_REQUEST = struct.Struct("<HHI16s")
_ELEMENT = struct.Struct("<QQII")


@dataclass(slots=True)
class LockElement:
    offset: int
    length: int
    flags: int


@dataclass(slots=True)
class LockRequest:
    file_id: bytes
    locks: Sequence[LockElement]
    sequence: int = 0

    @classmethod
    def parse(cls, message: memoryview) -> LockRequest:
        _, count, sequence, file_id = body(_REQUEST, message, 48, "LOCK request")
        at = HEADER_SIZE + _REQUEST.size
        if count == 0 or at + count * _ELEMENT.size > len(message):
            raise SmbProtocolError("LOCK request: bad LockCount")
        tail = message[at : at + count * _ELEMENT.size]
        locks = [
            LockElement(offset, length, flags) for offset, length, flags, _ in _ELEMENT.iter_unpack(tail)
        ]
        return cls(file_id, locks, sequence)

    def pack(self) -> bytes:
        fixed = _REQUEST.pack(48, len(self.locks), self.sequence, self.file_id)
        return fixed + b"".join(_ELEMENT.pack(lock.offset, lock.length, lock.flags, 0) for lock in self.locks)
