"""A peer that knows the keys and breaks the rules: the right error closes the connection, and floods stay cheap."""

from __future__ import annotations

import pytest

from quicfs.transport import frame, frame_ack, limits
from quicfs.transport.errors import TransportErrorCode as Code
from quicfs.transport.packet import PacketType, write_long_header

from .endpoints import CLIENT, SERVER, Host, Pair, make_pair
from .hostile import Attacker
from .network import Datagram

TOKEN = bytes(16)


def stream(stream_id: int, offset: int, data: bytes, *, fin: bool = False) -> bytes:
    return frame.write_stream_header(stream_id, offset, len(data), fin) + data


def new_cid(sequence: int, retire: int = 0, cid: bytes | None = None) -> bytes:
    return frame.write_new_connection_id(sequence, retire, cid or sequence.to_bytes(8, "big"), TOKEN)


VIOLATIONS = {
    "ACK of a packet that was never sent": (
        frame_ack.write_ack([(0, 500_000)], 0, None, 99),
        Code.PROTOCOL_VIOLATION,
    ),
    "unknown frame": (b"\x3f", Code.FRAME_ENCODING_ERROR),
    "DATAGRAM without negotiation": (b"\x30data", Code.PROTOCOL_VIOLATION),
    "frame type too long": (b"\x40\x01", Code.PROTOCOL_VIOLATION),
    "truncated frame": (b"\x04\x00", Code.FRAME_ENCODING_ERROR),
    "packet without frames": (b"", Code.PROTOCOL_VIOLATION),
    "HANDSHAKE_DONE from a client": (frame.write_handshake_done(), Code.PROTOCOL_VIOLATION),
    "NEW_TOKEN from a client": (frame.write_new_token(b"t"), Code.PROTOCOL_VIOLATION),
    "CRYPTO far ahead": (frame.write_crypto_header(1 << 30, 1) + b"x", Code.CRYPTO_BUFFER_EXCEEDED),
    "stream data beyond the stream's limit": (stream(0, limits.STREAM_WINDOW, b"x"), Code.FLOW_CONTROL_ERROR),
    "stream number beyond the limit": (stream(4 * limits.MAX_STREAMS_BIDI, 0, b"x"), Code.STREAM_LIMIT_ERROR),
    "unidirectional stream beyond the limit": (
        stream(4 * limits.MAX_STREAMS_UNI + 2, 0, b"x"),
        Code.STREAM_LIMIT_ERROR,
    ),
    "data on a stream that the server did not open": (stream(1, 0, b"x"), Code.STREAM_STATE_ERROR),
    "data on a stream of the server's only": (stream(3, 0, b"x"), Code.STREAM_STATE_ERROR),
    "RESET_STREAM of a stream of the server's only": (
        frame.write_reset_stream(3, 0, 0),
        Code.STREAM_STATE_ERROR,
    ),
    "STOP_SENDING for a receive-only stream": (frame.write_stop_sending(2, 0), Code.STREAM_STATE_ERROR),
    "MAX_STREAM_DATA for a receive-only stream": (frame.write_max_stream_data(2, 9), Code.STREAM_STATE_ERROR),
    "STOP_SENDING for a stream never opened": (frame.write_stop_sending(1, 0), Code.STREAM_STATE_ERROR),
    "final size changed": (
        stream(0, 0, b"abc", fin=True) + stream(0, 0, b"abcd", fin=True),
        Code.FINAL_SIZE_ERROR,
    ),
    "data beyond the final size": (
        stream(0, 0, b"abc", fin=True) + stream(0, 3, b"d"),
        Code.FINAL_SIZE_ERROR,
    ),
    "final size below what came": (
        stream(0, 5, b"abc") + stream(0, 0, b"a", fin=True),
        Code.FINAL_SIZE_ERROR,
    ),
    "reset below what came": (
        stream(0, 0, b"abc") + frame.write_reset_stream(0, 0, 1),
        Code.FINAL_SIZE_ERROR,
    ),
    "reset beyond the limit": (
        frame.write_reset_stream(0, 0, limits.STREAM_WINDOW + 1),
        Code.FLOW_CONTROL_ERROR,
    ),
    "retirement of an ID never issued": (frame.write_retire_connection_id(99), Code.PROTOCOL_VIOLATION),
    "retirement of the ID in use": (frame.write_retire_connection_id(0), Code.PROTOCOL_VIOLATION),
    "too many connection IDs": (
        b"".join(new_cid(n) for n in range(10, 11 + limits.MAX_ACTIVE_PEER_CIDS)),
        Code.CONNECTION_ID_LIMIT_ERROR,
    ),
    "one number for two IDs": (
        new_cid(50, 0, b"12345678") + new_cid(50, 0, b"87654321"),
        Code.PROTOCOL_VIOLATION,
    ),
    "an ID retired beyond its own number": (b"\x18\x01\x02\x08" + bytes(24), Code.FRAME_ENCODING_ERROR),
    "too many streams in MAX_STREAMS": (
        frame.write_max_streams((1 << 60) + 1, False),
        Code.FRAME_ENCODING_ERROR,
    ),
}


@pytest.mark.parametrize(("payload", "code"), VIOLATIONS.values(), ids=VIOLATIONS.keys())
def test_violation(payload: bytes, code: Code) -> None:
    attacker = Attacker()
    attacker.send(payload)
    assert attacker.code == code
    # The peer is told, once.
    closed = attacker.pair.client.conn.closed
    assert closed is not None
    assert (closed.code, closed.remote) == (code, True)
    attacker.pair.network.run(lambda: len(attacker.pair.server_host.endpoint) == 0)


def test_reserved_bits() -> None:
    attacker = Attacker()
    attacker.send(frame.write_ping(), bits=0x18)
    assert attacker.code == Code.PROTOCOL_VIOLATION


def test_connection_flow_control() -> None:
    """Each stream stays within its limit, all together do not."""
    attacker = Attacker()
    attacker.pair.server.paused = True
    count = limits.CONNECTION_WINDOW // limits.STREAM_WINDOW + 1
    attacker.send(*(stream(4 * n, limits.STREAM_WINDOW - 1, b"x") for n in range(count)))
    assert attacker.code == Code.FLOW_CONTROL_ERROR


def test_harmless_oddities() -> None:
    """Not errors: repeated frames, smaller limits, blocked frames, duplicates, an answer nobody asked for."""
    attacker = Attacker()
    payload = (
        stream(0, 0, b"abc")
        + stream(0, 0, b"abc", fin=True)
        + stream(0, 3, b"", fin=True)
        + frame.write_max_data(1)
        + frame.write_max_streams(0, False)
        + frame.write_data_blocked(7)
        + frame.write_stream_data_blocked(4, 7)
        + frame.write_streams_blocked(7, True)
        + frame.write_path_response(bytes(8))
        + new_cid(1, 0, b"12345678")
        + frame.write_reset_stream(0, 5, 3)
        + frame.write_padding(50)
        + frame.write_ping()
    )
    if attacker.pair.server.conn.peer_cids.current.sequence == 0:
        payload = payload.replace(new_cid(1, 0, b"12345678"), b"")
    attacker.send(payload, payload)
    assert attacker.pair.server.conn.closed is None
    assert attacker.pair.server.received[0] == b"abc"


# --- floods ------------------------------------------------------------------------------------------


def test_path_challenges_are_answered_within_reason() -> None:
    """CVE-2023-49295: a flood of PATH_CHALLENGE must not make answers pile up."""
    attacker = Attacker()
    attacker.send(*[frame.write_path_challenge(bytes(8)) * 130] * 100)
    assert attacker.pair.server.conn.closed is None
    assert len(attacker.pair.server.conn.path.responses) <= limits.MAX_PENDING_PATH_RESPONSES
    assert attacker.answers < 400


def test_retirements_do_not_pile_up() -> None:
    """CVE-2024-22189: each NEW_CONNECTION_ID retires the one before, and nothing is ever acknowledged."""
    attacker = Attacker()
    attacker.send(*(new_cid(n, n) for n in range(10, 2000)))
    assert attacker.code == Code.CONNECTION_ID_LIMIT_ERROR


def test_a_comb_of_stream_data_is_bounded() -> None:
    attacker = Attacker()
    per_packet = 200
    for start in range(0, limits.MAX_FRAGMENTS * 2 + 4000, per_packet * 2):
        attacker.send(b"".join(stream(0, start + 2 * n, b"x") for n in range(1, per_packet)), settle=0.0)
    attacker.pair.network.run_for(0.1)
    assert attacker.code is not None


def test_a_comb_of_crypto_data_is_bounded() -> None:
    attacker = Attacker()
    for start in range(0, limits.MAX_CRYPTO_BUFFER + 2000, 400):
        frames = (frame.write_crypto_header(start + 2 * n, 1) + b"x" for n in range(1, 200))
        attacker.send(b"".join(frames), settle=0.0)
    attacker.pair.network.run_for(0.1)
    assert attacker.code is not None


def test_a_comb_of_packet_numbers_is_bounded() -> None:
    """Every second packet is missing: what we remember and acknowledge stays small."""
    attacker = Attacker()
    for _ in range(2000):
        attacker.pn += 1
        attacker.send(frame.write_ping(), settle=0.0)
    attacker.pair.network.run_for(0.1)
    assert attacker.pair.server.conn.closed is None
    assert len(attacker.pair.server.conn.application.received.ranges) <= limits.MAX_ACK_RANGES


def test_pings_are_not_answered_one_by_one() -> None:
    attacker = Attacker()
    attacker.send(*[frame.write_ping()] * 2000)
    assert attacker.answers < 200


def test_old_packets_are_not_processed_twice() -> None:
    attacker = Attacker()
    attacker.send(stream(0, 0, b"once"))
    replay = attacker.pair.network.log[-1]
    attacker.pair.network.run_for(0.1)
    sent = [d for d in attacker.pair.network.log if d.source == CLIENT][-1]
    for _ in range(50):
        attacker.pair.network.send(Datagram(CLIENT, SERVER, sent.data))
    attacker.pair.network.run_for(0.1)
    assert attacker.pair.server.received[0] == b"once"
    assert attacker.pair.server.conn.closed is None
    assert replay is not None


def test_zero_length_and_tiny_datagrams() -> None:
    attacker = Attacker()
    for size in range(1, 40):
        attacker.pair.network.send(Datagram(CLIENT, SERVER, (b"\x40" + attacker.cid + bytes(64))[:size]))
        attacker.pair.network.send(Datagram(CLIENT, SERVER, bytes(size)))
        attacker.pair.network.send(Datagram(CLIENT, SERVER, b"\xff" * size))
    attacker.pair.network.run_for(0.1)
    assert attacker.pair.server.conn.closed is None


def initial_flood(pair: Pair, count: int) -> None:
    first = pair.network.log[0].data
    for number in range(count):
        data = bytearray(first)
        data[6:14] = number.to_bytes(8, "big")  # another destination ID: the packet cannot be opened
        pair.network.send(Datagram(("203.0.113.5", number % 60_000 + 1), SERVER, bytes(data)))


def test_initials_that_cannot_be_opened_leave_nothing_behind() -> None:
    """CVE-2026-14456: forged Initials must not fill the table of connections."""
    pair = make_pair().establish()
    pair.network.run_for(1.0)
    initial_flood(pair, 3000)
    pair.network.run_for(0.2)
    assert len(pair.server_host.endpoint) == 1
    late = Host(pair.network, ("198.51.100.9", 77), 5).connect(SERVER)
    pair.network.run(lambda: late.confirmed, 5.0)


def test_packets_that_wait_for_keys_are_bounded() -> None:
    """CVE-2025-54939: coalesced Handshake packets that come before there are keys for them."""
    pair = make_pair()
    conn = pair.client.conn
    peer = conn.peer_cids.current.cid
    junk = write_long_header(PacketType.HANDSHAKE, 1, conn.local_cid, peer, b"", 0, 4, 100) + bytes(96)
    for _ in range(300):
        pair.network.send(Datagram(SERVER, CLIENT, junk * 10))
    pair.network.run_for(0.012)
    assert 0 < len(conn.undecryptable) <= limits.MAX_UNDECRYPTABLE
    pair.establish()
    assert not conn.undecryptable
