"""Frames as qlog names them (draft-ietf-quic-qlog-quic-events), from the plaintext of a packet.

What a peer sent is shown in numbers, hexadecimal and bounded text; a payload never appears, nor do stateless
reset tokens and the inside of address validation tokens, which would let a reader of the log act for the peer.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from quicfs.transport import limits
from quicfs.transport.errors import ProtocolViolation
from quicfs.transport.frame import FRAME_CODECS, parse_frame
from quicfs.transport.frame_ack import AckFrame
from quicfs.transport.packet import PacketType

Described = dict[str, Any]


def text(value: str) -> str:
    """Text of a peer, cut to its bound; the JSON encoder escapes what is no plain ASCII."""
    return value if len(value) <= limits.QLOG_TEXT else value[: limits.QLOG_TEXT] + "…"


def hexadecimal(value: bytes | memoryview) -> str:
    return bytes(value[: limits.QLOG_BYTES]).hex()


def _ack(frame: Any, exponent: int) -> Described:
    shown: Described = {
        "ack_delay": round((frame.ack_delay << exponent) / 1000, 3),  # milliseconds
        "acked_ranges": [list(pair) for pair in frame.ranges[: limits.QLOG_RANGES]],
    }
    if frame.ecn is not None:
        shown["ect0"], shown["ect1"], shown["ce"] = frame.ecn
    return shown


def _stream(frame: Any) -> Described:
    stream_id, offset, data, fin = frame
    shown = {"stream_id": stream_id, "offset": offset, "length": len(data)}
    return shown | {"fin": True} if fin else shown


def _crypto(frame: Any) -> Described:
    return {"offset": frame.offset, "length": len(frame.data)}


def _padding(frame: Any) -> Described:
    return {"payload_length": frame.length}


def _new_token(frame: Any) -> Described:
    return {"length": len(frame.token)}


def _stream_count(frame: Any) -> Described:
    limit = {"maximum": frame.maximum} if hasattr(frame, "maximum") else {"limit": frame.limit}
    return {"stream_type": "unidirectional" if frame.unidirectional else "bidirectional", **limit}


def _new_connection_id(frame: Any) -> Described:
    return {
        "sequence_number": frame.sequence_number,
        "retire_prior_to": frame.retire_prior_to,
        "connection_id_length": len(frame.connection_id),
        "connection_id": hexadecimal(frame.connection_id),
    }


def _close(frame: Any) -> Described:
    shown: Described = {
        "error_space": "application_error" if frame.frame_type is None else "transport_error",
        "error_code": frame.error_code,
        "raw_error_code": frame.error_code,
        "reason": text(frame.reason),
    }
    if frame.frame_type is not None:
        shown["trigger_frame_type"] = frame.frame_type
    return shown


def _fields(frame: Any) -> Described:
    """Frames that are numbers, and the 8 bytes of a path frame: field by field; of a payload its length."""
    shown: Described = {}
    if frame is None:  # a frame that is nothing but its type
        return shown
    for name, value in frame._asdict().items():
        if isinstance(value, memoryview):
            shown["length"] = len(value)
        else:
            shown[name] = hexadecimal(value) if isinstance(value, bytes) else value
    return shown


_DESCRIPTIONS: Final[dict[str, Callable[[Any], Described]]] = {
    "PADDING": _padding,
    "STREAM": _stream,
    "CRYPTO": _crypto,
    "NEW_TOKEN": _new_token,
    "MAX_STREAMS": _stream_count,
    "STREAMS_BLOCKED": _stream_count,
    "NEW_CONNECTION_ID": _new_connection_id,
    "CONNECTION_CLOSE": _close,
}


def describe(
    payload: bytes | memoryview, packet_type: PacketType, ack_delay_exponent: int
) -> list[Described]:
    """The frames of one packet; at most `limits.QLOG_FRAMES`, up to the first that cannot be read.

    `ack_delay_exponent` is the sender's (RFC 9000 §18.2).
    """
    view = memoryview(payload)
    pos, end = 0, len(view)
    frames: list[Described] = []
    while pos < end:
        if len(frames) == limits.QLOG_FRAMES:
            frames.append({"frame_type": "unknown", "length": end - pos})
            break
        try:
            frame_type, frame, pos = parse_frame(view, pos, end, packet_type)
        except (ProtocolViolation, IndexError):
            frames.append({"frame_type": "unknown", "raw_frame_type": view[pos], "length": end - pos})
            break
        name = FRAME_CODECS[frame_type].name
        shown = (
            _ack(frame, ack_delay_exponent)
            if isinstance(frame, AckFrame)
            else _DESCRIPTIONS.get(name, _fields)(frame)
        )
        frames.append({"frame_type": name.lower(), **shown})
    return frames
