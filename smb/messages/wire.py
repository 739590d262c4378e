"""Bounds-checked reading of one SMB2 message, and the small writers that every family needs.

A *message* is a memoryview that begins at the SMB2 header and ends where the message ends: offsets
inside SMB2 bodies count from there. `pack` methods return the body alone, for a header of 64 bytes.
"""

from __future__ import annotations

import struct
from typing import Any

from quicfs.smb.errors import SmbProtocolError

__all__ = ["HEADER_SIZE", "align8", "body", "decode_utf16", "encode_utf16", "name_at", "take", "unpack"]

HEADER_SIZE = 64


def unpack(layout: struct.Struct, view: memoryview | bytes, offset: int, what: str) -> tuple[Any, ...]:
    if offset < 0 or offset + layout.size > len(view):
        raise SmbProtocolError(f"{what}: truncated")
    return layout.unpack_from(view, offset)


def body(layout: struct.Struct, message: memoryview, structure_size: int, what: str) -> tuple[Any, ...]:
    """The fixed part after the header, StructureSize checked and left in front."""
    if HEADER_SIZE + layout.size > len(message):
        raise SmbProtocolError(f"{what}: truncated")
    fields = layout.unpack_from(message, HEADER_SIZE)
    if fields[0] != structure_size:
        raise SmbProtocolError(f"{what}: StructureSize {fields[0]}, not {structure_size}")
    return fields


def take(view: memoryview, offset: int, length: int, what: str, *, least: int = 0) -> memoryview:
    """`view[offset:offset+length]`; others than empty ones start at `least` or later."""
    if length == 0:
        return view[:0]
    if offset < least or length < 0 or offset + length > len(view):
        raise SmbProtocolError(f"{what}: points outside its message")
    return view[offset : offset + length]


def decode_utf16(view: memoryview, what: str) -> str:
    """UTF-16LE as sent: unpaired surrogates are legal in Windows names and come out as they are."""
    if len(view) & 1:
        raise SmbProtocolError(f"{what}: half a UTF-16 unit")
    return str(view, "utf-16-le", "surrogatepass")


def encode_utf16(text: str) -> bytes:
    return text.encode("utf-16-le", "surrogatepass")


def name_at(message: memoryview, offset: int, length: int, what: str) -> str:
    return decode_utf16(take(message, offset, length, what, least=HEADER_SIZE), what)


def align8(length: int) -> int:
    return (length + 7) & ~7
