"""Packet headers and numbers, with the vectors of RFC 9000 §A.2 and §A.3 and RFC 9001 §A."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from quicfs.transport import packet
from quicfs.transport.errors import MisuseError, ProtocolViolation
from quicfs.transport.packet import LongHeader, PacketType

ODCID = bytes.fromhex("8394c8f03e515708")
RFC9001_A2_HEADER = bytes.fromhex("c300000001088394c8f03e5157080000449e00000002")
RFC9001_A3_HEADER = bytes.fromhex("c1000000010008f067a5502a4262b50040750001")
RFC9001_A4_RETRY = bytes.fromhex("ff000000010008f067a5502a4262b5746f6b656e04a265ba2eff4d829058fb3f0f2496ba")
SERVER_CID = bytes.fromhex("f067a5502a4262b5")

cids = st.binary(max_size=20)


def parse(data: bytes) -> LongHeader:
    return packet.parse_long_header(memoryview(data), 0, len(data))


def test_rfc9001_client_initial_header() -> None:
    written = packet.write_long_header(PacketType.INITIAL, 1, ODCID, b"", b"", 2, 4, 1182)
    assert written == RFC9001_A2_HEADER
    header = parse(written + bytes(1178))
    assert header == (PacketType.INITIAL, 1, ODCID, b"", b"", 18, 1200, (), True)


def test_rfc9001_server_initial_header() -> None:
    assert (
        packet.write_long_header(PacketType.INITIAL, 1, b"", SERVER_CID, b"", 1, 2, 117) == RFC9001_A3_HEADER
    )


def test_rfc9001_retry() -> None:
    assert packet.write_retry(1, b"", SERVER_CID, b"token", ODCID, 0x0F) == RFC9001_A4_RETRY
    assert packet.check_retry(RFC9001_A4_RETRY, ODCID)
    assert not packet.check_retry(RFC9001_A4_RETRY, ODCID[:-1])
    header = parse(RFC9001_A4_RETRY)
    assert (header.packet_type, header.scid, header.token) == (PacketType.RETRY, SERVER_CID, b"token")
    for size in range(len(RFC9001_A4_RETRY)):
        assert not packet.check_retry(RFC9001_A4_RETRY[:size], ODCID)
    for pos in range(len(RFC9001_A4_RETRY)):
        broken = bytearray(RFC9001_A4_RETRY)
        broken[pos] ^= 1
        assert not packet.check_retry(bytes(broken), ODCID)


def test_retry_without_a_token_is_dropped() -> None:
    with pytest.raises(ProtocolViolation):
        parse(packet.write_retry(1, b"a", b"b", b"", ODCID, 0))


@given(
    st.sampled_from([PacketType.INITIAL, PacketType.ZERO_RTT, PacketType.HANDSHAKE]),
    cids,
    cids,
    st.binary(max_size=200),
    st.integers(0, (1 << 62) - 1),
    st.integers(1, 4),
    st.integers(20, 300),
)
def test_long_header_round_trip(
    packet_type: PacketType, dcid: bytes, scid: bytes, token: bytes, pn: int, pn_length: int, length: int
) -> None:
    written = packet.write_long_header(packet_type, 1, dcid, scid, token, pn, pn_length, length)
    assert len(written) == packet.long_header_size(packet_type, dcid, scid, token, pn_length)
    data = written + bytes(length - pn_length) + b"the next packet"
    header = parse(data)
    expected_token = token if packet_type is PacketType.INITIAL else b""
    pn_offset = len(written) - pn_length
    assert header == (packet_type, 1, dcid, scid, expected_token, pn_offset, pn_offset + length, (), True)
    assert (written[0] & packet.PN_LENGTH_MASK) + 1 == pn_length
    assert int.from_bytes(written[pn_offset:], "big") == pn % (1 << 8 * pn_length)


def test_every_truncation_of_a_header_is_a_violation() -> None:
    data = packet.write_long_header(PacketType.INITIAL, 1, ODCID, SERVER_CID, b"tok", 2, 4, 100) + bytes(96)
    for size in range(len(data)):
        with pytest.raises(ProtocolViolation):
            packet.parse_long_header(memoryview(data)[:size], 0, size)
        with pytest.raises(ProtocolViolation):
            packet.parse_long_header(memoryview(data), 0, size)


@given(st.binary(max_size=80), st.booleans())
def test_garbage_never_breaks_the_parser(data: bytes, version_1: bool) -> None:
    if version_1:
        data = data[:1] + b"\0\0\0\1" + data[5:]
    try:
        header = parse(data)
    except ProtocolViolation:
        return
    assert header.payload_offset <= header.end <= len(data)


def test_unsupported_version_gives_the_invariants_only() -> None:
    long_cid = bytes(200)
    data = b"\x80\x0a\x0a\x0a\x0a\xc8" + long_cid + b"\x03abc" + b"whatever"
    header = parse(data)
    assert header.packet_type is PacketType.UNSUPPORTED_VERSION
    assert (header.version, header.dcid, header.scid) == (0x0A0A0A0A, long_cid, b"abc")


@pytest.mark.parametrize(
    "data",
    [
        b"\xc0\0\0\0\1\x15" + bytes(21) + b"\0\0\x40\x20" + bytes(32),
    ],
    ids=["connection ID of 21 bytes"],
)
def test_not_version_1(data: bytes) -> None:
    with pytest.raises(ProtocolViolation):
        parse(data)


def test_fixed_bit() -> None:
    """RFC 9287: it is up to the connection whether a packet without it counts."""
    rest = b"\0\0\0\1\x04abcd\0\0\x40\x20" + bytes(32)
    assert parse(b"\xc0" + rest).fixed_bit
    assert not parse(b"\x80" + rest).fixed_bit


@given(st.binary(max_size=255), st.binary(max_size=255), st.lists(st.integers(0, 2**32 - 1), min_size=1))
def test_version_negotiation_round_trip(dcid: bytes, scid: bytes, versions: list[int]) -> None:
    data = packet.write_version_negotiation(dcid, scid, versions, 0xFF)
    header = parse(data)
    assert header.packet_type is PacketType.VERSION_NEGOTIATION
    assert (header.dcid, header.scid, header.supported_versions) == (dcid, scid, tuple(versions))
    with pytest.raises(ProtocolViolation):
        parse(data[:-1])


def test_version_negotiation_without_versions_is_dropped() -> None:
    with pytest.raises(ProtocolViolation):
        parse(packet.write_version_negotiation(b"a", b"b", [], 0))


def test_length_that_needs_four_bytes_is_misuse() -> None:
    with pytest.raises(MisuseError):
        packet.write_long_header(PacketType.HANDSHAKE, 1, b"", b"", b"", 0, 1, 0x4000)


def test_stateless_reset_looks_like_a_short_header() -> None:
    token = bytes(range(16))
    for size in (21, 43, 1200):
        data = packet.write_stateless_reset(size, token, b"\xff" * size)
        assert len(data) == size
        assert data[0] & 0xC0 == 0x40
        assert data.endswith(token)
    for size, bad_token, entropy in (
        (20, token, bytes(99)),
        (21, token[1:], bytes(99)),
        (40, token, bytes(23)),
    ):
        with pytest.raises(MisuseError):
            packet.write_stateless_reset(size, bad_token, entropy)


def test_rfc9000_packet_number_length() -> None:
    assert packet.packet_number_length(0xAC5C02, 0xABE8B3) == 2
    assert packet.packet_number_length(0xACE8FE, 0xABE8B3) == 3
    assert packet.packet_number_length(0, -1) == 1


def test_rfc9000_packet_number_decoding() -> None:
    assert packet.decode_packet_number(0x9B32, 16, 0xA82F30EA) == 0xA82F9B32


@given(st.integers(-1, (1 << 62) - 2), st.integers(1, 1 << 23))
@example(-1, 1)
@example(-1, 0x80)
@example(-1, 0x81)
def test_packet_numbers_survive(largest_acked: int, ahead: int) -> None:
    pn = min(largest_acked + ahead, (1 << 62) - 1)
    length = packet.packet_number_length(pn, largest_acked)
    truncated = pn & (1 << 8 * length) - 1
    # The receiver has seen anything from what it acknowledged to what was just before this packet.
    for largest in {largest_acked, (largest_acked + pn) // 2, pn - 1}:
        assert packet.decode_packet_number(truncated, 8 * length, largest) == pn
