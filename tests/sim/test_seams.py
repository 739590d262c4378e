"""What a hostile peer finds between two features: each of these once raised, or cost far too much."""

from __future__ import annotations

import random
import time

import pytest

from quicfs.transport import frame, limits
from quicfs.transport.config import ConnectionConfig
from quicfs.transport.conn import Connection
from quicfs.transport.crypto import Keys, initial_secrets
from quicfs.transport.endpoint import Endpoint
from quicfs.transport.errors import TransportErrorCode as Code
from quicfs.transport.packet import PacketType, write_long_header
from quicfs.transport.state import State
from quicfs.transport.uapi import ConnectionIdInfo, CryptoLevel, Event

from .endpoints import CLIENT, SERVER, Host, make_pair
from .fake_tls import SUITE, client_hello, traffic_secret
from .hostile import Attacker
from .network import Address, Datagram, Network

ELSEWHERE: Address = ("203.0.113.9", 61_000)
PING = frame.write_ping()


def new_cid(sequence: int, retire: int = 0) -> bytes:
    return frame.write_new_connection_id(sequence, retire, sequence.to_bytes(8, "big"), bytes(16))


def send_from(attacker: Attacker, source: Address, payload: bytes, settle: float = 0.03) -> None:
    attacker.pair.network.send(Datagram(source, SERVER, attacker.seal(payload)))
    attacker.pair.network.run_for(settle)


def test_a_return_to_a_path_whose_id_was_taken_back() -> None:
    attacker = Attacker()
    conn = attacker.pair.server.conn
    send_from(attacker, ELSEWHERE, PING + bytes(1100))
    assert conn.path.remote == ELSEWHERE
    send_from(attacker, ELSEWHERE, new_cid(50, retire=50) + bytes(20))  # the only one that is left
    send_from(attacker, CLIENT, PING + bytes(20))
    assert (
        conn.path.remote == ELSEWHERE
    )  # no ID for the old path: the peer cannot be followed (RFC 9000 §9.5)
    send_from(attacker, ELSEWHERE, new_cid(51) + bytes(20))
    send_from(attacker, CLIENT, PING + bytes(20))
    assert conn.path.remote == CLIENT
    assert conn.state is State.CONNECTED


def test_paths_that_are_given_up_while_no_retirement_is_acknowledged() -> None:
    attacker = Attacker()
    conn = attacker.pair.server.conn
    used = attacker.cid
    attacker.cid = next(issued.cid for issued in conn.local_cids if issued.cid != used)
    for number in range(limits.MAX_RETIRED_UNACKED + 6):
        sequence = 100 + number
        source = ("203.0.113.9", 20_000 + number)
        send_from(
            attacker, source, new_cid(sequence) + frame.write_path_challenge(bytes(8)) + bytes(1100), 8.0
        )
        if conn.state is not State.CONNECTED:
            break
    assert attacker.code == Code.CONNECTION_ID_LIMIT_ERROR


def test_a_copy_of_a_packet_number_without_frames() -> None:
    attacker = Attacker()
    attacker.send(PING + bytes(20))
    attacker.pn -= 1
    attacker.send(b"")
    assert attacker.code is None
    attacker.send(PING + bytes(20))
    assert attacker.pair.server.conn.application.received.largest == attacker.pn - 1


def test_large_sequence_numbers_in_notifications() -> None:
    attacker = Attacker()
    conn = attacker.pair.server.conn
    conn.events.mask = 1 << Event.CONNECTION_ID
    attacker.send(new_cid(1 << 40, retire=(1 << 40) - 1) + bytes(20))
    assert attacker.code is None
    event, payload = conn.events.popleft()
    assert event is Event.CONNECTION_ID
    assert ConnectionIdInfo.unpack(payload).dest == 1


def test_a_client_hello_in_single_bytes() -> None:
    """A stranger's 16 KiB, one byte in each frame, cost what their frames cost and not their square."""
    network = Network(0)
    host = Host(network, SERVER, 3)
    host.listen()
    dcid, scid = b"original", b"stranger"
    keys = Keys(SUITE, initial_secrets(1, dcid)[0])
    hello = client_hello(b"smb", b"", padding=limits.MAX_CLIENT_HELLO - 400)
    datagrams = []
    at = number = 0
    while at < len(hello) - 1:  # never complete
        payload = b""
        while len(payload) < 1140 and at < len(hello) - 1:
            payload += frame.write_crypto_header(at, 1) + hello[at : at + 1]
            at += 1
        payload = payload.ljust(1170, b"\0")
        head = write_long_header(PacketType.INITIAL, 1, dcid, scid, b"", number, 4, len(payload) + 20)
        out = memoryview(bytearray(len(head) + len(payload) + 16))
        datagrams.append(bytearray(out[: keys.seal_run(out, 0, head[:-4], number, 4, (payload,))]))
        number += 1

    def cost(part: list[bytearray]) -> float:
        begin = time.process_time()
        for datagram in part:
            host.handle_train(network.now, CLIENT, datagram, len(datagram), 0)
        return time.process_time() - begin

    third = len(datagrams) // 3
    first = cost(datagrams[:third])
    cost(datagrams[third : 2 * third])
    last = cost(datagrams[2 * third : 3 * third])
    assert last < 2.5 * first
    assert len(host.endpoint) == 1


def test_early_data_are_over_with_the_first_key_of_the_application() -> None:
    """What is acknowledged from then on must not be so in a 0-RTT packet."""
    pair = make_pair()
    conn = pair.client.conn
    conn.prepare_early_data(conn.config.parameters)
    conn.install_secret(
        CryptoLevel.EARLY, SUITE, traffic_secret(CryptoLevel.EARLY, from_server=False), send=True
    )
    assert conn.early.keys_out is not None
    conn.install_secret(CryptoLevel.APP, SUITE, traffic_secret(CryptoLevel.APP, from_server=True), send=False)
    assert conn.early.keys_out is None


def test_what_waits_for_keys_is_bounded_in_bytes() -> None:
    pair = make_pair()
    pair.run(lambda: bool(pair.server_host.apps))
    conn = pair.server.conn
    before = len(conn.undecryptable)
    for _ in range(limits.MAX_UNDECRYPTABLE):
        packet = b"\x40" + conn.local_cid + bytes(30_000)
        pair.server_host.handle_train(pair.network.now, CLIENT, bytearray(packet), len(packet), 0)
    assert len(conn.undecryptable) == before + 1


def test_ids_are_not_retired_before_the_peer_can_know_them() -> None:
    """Their numbers can be guessed: one train would have the server issue thousands of them."""
    attacker = Attacker()
    server = attacker.pair.server.conn
    known = max(issued.sequence for issued in server.local_cids)
    attacker.send(b"".join(map(frame.write_retire_connection_id, range(1, known + 200))) + bytes(20))
    assert attacker.code == Code.PROTOCOL_VIOLATION


def test_a_token_does_not_outlive_the_memory_of_used_ones() -> None:
    """A server that came back with the same key resets what it forgot, but a token would count a second time, or for
    ever: after the machine's restart the clock begins anew."""
    network = Network(0)
    token = b""
    for life in (1, 2):
        server = Host(network, SERVER, 10 + life)
        server.endpoint = Endpoint(random.Random(life).randbytes, reset_key=bytes(32))
        server.listen(validate_address=True)
        client = Host(network, (CLIENT[0], 50_000 + life), 20 + life)
        app = client.connect(SERVER, token=token)
        network.run(lambda app=app: app.confirmed and bool(app.conn.new_token))
        assert app.conn.retry_scid is not None
        token = app.conn.new_token


def test_many_connections_with_one_address_do_not_make_nonsense_dear(monkeypatch: pytest.MonkeyPatch) -> None:
    """A datagram for nobody is compared with the reset tokens of a few connections only."""
    looked_at = []
    monkeypatch.setattr(
        Connection, "handle_maybe_reset", lambda conn, now, token: looked_at.append(conn) or False
    )
    endpoint = Endpoint(random.Random(1).randbytes)
    conns = [endpoint.connect(0.0, SERVER, ConnectionConfig()) for _ in range(100)]
    nonsense = bytearray(b"\x40" + bytes(60))
    endpoint.handle(0.0, memoryview(nonsense), len(nonsense), SERVER, CLIENT, 0)
    assert looked_at == conns[-limits.MAX_RESET_SUSPECTS :]
