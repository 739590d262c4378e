"""Values that nobody should get used to: the Fixed Bit (RFC 9287), reserved parameters, numbers left out."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest

from quicfs.transport import frame_ack, transport_param, varint
from quicfs.transport.config import ConnectionConfig, default_parameters
from quicfs.transport.crypto import Keys
from quicfs.transport.errors import TransportErrorCode as Code
from quicfs.transport.packet import FIXED_BIT, LONG_FORM
from quicfs.transport.state import State
from quicfs.transport.uapi import CryptoLevel

from .endpoints import CLIENT, SERVER, Pair, both_ways, make_pair
from .fake_tls import SUITE, traffic_secret
from .network import Datagram, Network

DATA = random.Random(2).randbytes(500_000)
PLAIN = ConnectionConfig(parameters=replace(default_parameters(), grease_quic_bit=False))


def fixed_bits(pair: Pair, source: str, *, long: bool) -> set[int]:
    """The values of the bit in a host's datagrams that begin with a long header, or with a short one."""
    return {
        datagram.data[0] & FIXED_BIT
        for datagram in pair.network.log
        if datagram.source[0] == source and bool(datagram.data[0] & LONG_FORM) is long
    }


def transfer(pair: Pair) -> None:
    for _ in range(6):
        up, down = pair.client.send(DATA), pair.server.send(DATA)
        pair.run(lambda up=up: up.stream_id in pair.server.ended, 200)  # type: ignore[misc]
        pair.run(lambda down=down: down.stream_id in pair.client.ended, 200)  # type: ignore[misc]
        assert pair.server.received[up.stream_id] == pair.client.received[down.stream_id] == DATA


@pytest.mark.parametrize(("client", "server"), [(None, None), (PLAIN, None), (None, PLAIN), (PLAIN, PLAIN)])
def test_fixed_bit(client: ConnectionConfig | None, server: ConnectionConfig | None) -> None:
    """Each end clears it now and then if the other has said that it may; the first packet always has it."""
    pair = make_pair(client=client, server=server).establish()
    transfer(pair)
    both, one = {0, FIXED_BIT}, {FIXED_BIT}
    assert pair.network.log[0].data[0] & FIXED_BIT
    assert fixed_bits(pair, CLIENT[0], long=False) == (one if server is PLAIN else both)
    assert fixed_bits(pair, SERVER[0], long=False) == (one if client is PLAIN else both)
    assert fixed_bits(pair, SERVER[0], long=True) <= (one if client is PLAIN else both)


@pytest.mark.parametrize("seed", range(8))
def test_fixed_bit_on_a_bad_link(seed: int) -> None:
    def prepare(network: Network) -> None:
        both_ways(network, loss=0.1, reorder=0.2, reorder_delay=0.03)

    pair = make_pair(seed, prepare=prepare, validate_address=seed % 2 == 0).establish()
    both_ways(pair.network, loss=0.01)
    transfer(pair)


def test_a_fixed_bit_of_0_that_was_not_agreed_is_dropped() -> None:
    pair = make_pair(server=PLAIN).establish()
    pair.network.run_for(1.0)
    conn = pair.server.conn
    keys = Keys(SUITE, traffic_secret(CryptoLevel.APP, from_server=False))
    for bit, came in ((0, False), (FIXED_BIT, True)):
        out = memoryview(bytearray(100))
        pn = conn.application.received.largest + 1
        end = keys.seal_run(out, 0, bytes((bit | 3,)) + conn.local_cid, pn, 4, (b"\x01" + bytes(20),))
        pair.network.send(Datagram(CLIENT, SERVER, bytes(out[:end])))
        pair.network.run_for(0.1)
        assert (conn.application.received.largest == pn) is came


def test_first_packet_without_the_bit_and_without_a_token() -> None:
    """RFC 9287 §3.1: such a client cannot know what the server agrees to."""
    pair = make_pair(prepare=lambda network: both_ways(network, up=False))
    first = bytearray(pair.network.log[0].data)
    both_ways(pair.network, up=True)
    first[0] &= ~FIXED_BIT
    pair.network.send(Datagram(("203.0.113.5", 9), SERVER, bytes(first)))
    pair.network.run_for(0.1)
    assert not pair.server_host.apps


def test_reserved_transport_parameter() -> None:
    """RFC 9000 §18.1: another one for each connection, the same as long as it lasts."""
    found = set()
    for seed in range(10):
        conn = make_pair(seed).client.conn
        data = conn.local_parameters()
        assert data == conn.local_parameters()
        assert transport_param.decode(data, from_server=False) == conn.ours
        pos, reserved = 0, []
        while pos < len(data):
            number, pos = varint.decode(data, pos)
            length, pos = varint.decode(data, pos)
            pos += length
            if number % 31 == 27:
                reserved.append(number)
        assert len(reserved) == 1
        found |= set(reserved)
    assert len(found) > 5


# --- packet numbers left out (RFC 9000 §21.4) --------------------------------------------------------


def test_numbers_are_left_out_on_both_sides() -> None:
    pair = make_pair().establish()
    transfer(pair)
    for app in (pair.client, pair.server):
        stats = app.conn.recovery.stats
        left_out = sum(space.sent.next_pn for space in app.conn.spaces) - stats.packets_sent
        assert 2 <= left_out <= 12
        assert stats.packets_lost == 0
    received = pair.server.conn.application.received
    assert len(received.ranges) < 40


def test_who_acknowledges_everything_is_found_out() -> None:
    """An optimistic receiver, which acknowledges what it has not got, to be sent more and faster."""
    pair = make_pair(certificate=500).establish()
    server = pair.server.conn
    pair.network.link(SERVER[0], CLIENT[0]).up = False
    keys = Keys(SUITE, traffic_secret(CryptoLevel.APP, from_server=False))
    cid, pn = pair.client.conn.peer_cids.current.cid, 1000
    stream = pair.server.open()
    for _ in range(200):
        pair.server.write(stream, bytes(50_000))
        ack = frame_ack.write_ack([(0, server.application.sent.next_pn - 1)], 0, None, 99)
        out = memoryview(bytearray(200))
        end = keys.seal_run(out, 0, bytes((FIXED_BIT | 3,)) + cid, pn, 4, (ack + bytes(20),))
        pn += 1
        pair.network.send(Datagram(CLIENT, SERVER, bytes(out[:end])))
        pair.network.run_for(0.03)
        if server.closed is not None:
            break
    assert server.closed is not None and server.closed.code == Code.PROTOCOL_VIOLATION
    assert server.state in (State.CLOSING, State.CLOSED)
    assert server.application.sent.next_pn < 2_000
