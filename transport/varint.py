"""Variable-length integers (RFC 9000 §16)."""

from __future__ import annotations

from struct import Struct, error
from typing import NoReturn

from quicfs.transport.errors import MisuseError, ProtocolViolation, TransportErrorCode

MAX = (1 << 62) - 1

_U16 = Struct(">H")
_U32 = Struct(">I")
_U64 = Struct(">Q")
_read_u32 = _U32.unpack_from
_read_u64 = _U64.unpack_from
_write_u16 = _U16.pack
_write_u32 = _U32.pack
_write_u64 = _U64.pack
_ONE_BYTE = [bytes((value,)) for value in range(0x40)]


def encode(value: int) -> bytes:
    """The shortest encoding of `value`, 1 to 8 bytes. MisuseError outside 0..MAX."""
    if value < 0x40:
        if value < 0:
            _refuse(value)
        return _ONE_BYTE[value]
    if value < 0x4000:
        return _write_u16(value | 0x4000)
    if value < 0x40000000:
        return _write_u32(value | 0x80000000)
    if value > MAX:
        _refuse(value)
    return _write_u64(value | 0xC000000000000000)


def decode(buf: bytes | bytearray | memoryview, pos: int) -> tuple[int, int]:
    """Value and position after it. ProtocolViolation(FRAME_ENCODING_ERROR) when `buf` ends too early.

    Reads up to the end of `buf`, not of a frame: the caller compares the position with its own end.
    """
    try:
        first = buf[pos]
        if first < 0x40:
            return first, pos + 1
        if first < 0x80:
            return (first & 0x3F) << 8 | buf[pos + 1], pos + 2
        if first < 0xC0:
            return _read_u32(buf, pos)[0] & 0x3FFFFFFF, pos + 4
        return _read_u64(buf, pos)[0] & 0x3FFFFFFFFFFFFFFF, pos + 8
    except (IndexError, error):
        # RFC 9000 §12.4: a frame that ends early is malformed -> FRAME_ENCODING_ERROR
        raise ProtocolViolation(TransportErrorCode.FRAME_ENCODING_ERROR, "truncated integer") from None


def size(value: int) -> int:
    """Bytes that `encode(value)` takes: 1, 2, 4 or 8."""
    if value < 0x40:
        return 1
    if value < 0x4000:
        return 2
    if value < 0x40000000:
        return 4
    return 8


def _refuse(value: int) -> NoReturn:
    raise MisuseError(f"{value} is not a QUIC integer (0 to 2^62-1)")
