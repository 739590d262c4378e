"""Datagrams: bounded queues, sizes, age, and the peer's limits."""

from __future__ import annotations

import pytest

from quicfs.transport import limits
from quicfs.transport.builder import PacketBuilder
from quicfs.transport.datagrams import Datagrams
from quicfs.transport.errors import MisuseError, ProtocolViolation, TransportErrorCode
from quicfs.transport.frame_datagram import DatagramFrame

ROOM = 1400


def datagrams(limit: int = 65_535) -> Datagrams:
    queue = Datagrams(accepts=1000)
    queue.limit = limit
    return queue


@pytest.mark.parametrize("limit", [1, 2, 3, 65, 66, 67, 68, 1000, 16_386, 16_387, 16_388, 16_390])
def test_the_largest_payload_just_fits(limit: int) -> None:
    queue = datagrams(limit)
    largest = queue.largest(1 << 20)
    queue.send(bytes(max(0, largest)), 0.0)
    builder = PacketBuilder(1 << 20)
    queue.fill(builder, 1 << 20, 0.0)
    if largest >= 0:
        assert limit - 2 <= (1 << 20) - builder.room <= limit


def test_as_many_as_fit_go_into_a_packet() -> None:
    queue = datagrams()
    for _ in range(5):
        queue.send(bytes(600), 0.0)
    builder = PacketBuilder(ROOM)
    queue.fill(builder, ROOM, 0.0)
    assert len(queue.outgoing) == 3 and builder.eliciting


def test_what_is_too_old_or_too_large_is_dropped() -> None:
    queue = datagrams()
    queue.send(b"old", 0.0)
    queue.send(bytes(2000), 2.0)
    queue.send(b"good", 2.0)
    builder = PacketBuilder(ROOM)
    queue.fill(builder, ROOM, limits.DATAGRAM_MAX_AGE + 0.5)
    assert queue.dropped == 2 and not queue.outgoing
    assert b"good" in builder.payload(4)


def test_too_many_are_refused() -> None:
    queue = datagrams()
    for _ in range(limits.MAX_DATAGRAMS_OUT):
        assert not queue.full
        queue.send(b"x", 0.0)
    assert queue.full
    with pytest.raises(MisuseError):
        queue.send(b"x", 0.0)


def test_nobody_reads_so_new_ones_are_dropped() -> None:
    queue = datagrams()
    for _ in range(limits.MAX_DATAGRAMS_IN + 7):
        queue.handle(DatagramFrame(memoryview(b"x"), 3))
    assert len(queue.received) == limits.MAX_DATAGRAMS_IN and queue.discarded == 7
    assert queue.take() == b"x"
    queue.handle(DatagramFrame(memoryview(b"y"), 3))
    assert queue.discarded == 7


@pytest.mark.parametrize(("accepts", "size"), [(0, 1), (100, 101)])
def test_more_than_was_allowed_is_a_violation(accepts: int, size: int) -> None:
    """RFC 9221 §3."""
    with pytest.raises(ProtocolViolation) as caught:
        Datagrams(accepts).handle(DatagramFrame(memoryview(bytes(size - 1)), size))
    assert caught.value.code == TransportErrorCode.PROTOCOL_VIOLATION
