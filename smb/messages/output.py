"""The response of QUERY_DIRECTORY, QUERY_INFO and CHANGE_NOTIFY ([MS-SMB2] §2.2.34, §2.2.36, §2.2.38)."""

from __future__ import annotations

import struct

from quicfs.smb.messages.wire import HEADER_SIZE, body, take

__all__ = ["pack_output", "parse_output"]

_RESPONSE = struct.Struct("<HHI")
_DATA_AT = HEADER_SIZE + _RESPONSE.size


def pack_output(data: bytes | bytearray | memoryview) -> bytes:
    """The body of a response that carries `data`; an empty one has offset 0."""
    return _RESPONSE.pack(9, _DATA_AT if data else 0, len(data)) + data


def parse_output(message: memoryview) -> memoryview:
    _, offset, length = body(_RESPONSE, message, 9, "response with an output buffer")
    return take(message, offset, length, "output buffer", least=_DATA_AT)
