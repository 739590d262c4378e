"""Frames in qlog's words: what is shown of them, and what is not."""

from __future__ import annotations

import json
import random
from typing import Any

import pytest

from quicfs.transport import frame, frame_ack, limits
from quicfs.transport.packet import PacketType
from quicfs.transport.qlog.frames import describe

SECRET = b"sixteen secrets!"


def shown(payload: bytes, exponent: int = 3) -> list[dict[str, Any]]:
    return describe(payload, PacketType.ONE_RTT, exponent)


@pytest.mark.parametrize(
    ("payload", "expected"),
    [
        (frame.write_ping(), {"frame_type": "ping"}),
        (frame.write_padding(7), {"frame_type": "padding", "payload_length": 7}),
        (frame.write_max_data(1 << 60), {"frame_type": "max_data", "maximum": 1 << 60}),
        (
            frame.write_max_streams(9, True),
            {"frame_type": "max_streams", "stream_type": "unidirectional", "maximum": 9},
        ),
        (
            frame.write_streams_blocked(9, False),
            {"frame_type": "streams_blocked", "stream_type": "bidirectional", "limit": 9},
        ),
        (
            frame.write_reset_stream(4, 1, 99),
            {"frame_type": "reset_stream", "stream_id": 4, "error_code": 1, "final_size": 99},
        ),
        (frame.write_path_challenge(b"\xff" * 8), {"frame_type": "path_challenge", "data": "ff" * 8}),
        (
            frame.write_stream_header(4, 100, 5, True) + b"bytes",
            {"frame_type": "stream", "stream_id": 4, "offset": 100, "length": 5, "fin": True},
        ),
        (
            frame.write_crypto_header(7, 5) + b"bytes",
            {"frame_type": "crypto", "offset": 7, "length": 5},
        ),
        (frame.write_new_token(SECRET), {"frame_type": "new_token", "length": 16}),
        (
            frame.write_new_connection_id(3, 1, b"\xab\xcd", SECRET),
            {
                "frame_type": "new_connection_id",
                "sequence_number": 3,
                "retire_prior_to": 1,
                "connection_id_length": 2,
                "connection_id": "abcd",
            },
        ),
        (
            frame_ack.write_ack([(5, 9), (1, 2)], 125, (1, 0, 2), 100),
            {
                "frame_type": "ack",
                "ack_delay": 1.0,  # milliseconds
                "acked_ranges": [[5, 9], [1, 2]],
                "ect0": 1,
                "ect1": 0,
                "ce": 2,
            },
        ),
        (
            frame.write_connection_close(0x0A, 6, "no", 100),
            {
                "frame_type": "connection_close",
                "error_space": "transport_error",
                "error_code": 10,
                "raw_error_code": 10,
                "reason": "no",
                "trigger_frame_type": 6,
            },
        ),
    ],
)
def test_what_is_shown(payload: bytes, expected: dict[str, Any]) -> None:
    assert shown(payload) == [expected]
    assert SECRET.hex() not in json.dumps(shown(payload))


def test_the_exponent_is_the_senders() -> None:
    (ack,) = shown(frame_ack.write_ack([(0, 0)], 1000, None, 100), exponent=0)
    assert ack["ack_delay"] == 1.0


def test_what_a_peer_makes_long_is_cut() -> None:
    pings = shown(frame.write_ping() * 5000)
    assert len(pings) == limits.QLOG_FRAMES + 1
    assert pings[-1] == {"frame_type": "unknown", "length": 5000 - limits.QLOG_FRAMES}
    (ack,) = shown(frame_ack.write_ack([(2 * n, 2 * n) for n in range(1000, 0, -1)], 0, None, 60_000))
    assert len(ack["acked_ranges"]) == limits.QLOG_RANGES
    (close,) = shown(frame.write_connection_close(1, None, "é" * 10_000, 60_000))
    assert len(close["reason"]) == limits.QLOG_TEXT + 1


def test_what_cannot_be_read_ends_the_list() -> None:
    assert shown(b"\x01\x06\x40") == [
        {"frame_type": "ping"},
        {"frame_type": "unknown", "raw_frame_type": 6, "length": 2},
    ]


@pytest.mark.parametrize("seed", range(200))
def test_nothing_that_comes_raises(seed: int) -> None:
    rng = random.Random(seed)
    for packet_type in (PacketType.INITIAL, PacketType.ZERO_RTT, PacketType.ONE_RTT):
        json.dumps(describe(rng.randbytes(rng.randrange(1, 300)), packet_type, rng.randrange(21)))
