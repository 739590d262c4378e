"""What the option SESSION_TICKET holds on a client: all that a later connection needs to resume a session.

An agent makes it of a NewSessionTicket; the consumer keeps it and hands it back before another handshake with the
same server; the transport reads what 0-RTT needs of it. To the consumer it is opaque, and secret: whoever has it
can take the place of the client.

    "QT" | u8 format | u8 flags | u32 version | 32 bytes identity | u8 length, ALPN | u16 length, parameters
    | u16 length, session
"""

from __future__ import annotations

import struct
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Final

from quicfs.transport import varint
from quicfs.transport.errors import ProtocolViolation
from quicfs.transport.uapi import QUIC_VERSION_1

MAX_TICKET: Final = 12_288
"""Bytes of the whole; the session's data hold the server's certificates."""

IDENTITY_LENGTH: Final = 32
_FORMAT: Final = 1
_EARLY_DATA: Final = 1
_HEADER: Final = struct.Struct(">2sBBI32s")
_MAGIC: Final = b"QT"

REMEMBERED: Final = frozenset((0x04, 0x05, 0x06, 0x07, 0x08, 0x09, 0x0E, 0x20))
"""Transport parameters that count for 0-RTT (RFC 9000 §7.4.1, RFC 9221 §3): initial_max_*,
active_connection_id_limit, max_datagram_frame_size."""


BINDING: Final = REMEMBERED | {0x11}
"""A server's own parameters that a ticket is for: besides, version_information, since a ticket counts for one version
(RFC 9369 §5)."""


def pick(parameters: bytes, numbers: Collection[int] = REMEMBERED) -> bytes:
    """Some of encoded transport parameters: by default what may be remembered. ValueError if they are cut off."""
    kept: list[bytes] = []
    pos = 0
    try:
        while pos < len(parameters):
            start = pos
            number, pos = varint.decode(parameters, pos)
            length, pos = varint.decode(parameters, pos)
            pos += length
            if pos > len(parameters):
                raise ValueError("transport parameters are cut off")
            if number in numbers:
                kept.append(parameters[start:pos])
    except ProtocolViolation as violation:
        raise ValueError("transport parameters are cut off") from violation
    return b"".join(kept)


@dataclass(frozen=True, slots=True)
class SessionTicket:
    """`identity`: whom the session was with and who we were, as the agent sees it; a ticket counts for nobody else.
    `parameters`: the server's, as far as they are remembered. `early_data`: the server takes 0-RTT."""

    identity: bytes = field(repr=False)
    alpn: bytes
    parameters: bytes
    session: bytes = field(repr=False)
    early_data: bool = False
    version: int = QUIC_VERSION_1

    def pack(self) -> bytes:
        """ValueError when it becomes too long."""
        flags = _EARLY_DATA if self.early_data else 0
        try:
            packed = b"".join(
                (
                    _HEADER.pack(_MAGIC, _FORMAT, flags, self.version, self.identity),
                    struct.pack(">B", len(self.alpn)),
                    self.alpn,
                    struct.pack(">H", len(self.parameters)),
                    self.parameters,
                    struct.pack(">H", len(self.session)),
                    self.session,
                )
            )
        except struct.error as error:
            raise ValueError(f"session ticket: {error}") from None
        if len(packed) > MAX_TICKET:
            raise ValueError(f"session ticket of {len(packed)} bytes, at most {MAX_TICKET} fit")
        return packed

    @classmethod
    def unpack(cls, data: bytes) -> SessionTicket:
        """ValueError for what is no ticket of this format."""
        try:
            magic, number, flags, version, identity = _HEADER.unpack_from(data)
            if magic != _MAGIC or number != _FORMAT or len(data) > MAX_TICKET:
                raise ValueError("no session ticket")
            alpn, pos = _vector(data, _HEADER.size, ">B")
            parameters, pos = _vector(data, pos, ">H")
            session, pos = _vector(data, pos, ">H")
        except struct.error:
            raise ValueError("session ticket is cut off") from None
        if pos != len(data) or not session:
            raise ValueError("session ticket has a wrong length")
        return cls(identity, alpn, parameters, session, bool(flags & _EARLY_DATA), version)


def _vector(data: bytes, pos: int, layout: str) -> tuple[bytes, int]:
    (length,) = struct.unpack_from(layout, data, pos)
    start = pos + struct.calcsize(layout)
    if start + length > len(data):
        raise ValueError("session ticket is cut off")
    return data[start : start + length], start + length
