"""Frames: every type round trip, cut off at every byte, refused where §19 refuses, table 3 of §12.4."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quicfs.transport import frame, frame_ack, frame_datagram, varint
from quicfs.transport.errors import MisuseError, ProtocolViolation, TransportErrorCode
from quicfs.transport.frame import FRAME_CODECS
from quicfs.transport.frame_type import FrameType
from quicfs.transport.packet import PacketType

MAX = varint.MAX
integers = st.integers(0, MAX)
TOKEN = bytes(range(16))


def parse(data: bytes, packet_type: PacketType = PacketType.ONE_RTT) -> tuple[int, Any]:
    """The one frame that `data` holds, parsed in the middle of a larger buffer."""
    buf = memoryview(b"\xaa" * 3 + data + b"\xaa" * 64)
    frame_type, value, pos = frame.parse_frame(buf, 3, 3 + len(data), packet_type)
    assert pos == 3 + len(data)
    return frame_type, value


SAMPLES: list[tuple[int, bytes, Any]] = [
    (0x00, frame.write_padding(7), (7,)),
    (0x01, frame.write_ping(), ()),
    (
        0x02,
        frame_ack.write_ack([(7, 9), (3, 5), (0, 1)], 77, None, 100),
        ([(7, 9), (3, 5), (0, 1)], 77, None),
    ),
    (0x03, frame_ack.write_ack([(5, 900)], 0, (1, 20_000, 3), 100), ([(5, 900)], 0, (1, 20_000, 3))),
    (0x04, frame.write_reset_stream(4, 70_000, MAX), (4, 70_000, MAX)),
    (0x05, frame.write_stop_sending(400, 1), (400, 1)),
    (0x06, frame.write_crypto_header(300, 5) + b"hello", (300, b"hello")),
    (0x07, frame.write_new_token(b"token"), (b"token",)),
    (0x08, frame.write_stream_header(4, 0, None, False) + b"data", (4, 0, b"data", False)),
    (0x09, frame.write_stream_header(4, 0, None, True) + b"data", (4, 0, b"data", True)),
    (0x0A, frame.write_stream_header(4, 0, 4, False) + b"data", (4, 0, b"data", False)),
    (0x0B, frame.write_stream_header(4, 0, 0, True), (4, 0, b"", True)),
    (0x0C, frame.write_stream_header(4, 99, None, False) + b"data", (4, 99, b"data", False)),
    (0x0D, frame.write_stream_header(4, 99, None, True), (4, 99, b"", True)),
    (0x0E, frame.write_stream_header(4, 1 << 40, 4, False) + b"data", (4, 1 << 40, b"data", False)),
    (0x0F, frame.write_stream_header(70_000, MAX - 4, 4, True) + b"data", (70_000, MAX - 4, b"data", True)),
    (0x10, frame.write_max_data(MAX), (MAX,)),
    (0x11, frame.write_max_stream_data(8, 65_536), (8, 65_536)),
    (0x12, frame.write_max_streams(1 << 60, False), (1 << 60, False)),
    (0x13, frame.write_max_streams(3, True), (3, True)),
    (0x14, frame.write_data_blocked(1000), (1000,)),
    (0x15, frame.write_stream_data_blocked(8, 1000), (8, 1000)),
    (0x16, frame.write_streams_blocked(1 << 60, False), (1 << 60, False)),
    (0x17, frame.write_streams_blocked(3, True), (3, True)),
    (0x18, frame.write_new_connection_id(70, 64, b"c" * 20, TOKEN), (70, 64, b"c" * 20, TOKEN)),
    (0x19, frame.write_retire_connection_id(64), (64,)),
    (0x1A, frame.write_path_challenge(b"12345678"), (b"12345678",)),
    (0x1B, frame.write_path_response(b"12345678"), (b"12345678",)),
    (0x1C, frame.write_connection_close(0x10A, 0x06, "why", 100), (0x10A, 0x06, "why")),
    (0x1D, frame.write_connection_close(9000, None, "", 100), (9000, None, "")),
    (0x1E, frame.write_handshake_done(), ()),
    (0x1F, frame_ack.write_immediate_ack(), None),
    (0x30, b"\x30data", (b"data", 5)),
    (0x31, frame_datagram.write_datagram_header(4) + b"data", (b"data", 6)),
    (0xAF, frame_ack.write_ack_frequency(3, 10, 25_000, 3), (3, 10, 25_000, 3)),
]


@pytest.mark.parametrize(("frame_type", "data", "fields"), SAMPLES)
def test_written_and_parsed(frame_type: int, data: bytes, fields: Any) -> None:
    assert varint.decode(data, 0)[0] == frame_type
    assert parse(data) == (frame_type, fields)


@pytest.mark.parametrize(("frame_type", "data", "fields"), SAMPLES)
def test_cut_off_at_every_byte(frame_type: int, data: bytes, fields: Any) -> None:
    open_ended = (0x08 <= frame_type <= 0x0F and not frame_type & frame.STREAM_LEN) or frame_type == 0x30
    header = len(data) - (len(fields[2]) if 0x08 <= frame_type <= 0x0F else 4)
    for size in range(varint.size(frame_type), len(data)):
        if frame_type == FrameType.PADDING or (open_ended and size >= header):
            continue
        # the payload ends early; with and without more bytes behind it in the buffer
        for buf in (memoryview(data)[:size], memoryview(data + b"\xff" * 16)):
            with pytest.raises(ProtocolViolation) as caught:
                frame.parse_frame(buf, 0, size, PacketType.ONE_RTT)
            assert caught.value.code == TransportErrorCode.FRAME_ENCODING_ERROR
            assert caught.value.frame_type == frame_type


def test_table_3_of_rfc9000() -> None:
    letters = {
        "I": PacketType.INITIAL,
        "0": PacketType.ZERO_RTT,
        "H": PacketType.HANDSHAKE,
        "1": PacketType.ONE_RTT,
    }
    table = {
        (0x00, 0x01, 0x1C): "IH01",
        (0x02, 0x03, 0x06): "IH1",
        (0x04, 0x05, *range(0x08, 0x1B), 0x1D): "01",
        (0x07, 0x1B, 0x1E): "1",
        (0x30, 0x31): "01",  # RFC 9221 §4
        (0x1F, 0xAF): "1",  # draft-ietf-quic-ack-frequency
    }
    for frame_types, packets in table.items():
        for frame_type in frame_types:
            assert FRAME_CODECS[frame_type].packets == {letters[letter] for letter in packets}, frame_type
    assert sorted(FRAME_CODECS) == sorted(t for types in table for t in types)
    assert set(FRAME_CODECS) == {*range(0x20), 0x30, 0x31, 0xAF}
    quiet = {t for t, codec in FRAME_CODECS.items() if not codec.ack_eliciting}
    assert quiet == {0x00, 0x02, 0x03, 0x1C, 0x1D}
    probing = {t for t, codec in FRAME_CODECS.items() if codec.probing}
    assert probing == {0x00, 0x18, 0x1A, 0x1B}


@pytest.mark.parametrize(("frame_type", "data", "fields"), SAMPLES)
def test_frames_in_the_wrong_packet(frame_type: int, data: bytes, fields: Any) -> None:
    allowed = FRAME_CODECS[frame_type].packets
    for packet_type in (PacketType.INITIAL, PacketType.ZERO_RTT, PacketType.HANDSHAKE):
        if packet_type in allowed:
            assert parse(data, packet_type) == (frame_type, fields)
        else:
            with pytest.raises(ProtocolViolation) as caught:
                parse(data, packet_type)
            assert (caught.value.code, caught.value.frame_type) == (0x0A, frame_type)


REFUSED = {
    "unknown type": b"\x21",
    "unknown long type": b"\x40\xae\x01",
    "type cut off": b"\x40",
    "ACK below zero": b"\x02\x05\x00\x00\x06",
    "ACK second range below zero": b"\x02\x05\x00\x01\x01\x03\x00",
    "ACK gap below zero": b"\x02\x05\x00\x01\x01\x04\x00",
    "ACK of more ranges than bytes": b"\x02\x05\x00\x41\x00\x01\x00\x00",
    "CRYPTO beyond 2^62-1": frame.write_crypto_header(MAX, 1) + b"x",
    "NEW_TOKEN empty": b"\x07\x00",
    "STREAM beyond 2^62-1": frame.write_stream_header(0, MAX, 1, False) + b"x",
    "STREAM to the end beyond 2^62-1": frame.write_stream_header(0, MAX, None, False) + b"x",
    "MAX_STREAMS beyond 2^60": frame.write_max_streams((1 << 60) + 1, False),
    "MAX_STREAMS uni beyond 2^60": frame.write_max_streams((1 << 60) + 1, True),
    "STREAMS_BLOCKED beyond 2^60": frame.write_streams_blocked((1 << 60) + 1, False),
    "NEW_CONNECTION_ID without a connection ID": b"\x18\x01\x00\x00" + TOKEN,
    "NEW_CONNECTION_ID of 21 bytes": b"\x18\x01\x00\x15" + bytes(21) + TOKEN,
    "NEW_CONNECTION_ID retires itself": b"\x18\x01\x02\x01c" + TOKEN,
}


@pytest.mark.parametrize("data", REFUSED.values(), ids=REFUSED.keys())
def test_refused(data: bytes) -> None:
    with pytest.raises(ProtocolViolation) as caught:
        parse(data)
    assert caught.value.code == TransportErrorCode.FRAME_ENCODING_ERROR


def test_type_must_be_in_its_shortest_form() -> None:
    with pytest.raises(ProtocolViolation) as caught:
        parse(b"\x40\x01")
    assert caught.value.code == TransportErrorCode.PROTOCOL_VIOLATION


@given(st.binary(min_size=1, max_size=60))
def test_garbage_is_parsed_or_refused(data: bytes) -> None:
    buf = memoryview(data)
    pos = 0
    while pos < len(data):
        try:
            _, _, after = frame.parse_frame(buf, pos, len(data), PacketType.ONE_RTT)
        except ProtocolViolation:
            return
        assert pos < after <= len(data)
        pos = after


# --- ACK ---------------------------------------------------------------------------------------------


@st.composite
def ack_ranges(draw: st.DrawFn) -> list[tuple[int, int]]:
    """Descending, with at least one number missing between two ranges."""
    steps = draw(
        st.lists(st.tuples(st.integers(2, 1 << 20), st.integers(0, 1 << 20)), min_size=1, max_size=60)
    )
    ranges = []
    position = draw(st.integers(0, 1 << 40))
    for gap, length in steps:
        ranges.append((position + gap, position + gap + length))
        position += gap + length
    return ranges[::-1]


ecn_counts = st.none() | st.tuples(integers, integers, integers)


@given(ack_ranges(), integers, ecn_counts)
def test_ack_round_trip(ranges: list[tuple[int, int]], delay: int, ecn: tuple[int, int, int] | None) -> None:
    data = frame_ack.write_ack(ranges, delay, ecn, 10_000)
    assert parse(data)[1] == (ranges, delay, ecn)


@given(ack_ranges(), ecn_counts, st.integers(0, 200))
def test_ack_leaves_out_the_oldest(
    ranges: list[tuple[int, int]], ecn: tuple[int, int, int] | None, room: int
) -> None:
    data = frame_ack.write_ack(ranges, 25, ecn, room)
    assert len(data) <= room
    if data:
        kept, _, kept_ecn = parse(data)[1]
        assert kept == ranges[: len(kept)]
        assert kept_ecn == ecn
        if len(kept) < len(ranges):
            low, high = ranges[len(kept)]
            missing = varint.size(kept[-1][0] - high - 2) + varint.size(high - low)
            assert len(data) + missing + 1 > room  # a byte may go to the count of ranges
    else:
        assert len(frame_ack.write_ack(ranges[:1], 25, ecn, 1000)) > room - 7


def test_ack_with_ranges_of_all_integer_sizes() -> None:
    ranges = [(1 << 61, 1 << 61), (1 << 40, 1 << 50), (70_000, 90_000), (100, 200), (90, 91), (0, 80)]
    assert parse(frame_ack.write_ack(ranges, 0, None, 1000))[1].ranges == ranges


def test_ack_of_a_whole_packet_of_ranges() -> None:
    ranges = [(n, n) for n in range(60_000, 0, -2)]
    data = frame_ack.write_ack(ranges, 0, None, 65_000)
    assert parse(data)[1].ranges == ranges


# --- The rest ----------------------------------------------------------------------------------------


def test_stream_data_are_not_copied() -> None:
    backing = bytearray(frame.write_stream_header(0, 0, None, False) + b"abc")
    view = memoryview(backing)
    (_, _, data, _), _ = frame.parse_stream(view, 1, len(backing))
    backing[-1] = ord("z")
    assert data == b"abz"


@given(integers, st.text(max_size=40), st.integers(28, 80))
def test_close_reason_is_cut_to_fit(code: int, reason: str, room: int) -> None:
    for frame_type in (None, 0x1E):
        data = frame.write_connection_close(code, frame_type, reason, room)
        assert len(data) <= room
        _, parsed = parse(data)
        assert (parsed.error_code, parsed.frame_type) == (code, frame_type)
        assert reason.startswith(parsed.reason)


def test_close_reason_that_is_no_utf8_is_still_read() -> None:
    assert parse(b"\x1d\x00\x02\xff\xfe")[1].reason == "��"


def test_padding_is_swallowed_as_one() -> None:
    buf = memoryview(bytes(1000) + b"\x01")
    frame_type, padding, pos = frame.parse_frame(buf, 0, 1001, PacketType.INITIAL)
    assert (frame_type, padding.length, pos) == (0, 1000, 1000)


def test_connection_ids_that_cannot_be_written() -> None:
    for cid, token in ((b"", TOKEN), (bytes(21), TOKEN), (b"c", TOKEN[1:])):
        with pytest.raises(MisuseError):
            frame.write_new_connection_id(1, 0, cid, token)


def test_padding_ends_with_the_first_other_byte_or_with_the_packet() -> None:
    payload = memoryview(b"\0" * 60_000 + b"\1" + b"\0" * 100 + b"\1")
    assert frame.end_of_padding(payload, 1, len(payload)) == 60_000
    assert frame.end_of_padding(payload, 60_000, len(payload)) == 60_000
    assert frame.end_of_padding(payload, 60_001, 60_050) == 60_050


def test_frames_of_one_byte_are_passed_at_once() -> None:
    payload = memoryview(bytes(5) + b"\x01" * 1000 + bytes(7) + b"\x02")
    assert frame.skip_padding_and_ping(payload, 0, len(payload)) == (True, 1012)
    assert frame.skip_padding_and_ping(payload, 0, 5) == (False, 5)
    assert frame.skip_padding_and_ping(payload, 1005, len(payload)) == (False, 1012)
    assert frame.skip_padding_and_ping(payload, 1012, len(payload)) == (False, 1012)
