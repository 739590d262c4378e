"""OPLOCK_BREAK: notifications, acknowledgments and responses ([MS-SMB2] §2.2.23 to §2.2.25)."""

from __future__ import annotations

import enum
import struct
from dataclasses import dataclass

from quicfs.smb.messages.wire import body

__all__ = ["LeaseBreakAck", "LeaseBreakNotification", "OplockBreak", "OplockLevel"]


class OplockLevel(enum.IntEnum):
    NONE = 0x00
    II = 0x01
    EXCLUSIVE = 0x08
    BATCH = 0x09
    LEASE = 0xFF


_OPLOCK = struct.Struct("<HBBI16s")
_LEASE_NOTIFICATION = struct.Struct("<HHI16sIIIII")
_LEASE_ACK = struct.Struct("<HHI16sIQ")


@dataclass(slots=True)
class OplockBreak:
    """§2.2.23.1, §2.2.24.1 and §2.2.25.1 have one form."""

    file_id: bytes
    level: int

    @classmethod
    def parse(cls, message: memoryview) -> OplockBreak:
        _, level, _, _, file_id = body(_OPLOCK, message, 24, "OPLOCK_BREAK")
        return cls(file_id, level)

    def pack(self) -> bytes:
        return _OPLOCK.pack(24, self.level, 0, 0, self.file_id)


@dataclass(slots=True)
class LeaseBreakNotification:
    """§2.2.23.2."""

    key: bytes
    current_state: int
    new_state: int
    flags: int = 0
    epoch: int = 0

    @classmethod
    def parse(cls, message: memoryview) -> LeaseBreakNotification:
        _, epoch, flags, key, current, new, _, _, _ = body(
            _LEASE_NOTIFICATION, message, 44, "lease break notification"
        )
        return cls(key, current, new, flags, epoch)

    def pack(self) -> bytes:
        return _LEASE_NOTIFICATION.pack(
            44, self.epoch, self.flags, self.key, self.current_state, self.new_state, 0, 0, 0
        )


@dataclass(slots=True)
class LeaseBreakAck:
    """§2.2.24.2 and §2.2.25.2 have one form."""

    key: bytes
    state: int
    flags: int = 0

    @classmethod
    def parse(cls, message: memoryview) -> LeaseBreakAck:
        _, _, flags, key, state, _ = body(_LEASE_ACK, message, 36, "lease break acknowledgment")
        return cls(key, state, flags)

    def pack(self) -> bytes:
        return _LEASE_ACK.pack(36, 0, self.flags, self.key, self.state, 0)
