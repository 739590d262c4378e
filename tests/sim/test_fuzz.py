"""Random frames from a peer that has the keys, at every level, and random damage on the way: a connection goes on,
or closes with a code; it never raises, and never takes more than its limits."""

from __future__ import annotations

import random

import pytest

from quicfs.transport import limits
from quicfs.transport.crypto import Keys, initial_secrets
from quicfs.transport.packet import FIXED_BIT, PacketType, parse_long_header, write_long_header
from quicfs.transport.state import State
from quicfs.transport.uapi import CryptoLevel

from .endpoints import CLIENT, SERVER, Pair, both_ways, make_pair
from .fake_tls import SUITE, traffic_secret
from .frames import FrameMaker
from .network import Datagram


def seal_short(keys: Keys, cid: bytes, pn: int, payload: bytes) -> bytes:
    out = memoryview(bytearray(len(payload) + 100))
    return bytes(out[: keys.seal_run(out, 0, bytes((FIXED_BIT | 3,)) + cid, pn, 4, (payload,))])


def seal_long(
    keys: Keys, packet_type: PacketType, dcid: bytes, scid: bytes, pn: int, payload: bytes
) -> bytes:
    head = write_long_header(packet_type, 1, dcid, scid, b"", pn, 4, 4 + len(payload) + 16)
    out = memoryview(bytearray(len(head) + len(payload) + 16))
    return bytes(out[: keys.seal_run(out, 0, head[:-4], pn, 4, (payload,))])


def bounded(pair: Pair) -> bool:
    conn = pair.server.conn
    return (
        len(conn.streams) <= limits.MAX_STREAMS_BIDI + limits.MAX_STREAMS_UNI + 8
        and len(conn.path.responses) <= limits.MAX_PENDING_PATH_RESPONSES
        and len(conn.control) < 2000
    )


@pytest.mark.parametrize("seed", range(150))
def test_application_frames(seed: int) -> None:
    rng = random.Random(seed)
    maker = FrameMaker(rng, patient=seed % 3 > 0)
    pair = make_pair(seed).establish()
    pair.network.run_for(0.5)
    pair.server.send(b"something under way")
    keys = Keys(SUITE, traffic_secret(CryptoLevel.APP, from_server=False))
    cid = pair.client.conn.peer_cids.current.cid
    for pn in range(1000, 1060):
        pair.network.send(Datagram(CLIENT, SERVER, seal_short(keys, cid, pn, maker.payload() + b"\0\0\0\0")))
        pair.network.run_for(0.02)
        assert bounded(pair)
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
