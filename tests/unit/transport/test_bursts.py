"""Trains put together from reads, and cut for sending."""

import pytest

from quicfs.transport import limits
from quicfs.transport.builder import Transmit
from quicfs.transport.bursts import cut, read_trains
from quicfs.transport.udp import LocalAddress, Received

PEER = ("192.0.2.1", 443)
HERE = LocalAddress(0)
Read = tuple[bytes, int, int] | OSError | None
"""Bytes, segment size, ECN; or what happened instead."""


class Socket:
    """Gives what it was made of, one piece a read."""

    def __init__(self, *reads: Read) -> None:
        self.reads = list(reads)
        self.remote = PEER

    def receive(self, buffer: memoryview) -> Received | None:
        read = self.reads.pop(0) if self.reads else None
        if read is None:
            return None
        if isinstance(read, OSError):
            raise read
        data, segment_size, ecn = read
        buffer[: len(data)] = data
        return Received(len(data), segment_size, self.remote, HERE, ecn)


def trains(socket: Socket, size: int = limits.TRAIN_BYTES) -> list[tuple[bytes, int, int]]:
    buffer = memoryview(bytearray(size))
    return [(bytes(data), train.segment_size, train.ecn) for data, train in read_trains(socket, buffer)]


def test_reads_that_go_on_are_one_train() -> None:
    socket = Socket((b"a" * 20, 10, 2), (b"b" * 30, 10, 2), (b"c" * 15, 10, 2))
    assert trains(socket) == [(b"a" * 20 + b"b" * 30 + b"c" * 15, 10, 2)]


def test_a_shorter_datagram_is_the_last_one() -> None:
    socket = Socket((b"a" * 20, 10, 0), (b"b" * 4, 4, 0), (b"c" * 4, 4, 0))
    assert trains(socket) == [(b"a" * 20 + b"b" * 4, 10, 0), (b"c" * 4, 4, 0)]


@pytest.mark.parametrize(
    "other", [(b"b" * 20, 10, 3), (b"b" * 20, 5, 2), (b"b" * 20, 20, 2)], ids=["ecn", "smaller", "larger"]
)
def test_what_differs_is_another_train(other: tuple[bytes, int, int]) -> None:
    assert trains(Socket((b"a" * 20, 10, 2), other)) == [(b"a" * 20, 10, 2), other]


def test_another_peer_is_another_train() -> None:
    socket = Socket((b"a" * 10, 10, 0), (b"b" * 10, 10, 0))
    reading = read_trains(_changing(socket), memoryview(bytearray(limits.TRAIN_BYTES)))
    assert [(bytes(data), train.remote) for data, train in reading] == [
        (b"a" * 10, ("192.0.2.1", 1)),
        (b"b" * 10, ("192.0.2.1", 2)),
    ]


class _changing:
    """Each read comes from another port."""

    def __init__(self, socket: Socket) -> None:
        self._socket = socket
        self._port = 0

    def receive(self, buffer: memoryview) -> Received | None:
        self._port += 1
        self._socket.remote = ("192.0.2.1", self._port)
        return self._socket.receive(buffer)


def test_an_empty_datagram_costs_its_share() -> None:
    nothing: Read = (b"", 1, 0)
    assert trains(Socket(nothing, (b"a", 1, 0), nothing)) == [(b"a", 1, 0)]
    socket = Socket(*[nothing] * 100)
    assert trains(socket) == []
    assert len(socket.reads) == 100 - limits.RECEIVE_BURSTS


def test_a_full_buffer_begins_again() -> None:
    piece = bytes(60_000)
    reads = [(piece, 60_000, 0)] * 5
    assert [len(data) for data, *_ in trains(Socket(*reads), 200_000)] == [180_000, 120_000]


def test_an_error_comes_after_what_came_before_it() -> None:
    reading = read_trains(
        Socket((b"a", 1, 0), ConnectionRefusedError()), memoryview(bytearray(limits.TRAIN_BYTES))
    )
    data, _ = next(reading)
    assert bytes(data) == b"a"
    with pytest.raises(ConnectionRefusedError):
        next(reading)


@pytest.mark.parametrize(
    ("segment_size", "length", "pieces"),
    [
        (1_200, 1_000, [1_000]),
        (1_472, 44 * 1_472, [44 * 1_472]),
        (1_472, 100 * 1_472 - 7, [44 * 1_472, 44 * 1_472, 12 * 1_472 - 7]),
        (65_507, 2 * 65_507, [65_507, 65_507]),
        (100, 10_000, [6_400, 3_600]),
    ],
)
def test_trains_are_cut_for_the_kernel(segment_size: int, length: int, pieces: list[int]) -> None:
    data = memoryview(bytes(range(256)) * (length // 256 + 1))[:length]
    parts = list(cut(Transmit(data, segment_size, PEER, HERE, 2)))
    assert [len(part.data) for part in parts] == pieces
    assert b"".join(part.data for part in parts) == data
    assert {part[1:] for part in parts} == {(segment_size, PEER, HERE, 2)}
