"""Trains longer than one system call takes: read piece by piece into one buffer, cut for sending.

What a train costs in Python is paid once for several reads or writes, as long as the pieces go on where the last
one ended. Their size is bounded so that what was read or sealed is still in the processor's cache when it is
opened or sent.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

from quicfs.transport import limits
from quicfs.transport.builder import Transmit, segments_per_send
from quicfs.transport.udp import Received


class Receiver(Protocol):
    def receive(self, buffer: memoryview) -> Received | None: ...


def read_trains(udp: Receiver, buffer: memoryview) -> Iterator[tuple[memoryview, Received]]:
    """What has come, as trains with where they are; at most `RECEIVE_BURSTS` reads. Raises OSError as `receive` does,
    after what came before it.

    `Received.length` is that of a train's first piece. A train has to be done with before the next one is asked for.
    """
    start = stop = 0
    train: Received | None = None
    for _ in range(limits.RECEIVE_BURSTS):
        if len(buffer) - stop < limits.MAX_UDP_PAYLOAD:
            if train is not None:
                yield buffer[start:stop], train
                train = None
            start = stop = 0
        try:
            received = udp.receive(buffer[stop:])
        except OSError:
            if train is not None:
                yield buffer[start:stop], train
            raise
        if received is None:
            break
        if not received.length:
            continue  # an empty datagram costs its share of the burst (CVE-2026-11352)
        if train is not None and not _goes_on(train, stop - start, received):
            yield buffer[start:stop], train
            train, start = None, stop
        train = train or received
        stop += received.length
    if train is not None:
        yield buffer[start:stop], train


def _goes_on(train: Received, length: int, received: Received) -> bool:
    """Whether the train, `length` bytes by now, and what was received are one train of equal datagrams."""
    size = train.segment_size
    return (
        length % size == 0
        and (received.segment_size == size or (received.length == received.segment_size < size))
        and received.remote == train.remote
        and received.ecn == train.ecn
        and received.local == train.local
    )


def cut(transmit: Transmit) -> Iterator[Transmit]:
    """A train in pieces that one system call takes each."""
    data, segment_size, remote, local, ecn = transmit
    size = segment_size * segments_per_send(segment_size)
    for start in range(0, len(data), size):
        yield Transmit(data[start : start + size], segment_size, remote, local, ecn)
