"""Key update (RFC 9001 §6) between two connections, and with a peer that breaks its rules."""

from __future__ import annotations

import random

import pytest

from quicfs.transport import frame_ack, limits
from quicfs.transport.config import ConnectionConfig
from quicfs.transport.crypto import Keys
from quicfs.transport.errors import MisuseError
from quicfs.transport.errors import TransportErrorCode as Code
from quicfs.transport.key_update import FORGED_LIMIT, SEALED_LIMIT
from quicfs.transport.packet import FIXED_BIT, KEY_PHASE_BIT
from quicfs.transport.uapi import CryptoLevel, Event

from .endpoints import CLIENT, SERVER, App, Pair, both_ways, make_pair
from .fake_tls import SUITE, traffic_secret
from .network import Datagram

DATA = random.Random(6).randbytes(400_000)


def phases(pair: Pair) -> tuple[int, int]:
    return pair.client.conn.key_phases.updates, pair.server.conn.key_phases.updates


def quiet(pair: Pair) -> None:
    """Long enough for keys to settle: more than 3 PTO."""
    pair.network.run_for(2.0)


@pytest.mark.parametrize("side", ["client", "server"])
def test_either_side_updates(side: str) -> None:
    pair = make_pair().establish()
    app: App = getattr(pair, side)
    for number in (1, 2, 3):
        app.conn.update_keys(pair.network.now)
        pair.client_host.flush()
        pair.server_host.flush()
        pair.run(lambda number=number: phases(pair) == (number, number))
        stream = pair.client.send(DATA)
        pair.run(lambda stream=stream: stream.stream_id in pair.server.ended)
        assert pair.server.received[stream.stream_id] == DATA
        quiet(pair)
    assert pair.client.conn.recovery.stats.packets_lost == 0


def test_both_at_once() -> None:
    """RFC 9001 §6.1: they meet in the same phase."""
    pair = make_pair().establish()
    pair.client.conn.update_keys(pair.network.now)
    pair.server.conn.update_keys(pair.network.now)
    stream = pair.client.send(DATA)
    pair.server_host.flush()
    pair.run(lambda: stream.stream_id in pair.server.ended)
    assert phases(pair) == (1, 1)


def test_not_before_the_handshake_is_confirmed() -> None:
    pair = make_pair()
    with pytest.raises(MisuseError, match="confirmed"):
        pair.client.conn.update_keys(pair.network.now)
    pair.establish()
    pair.client.close()
    with pytest.raises(MisuseError, match="open"):
        pair.client.conn.update_keys(pair.network.now)


def test_not_before_the_last_one_is_over() -> None:
    pair = make_pair().establish()
    conn = pair.client.conn
    conn.update_keys(pair.network.now)
    with pytest.raises(MisuseError, match="acknowledged"):
        conn.update_keys(pair.network.now)
    pair.client_host.flush()
    pair.run(lambda: phases(pair) == (1, 1) and conn.application.sent.largest_acked > 0)
    pair.network.run_for(0.06)  # the ACK is there
    with pytest.raises(MisuseError, match="recent"):
        conn.update_keys(pair.network.now)
    quiet(pair)
    conn.update_keys(pair.network.now)
    assert conn.key_phases.updates == 2


def test_consumers_hear_of_it() -> None:
    pair = make_pair().establish()
    for app in (pair.client, pair.server):
        app.conn.events.mask = 1 << Event.KEY_UPDATE
    for phase in (1, 0):
        pair.server.conn.update_keys(pair.network.now)
        pair.server_host.flush()
        quiet(pair)
        for app in (pair.client, pair.server):
            assert app.conn.events.popleft() == (Event.KEY_UPDATE, bytes((phase,)))
            assert not app.conn.events


@pytest.mark.parametrize("seed", range(12))
def test_automatic_updates_on_a_bad_link(seed: int) -> None:
    """Keys change after every few packets, on both sides, while packets are lost, reordered and repeated."""
    config = ConnectionConfig(update_keys_after=40)
    pair = make_pair(seed, client=config, server=config).establish()
    both_ways(
        pair.network, delay=0.01, loss=0.02, reorder=0.1, reorder_delay=0.03, duplicate=0.02, corrupt=0.01
    )
    up, down = pair.client.send(DATA), pair.server.send(DATA)
    pair.run(lambda: up.stream_id in pair.server.ended and down.stream_id in pair.client.ended, 300)
    assert pair.server.received[up.stream_id] == DATA
    assert pair.client.received[down.stream_id] == DATA
    client, server = phases(pair)
    assert min(client, server) >= 2
    assert abs(client - server) <= 1


def test_a_peer_that_does_not_answer_wears_the_keys_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """RFC 9001 §6.6: the connection closes before its keys have sealed more than the AEAD allows."""
    pair = make_pair(client=ConnectionConfig(update_keys_after=30)).establish()
    limit = 200 + limits.TRAIN_SEGMENTS
    monkeypatch.setitem(SEALED_LIMIT, SUITE, limit)
    pair.network.link(SERVER[0], CLIENT[0]).up = False
    conn = pair.client.conn
    conn.recovery.cong.cwnd = 1 << 24
    start = conn.application.sent.next_pn
    pair.client.send(bytes(2_000_000))
    pair.run(lambda: conn.closed is not None)
    assert conn.closed is not None and conn.closed.code == Code.AEAD_LIMIT_REACHED
    assert conn.application.sent.next_pn - start <= limit + 30 + limits.TRAIN_SEGMENTS


class Peer:
    """Sends 1-RTT packets in the client's name under keys of any phase; the client itself falls silent."""

    def __init__(self) -> None:
        self.pair = make_pair().establish()
        quiet(self.pair)
        self.keys = [Keys(SUITE, traffic_secret(CryptoLevel.APP, from_server=False))]
        for _ in range(4):
            self.keys.append(self.keys[-1].next_phase())
        self.cid = self.pair.client.conn.peer_cids.current.cid
        self.server = self.pair.server.conn

    def send(self, phase: int, pn: int, payload: bytes = b"\x01", *, settle: float = 0.03) -> None:
        out = memoryview(bytearray(1500))
        bit = KEY_PHASE_BIT if phase & 1 else 0
        prefix = bytes((FIXED_BIT | bit | 3,)) + self.cid
        end = self.keys[phase].seal_run(out, 0, prefix, pn, 4, (payload + bytes(20),))
        self.pair.network.send(Datagram(CLIENT, SERVER, bytes(out[:end])))
        self.pair.network.run_for(settle)

    @property
    def code(self) -> int | None:
        closed = self.server.closed
        return None if closed is None or closed.remote else closed.code


def test_reordered_around_an_update() -> None:
    """RFC 9001 §6.4, §6.5: packets of the phase before are read for 3 PTO, and not longer."""
    peer = Peer()
    received = peer.server.application.received
    peer.send(1, 1010)
    assert peer.server.key_phases.updates == 1
    peer.send(0, 1005)
    peer.send(1, 1008)
    peer.send(0, 1007)
    assert [pn in received.ranges for pn in (1005, 1007, 1008, 1010)] == [True] * 4
    peer.pair.network.run_for(2.0)
    peer.send(0, 1006)
    assert 1006 not in received.ranges
    assert peer.code is None and peer.server.key_phases.updates == 1


def test_old_keys_after_newer_ones() -> None:
    """RFC 9001 §6.4."""
    peer = Peer()
    peer.send(1, 1010)
    peer.send(0, 1011)
    assert peer.code == Code.KEY_UPDATE_ERROR


def test_newer_keys_before_old_ones() -> None:
    """RFC 9001 §6.4, the other way round."""
    peer = Peer()
    peer.send(0, 1020)
    peer.send(1, 1010)
    assert peer.code == Code.KEY_UPDATE_ERROR


def test_two_updates_without_an_ack() -> None:
    """RFC 9001 §6.2."""
    peer = Peer()
    peer.send(1, 1010, b"\x00")  # nothing that asks for an ACK
    peer.send(2, 1011)
    assert peer.code == Code.KEY_UPDATE_ERROR


def test_two_updates_with_an_ack_between() -> None:
    peer = Peer()
    for phase in (1, 2, 3):
        peer.send(phase, 1010 + phase, settle=0.06)  # the ACK leaves meanwhile
    assert peer.code is None
    assert peer.server.key_phases.updates == 3


def test_old_keys_acknowledge_new_ones() -> None:
    """RFC 9001 §6.2."""
    peer = Peer()
    peer.server.update_keys(peer.pair.network.now)
    pn = peer.server.application.sent.next_pn
    peer.pair.network.link(SERVER[0], CLIENT[0]).up = False
    peer.pair.server_host.flush()
    assert peer.server.application.sent.next_pn > pn
    peer.send(0, 1010, frame_ack.write_ack([(pn, pn)], 0, None, 99))
    assert peer.code == Code.KEY_UPDATE_ERROR


def test_forged_packets_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    """RFC 9001 §6.6: whatever their key phase, and over all keys."""
    peer = Peer()
    forge = random.Random(1).randbytes
    before = peer.server.key_phases.forged
    for _ in range(40):
        data = bytes((FIXED_BIT | forge(1)[0] & 0x3F,)) + peer.cid + forge(40)
        peer.pair.network.send(Datagram(CLIENT, SERVER, data))
    peer.pair.network.run_for(0.1)
    assert peer.server.key_phases.forged == before + 40
    assert peer.server.key_phases.updates == 0 and peer.code is None
    monkeypatch.setitem(FORGED_LIMIT, SUITE, before + 45)
    for _ in range(6):
        data = bytes((FIXED_BIT,)) + peer.cid + forge(40)
        peer.pair.network.send(Datagram(CLIENT, SERVER, data))
    peer.pair.network.run_for(0.1)
    assert peer.code == Code.AEAD_LIMIT_REACHED
