"""Types of frames (RFC 9000 §19 and its extensions), and what is said of one that cannot be read."""

from __future__ import annotations

from enum import IntEnum
from typing import NoReturn

from quicfs.transport.errors import ProtocolViolation, TransportErrorCode


class FrameType(IntEnum):
    PADDING = 0x00
    PING = 0x01
    ACK = 0x02
    ACK_ECN = 0x03
    RESET_STREAM = 0x04
    STOP_SENDING = 0x05
    CRYPTO = 0x06
    NEW_TOKEN = 0x07
    STREAM = 0x08
    """The first of eight, up to 0x0f: OFF, LEN and FIN bits are added."""
    MAX_DATA = 0x10
    MAX_STREAM_DATA = 0x11
    MAX_STREAMS_BIDI = 0x12
    MAX_STREAMS_UNI = 0x13
    DATA_BLOCKED = 0x14
    STREAM_DATA_BLOCKED = 0x15
    STREAMS_BLOCKED_BIDI = 0x16
    STREAMS_BLOCKED_UNI = 0x17
    NEW_CONNECTION_ID = 0x18
    RETIRE_CONNECTION_ID = 0x19
    PATH_CHALLENGE = 0x1A
    PATH_RESPONSE = 0x1B
    CONNECTION_CLOSE = 0x1C
    CONNECTION_CLOSE_APPLICATION = 0x1D
    HANDSHAKE_DONE = 0x1E
    IMMEDIATE_ACK = 0x1F
    """draft-ietf-quic-ack-frequency §5"""
    DATAGRAM = 0x30
    """RFC 9221 §4; with DATAGRAM_LEN its length is told."""
    DATAGRAM_LEN = 0x31
    ACK_FREQUENCY = 0xAF
    """draft-ietf-quic-ack-frequency §4"""


def malformed(reason: str, frame_type: int = 0) -> NoReturn:
    """RFC 9000 §12.4: the frame cannot be read -> FRAME_ENCODING_ERROR. `parse_frame` fills in the type."""
    raise ProtocolViolation(TransportErrorCode.FRAME_ENCODING_ERROR, reason, frame_type)
