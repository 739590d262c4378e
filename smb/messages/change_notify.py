"""CHANGE_NOTIFY ([MS-SMB2] §2.2.35) and what it reports ([MS-FSCC] §2.7.1)."""

from __future__ import annotations

import enum
import struct
from collections.abc import Iterable
from dataclasses import dataclass

from quicfs.smb.errors import SmbProtocolError
from quicfs.smb.messages.wire import body, decode_utf16, encode_utf16, take, unpack

__all__ = ["WATCH_TREE", "ChangeNotifyRequest", "NotifyAction", "pack_notifications", "parse_notifications"]

WATCH_TREE = 0x0001


class NotifyAction(enum.IntEnum):
    ADDED = 1
    REMOVED = 2
    MODIFIED = 3
    RENAMED_OLD_NAME = 4
    RENAMED_NEW_NAME = 5


_REQUEST = struct.Struct("<HHI16sII")
_ENTRY = struct.Struct("<III")


@dataclass(slots=True)
class ChangeNotifyRequest:
    file_id: bytes
    completion_filter: int
    output_length: int = 65536
    flags: int = 0

    @classmethod
    def parse(cls, message: memoryview) -> ChangeNotifyRequest:
        _, flags, output, file_id, filter_, _ = body(_REQUEST, message, 32, "CHANGE_NOTIFY request")
        return cls(file_id, filter_, output, flags)

    def pack(self) -> bytes:
        return _REQUEST.pack(32, self.flags, self.output_length, self.file_id, self.completion_filter, 0)


def pack_notifications(changes: Iterable[tuple[int, str]]) -> bytes:
    """(action, name with backslashes), each."""
    packed = bytearray()
    last = 0
    for action, name in changes:
        start = len(packed) + (-len(packed) % 4)
        if packed:
            packed += bytes(start - len(packed))
            struct.pack_into("<I", packed, last, start - last)
        encoded = encode_utf16(name)
        packed += _ENTRY.pack(0, action, len(encoded)) + encoded
        last = start
    return bytes(packed)


def parse_notifications(data: memoryview) -> list[tuple[int, str]]:
    changes: list[tuple[int, str]] = []
    at = 0
    while data:
        next_, action, length = unpack(_ENTRY, data, at, "change notification")
        name = take(data, at + _ENTRY.size, length, "change notification: name")
        changes.append((action, decode_utf16(name, "change notification: name")))
        if next_ == 0:
            break
        if next_ < _ENTRY.size:
            raise SmbProtocolError("change notification: bad NextEntryOffset")
        at += next_
    return changes
