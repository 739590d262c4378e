"""Random frames from a peer that has the keys, at every level, and random damage on the way: a connection goes on,
or closes with a code; it never raises, and never takes more than its limits."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest

from quicfs.transport import limits
from quicfs.transport.config import ConnectionConfig, default_parameters
from quicfs.transport.conn import Connection
from quicfs.transport.crypto import Keys, initial_secrets
from quicfs.transport.packet import (
    FIXED_BIT,
    KEY_PHASE_BIT,
    VERSION_1,
    VERSION_2,
    PacketType,
    parse_long_header,
    write_long_header,
    write_retry,
    write_version_negotiation,
)
from quicfs.transport.qlog.tracer import QlogTracer
from quicfs.transport.state import State
from quicfs.transport.uapi import CryptoLevel

from .endpoints import CLIENT, SERVER, Host, both_ways, make_pair
from .fake_tls import SUITE, traffic_secret
from .frames import FrameMaker
from .network import Address, Datagram, Network

ADDRESSES: list[Address] = [
    CLIENT,
    CLIENT,
    CLIENT,
    (CLIENT[0], 50_001),
    *(("203.0.113.9", 61_000 + number) for number in range(5)),
]
LONG = (PacketType.INITIAL, PacketType.ZERO_RTT, PacketType.HANDSHAKE)


class Nowhere:
    """Takes the records of a qlog."""

    def write(self, record: bytes) -> bool:
        return True

    def flush(self) -> None:
        return None

    def close(self) -> None:
        return None


def traced(conn: Connection, now: float) -> QlogTracer:
    return QlogTracer(conn, now, Nowhere(), 0.0)


def everything(seed: int) -> ConnectionConfig:
    """All extensions on; every other connection is traced, every third changes its keys often."""
    return ConnectionConfig(
        parameters=replace(default_parameters(), max_datagram_frame_size=65_535),
        trace=traced if seed % 2 else None,
        update_keys_after=40 if seed % 3 == 0 else limits.KEY_UPDATE_AFTER,
    )


def seal_short(keys: Keys, cid: bytes, pn: int, payload: bytes, bits: int = 0) -> bytes:
    out = memoryview(bytearray(len(payload) + 100))
    return bytes(out[: keys.seal_run(out, 0, bytes((FIXED_BIT | bits | 3,)) + cid, pn, 4, (payload,))])


def seal_long(
    keys: Keys,
    packet_type: PacketType,
    dcid: bytes,
    scid: bytes,
    pn: int,
    payload: bytes,
    version: int = VERSION_1,
) -> bytes:
    head = write_long_header(packet_type, version, dcid, scid, b"", pn, 4, 4 + len(payload) + 16)
    out = memoryview(bytearray(len(head) + len(payload) + 16))
    return bytes(out[: keys.seal_run(out, 0, head[:-4], pn, 4, (payload,))])


def bounded(conn: Connection) -> bool:
    return (
        len(conn.streams) <= limits.MAX_STREAMS_BIDI + limits.MAX_STREAMS_UNI + 8
        and len(conn.paths) <= limits.MAX_PATHS
        and all(len(path.responses) <= limits.MAX_PENDING_PATH_RESPONSES for path in conn.paths)
        and all(path.congestion.bytes_in_flight >= 0 for path in conn.paths)
        and len(conn.control) < 2000
        and len(conn.events) <= limits.MAX_EVENTS
        and len(conn.datagrams.received) <= limits.MAX_DATAGRAMS_IN
        and conn.crypto_received.size <= limits.MAX_CRYPTO_BUFFER
        and len(conn.undecryptable) <= limits.MAX_UNDECRYPTABLE
    )


class Forger:
    """Packets of one end with whatever in them: of any key phase, type and version, alone or in trains."""

    def __init__(self, rng: random.Random, maker: FrameMaker, target: Connection) -> None:
        self._rng = rng
        self._maker = maker
        self._target = target
        from_server = not target.is_server
        self._phases = [Keys(SUITE, traffic_secret(CryptoLevel.APP, from_server=from_server))]
        self._handshake = Keys(SUITE, traffic_secret(CryptoLevel.HANDSHAKE, from_server=from_server))
        self._early = Keys(SUITE, traffic_secret(CryptoLevel.EARLY, from_server=from_server))
        self._phase = 0
        self._pn = 1000

    def train(self) -> tuple[bytes, int]:
        """Datagrams of one size, which is told as well; the last one may be shorter."""
        rng = self._rng
        if rng.random() < 0.1:
            data = self.long()
            return data, len(data)
        count = rng.choice((1, 1, 1, 2, 5))
        cid = rng.choice([issued.cid for issued in self._target.local_cids])
        packets = [self.short(cid) for _ in range(count)]
        if rng.random() < 0.1:
            return b"".join(packets), rng.randrange(1, 60)  # as no network would cut them
        size = len(packets[0])
        return b"".join(packet[:size].ljust(size, b"\0") for packet in packets[:-1]) + packets[-1][
            :size
        ], size

    def short(self, cid: bytes) -> bytes:
        rng = self._rng
        if rng.random() < 0.03:
            self._phase += 1
        generation = max(0, self._phase + rng.choice((0,) * 12 + (-1,)))
        while len(self._phases) <= generation:
            self._phases.append(self._phases[-1].next_phase())
        self._pn += rng.choice((0, 1, 1, 1, 1, 1, 1, 2, 30))
        payload = self._maker.payload() + bytes(4) if rng.random() > 0.03 else b""
        bits = KEY_PHASE_BIT if generation % 2 else 0
        return seal_short(self._phases[generation], cid, self._pn, payload, bits)

    def long(self) -> bytes:
        rng, target = self._rng, self._target
        packet_type = rng.choice(LONG)
        version = rng.choice((VERSION_1, VERSION_2))
        secrets = initial_secrets(version, target.original_dcid)
        keys = {
            PacketType.INITIAL: Keys(SUITE, secrets[not target.is_server], version),
            PacketType.ZERO_RTT: self._early,
            PacketType.HANDSHAKE: self._handshake,
        }[packet_type]
        dcid = rng.choice([target.local_cid, target.original_dcid])
        self._pn += 1
        payload = self._maker.payload() + bytes(rng.choice((4, 1150)))
        return seal_long(keys, packet_type, dcid, target.peer_cids.first, self._pn, payload, version)


@pytest.mark.parametrize("seed", range(150))
def test_application_frames(seed: int) -> None:
    rng = random.Random(seed)
    maker = FrameMaker(rng, patient=seed % 3 > 0)
    pair = make_pair(seed, server=everything(seed)).establish()
    pair.network.run_for(0.5)
    pair.server.send(b"something under way")
    keys = Keys(SUITE, traffic_secret(CryptoLevel.APP, from_server=False))
    cid = pair.client.conn.peer_cids.current.cid
    for pn in range(1000, 1060):
        pair.network.send(Datagram(CLIENT, SERVER, seal_short(keys, cid, pn, maker.payload() + b"\0\0\0\0")))
        pair.network.run_for(0.02)
        assert bounded(pair.server.conn)
        if pair.server.conn.closed is not None:
            break
    closed = pair.server.conn.closed
    assert closed is None or closed.code != 1 or closed.reason  # INTERNAL_ERROR only with a reason
    pair.network.run_for(40.0)
    assert pair.server.conn.state is State.CLOSED
    assert len(pair.server_host.endpoint) == 0


@pytest.mark.parametrize("seed", range(150))
def test_handshake_frames(seed: int) -> None:
    """Initial keys are everybody's, so that anybody can write an authentic Initial."""
    rng = random.Random(seed)
    maker = FrameMaker(rng)
    pair = make_pair(seed)
    first = pair.network.log[0].data
    header = parse_long_header(memoryview(first), 0, len(first))
    initial = Keys(SUITE, initial_secrets(1, header.dcid)[0])
    handshake = Keys(SUITE, traffic_secret(CryptoLevel.HANDSHAKE, from_server=False))
    for pn in range(1, 30):
        which, keys = rng.choice([(PacketType.INITIAL, initial), (PacketType.HANDSHAKE, handshake)])
        data = seal_long(keys, which, header.dcid, header.scid, pn, maker.payload() + b"\0\0\0\0")
        if rng.random() < 0.5:
            which, keys = rng.choice([(PacketType.INITIAL, initial), (PacketType.HANDSHAKE, handshake)])
            data += seal_long(keys, which, header.dcid, header.scid, pn + 50, maker.payload() + b"\0\0\0\0")
        data += bytes(max(0, 1200 - len(data)))
        pair.network.send(Datagram(CLIENT, SERVER, data))
        pair.network.run_for(rng.random() * 0.02)
    pair.network.run_for(90.0)
    assert len(pair.server_host.endpoint) == 0
    assert pair.client.closed


@pytest.mark.parametrize("to_server", [True, False])
@pytest.mark.parametrize("seed", range(120))
def test_paths_and_phases(seed: int, to_server: bool) -> None:
    """Trains from many addresses, to any connection ID, under keys of any phase, among packets with long headers."""
    rng = random.Random(seed)
    maker = FrameMaker(rng, patient=seed % 4 > 0)
    pair = make_pair(seed, client=everything(seed), server=everything(seed)).establish()
    pair.network.run_for(0.5)
    target, other = (pair.server, pair.client) if to_server else (pair.client, pair.server)
    conn = target.conn
    conn.events.mask = (1 << 10) - 1
    both_ways(pair.network, up=False)  # the honest peer is out of the way
    target.send(bytes(20_000))
    forger = Forger(rng, maker, conn)
    now = pair.network.now
    for _ in range(120):
        data, size = forger.train()
        source = rng.choice(ADDRESSES) if to_server else SERVER
        target.host.handle_train(now, source, bytearray(data), size, rng.choice((0, 0, 1, 2, 3)))
        assert bounded(conn)
        pair.network.run_for(rng.choice((0.001, 0.02, 0.3)))
        now = pair.network.now
        if conn.state is State.CONNECTED and rng.random() < 0.02 and len(conn.streams) < 20:
            target.send(bytes(3000), unidirectional=True)
        if conn.closed is not None:
            break
    assert conn.closed is None or conn.closed.code != 1 or conn.closed.reason
    pair.network.run_for(90.0)
    assert conn.state is State.CLOSED and other.closed
    assert all(path.congestion.bytes_in_flight >= 0 for path in conn.paths)


@pytest.mark.parametrize("seed", range(120))
def test_a_client_among_liars(seed: int) -> None:
    """Version Negotiation, Retry, and packets of both versions before and while a client shakes hands, with 0-RTT."""
    rng = random.Random(seed)
    maker = FrameMaker(rng)
    network = Network(seed)
    server = Host(network, SERVER, seed + 1)
    server.listen(everything(seed), early_data=seed % 3 > 0, validate_address=seed % 5 == 0)
    client = Host(network, CLIENT, seed + 2)
    remembered = default_parameters() if seed % 2 else None
    app = client.connect(
        SERVER, everything(seed), remembered=remembered, early=lambda app: app.send(b"early") and None
    )
    for _ in range(rng.randrange(1, 12)):
        conn = app.conn
        kind = rng.randrange(8)
        if kind == 0:
            offered = tuple(rng.choice((VERSION_1, VERSION_2, 0x1A2A3A4A)) for _ in range(rng.randrange(4)))
            data = write_version_negotiation(conn.local_cid, conn.original_dcid, offered, 0)
        elif kind == 1:
            tokens = rng.randbytes(rng.choice((0, 10, 200, 1_300)))
            data = write_retry(
                rng.choice((VERSION_1, VERSION_2)),
                conn.local_cid,
                rng.randbytes(rng.randrange(21)),
                tokens,
                conn.original_dcid,
                0,
            )
        else:
            data = Forger(rng, maker, conn).long()
        client.handle_train(network.now, SERVER, bytearray(data), len(data), 0)
        assert bounded(app.conn)
        network.run_for(rng.choice((0.0, 0.01, 0.1, 1.0)))
    network.run_for(120.0)
    assert app.closed
    assert len(server.endpoint) == 0


@pytest.mark.parametrize("seed", range(40))
def test_everything_goes_wrong_at_once(seed: int) -> None:
    """Links change at random while streams open, end and are reset on both sides."""
    rng = random.Random(seed)
    pair = make_pair(seed, mtu=rng.choice([1472, 8972, 65_507]))
    pair.establish()
    pair.run(lambda: bool(pair.server_host.apps))
    expected: dict[tuple[bool, int], bytes] = {}
    spoiled: set[tuple[bool, int]] = set()
    for _ in range(25):
        both_ways(
            pair.network,
            loss=rng.choice([0.0, 0.0, 0.05, 0.2]),
            reorder=rng.choice([0.0, 0.3]),
            duplicate=rng.choice([0.0, 0.3]),
            corrupt=rng.choice([0.0, 0.05]),
            delay=rng.choice([0.0005, 0.01, 0.06]),
            rate=rng.choice([None, 5e6, 50e6]),
            mtu=rng.choice([1200, 1400, 65_535]),
            up=rng.random() > 0.05,
            bleach=rng.random() < 0.1,
        )
        app = rng.choice([pair.client, pair.server])
        kind = rng.choice([0, 2])
        if app.conn.streams.can_open(kind):
            stream = app.open(unidirectional=kind == 2)
            data = rng.randbytes(rng.choice([0, 10, 3000, 60_000]))
            ends = rng.random() < 0.9
            app.write(stream, data, fin=ends)
            key = app.conn.is_server, stream.stream_id
            expected[key] = data
            if not ends or rng.random() < 0.1:
                app.conn.reset_stream(stream, 3)
                app.host.flush()
                spoiled.add(key)
        pair.network.run_for(rng.random() * 0.3)
    both_ways(
        pair.network,
        loss=0.0,
        reorder=0.0,
        duplicate=0.0,
        corrupt=0.0,
        delay=0.01,
        rate=None,
        up=True,
        mtu=65_535,
    )

    def arrived(key: tuple[bool, int]) -> bool:
        from_server, stream_id = key
        there = pair.client if from_server else pair.server
        return stream_id in there.ended or stream_id in there.resets

    pair.run(lambda: all(arrived(key) for key in expected), 60)
    for from_server, stream_id in expected.keys() - spoiled:
        there = pair.client if from_server else pair.server
        assert there.received[stream_id] == expected[from_server, stream_id]
    assert pair.client.conn.closed is None
    assert pair.server.conn.closed is None
