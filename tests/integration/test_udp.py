"""Trains over real UDP sockets, with GSO and GRO and without."""

from __future__ import annotations

import select
import socket

import pytest

from quicfs.transport.builder import Transmit
from quicfs.transport.udp import UdpSocket, max_payload_towards

ECT_0 = 2
TRAIN = bytes(range(256)) * 40  # 10,240 bytes: eight datagrams of 1,200 and one of 640


def receive(sock: UdpSocket, wanted: int) -> list[tuple[bytes, int, object, object]]:
    """Datagrams until `wanted` of them are here: `(bytes, ECN, remote, local)`."""
    found: list[tuple[bytes, int, object, object]] = []
    buffer = memoryview(bytearray(65_536))
    while len(found) < wanted:
        assert select.select([sock.fileno()], [], [], 5.0)[0], f"{len(found)} of {wanted} datagrams came"
        while (train := sock.receive(buffer)) is not None:
            for start in range(0, train.length, train.segment_size):
                stop = min(start + train.segment_size, train.length)
                found.append((bytes(buffer[start:stop]), train.ecn, train.remote, train.local))
    return found


@pytest.mark.parametrize(
    ("family", "host"), [(socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")], ids=["ipv4", "ipv6"]
)
@pytest.mark.parametrize("segmentation", [True, False], ids=["train", "one-by-one"])
def test_a_train_arrives_whole(family: int, host: str, segmentation: bool) -> None:
    receiver = UdpSocket(family, (host, 0))
    remote = receiver.sock.getsockname()
    sender = UdpSocket(family, None, remote)
    try:
        if not segmentation:
            sender.gso = False  # as on a kernel that has no UDP_SEGMENT
        assert sender.send(Transmit(memoryview(TRAIN), 1_200, remote, None, ECT_0))
        datagrams = receive(receiver, 9)
        assert [piece for piece, *_ in datagrams] == [
            TRAIN[i : i + 1_200] for i in range(0, len(TRAIN), 1_200)
        ]
        assert {ecn for _, ecn, *_ in datagrams} == {ECT_0}
        assert {source[:2] for _, _, source, _ in datagrams} == {sender.sock.getsockname()[:2]}  # type: ignore[index]
    finally:
        sender.close()
        receiver.close()


@pytest.mark.parametrize("wildcard", ["0.0.0.0", "::"])
def test_answers_come_from_the_address_that_was_spoken_to(wildcard: str) -> None:
    """The routing table would take 127.0.0.1 for all of 127/8."""
    family = socket.AF_INET6 if ":" in wildcard else socket.AF_INET
    server = UdpSocket(family, (wildcard, 0))
    port = server.sock.getsockname()[1]
    client = UdpSocket(socket.AF_INET, None, ("127.0.0.9", port))  # connected: takes answers from there only
    try:
        assert client.send(Transmit(memoryview(b"question"), 8, ("127.0.0.9", port), None, 0))
        ((data, ecn, remote, local),) = receive(server, 1)
        assert (data, ecn) == (b"question", 0)
        assert server.send(Transmit(memoryview(b"answer"), 6, remote, local, ECT_0))
        ((data, ecn, _, _),) = receive(client, 1)
        assert (data, ecn) == (b"answer", ECT_0)
    finally:
        client.close()
        server.close()


def test_what_fits_through_loopback() -> None:
    assert max_payload_towards(("127.0.0.1", 9)) == 65_507
    assert max_payload_towards(("::1", 9, 0, 0)) > 65_000


def test_too_large_a_datagram_is_lost_without_a_word() -> None:
    """EMSGSIZE is what a probe beyond the interface's MTU meets; DPLPMTUD treats it as lost."""
    receiver = UdpSocket(socket.AF_INET, ("127.0.0.1", 0))
    remote = receiver.sock.getsockname()
    sender = UdpSocket(socket.AF_INET, None, remote)
    try:
        data = memoryview(bytes(65_520))
        assert sender.send(Transmit(data, len(data), remote, None, 0))
        assert sender.send(Transmit(memoryview(b"next"), 4, remote, None, 0))
        assert [piece for piece, *_ in receive(receiver, 1)] == [b"next"]
    finally:
        sender.close()
        receiver.close()
