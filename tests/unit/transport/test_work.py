"""The bucket of work for nothing."""

from __future__ import annotations

from quicfs.transport import limits
from quicfs.transport.work import Work


def test_it_leaks() -> None:
    work = Work(10.0)
    work.packet(limits.WORK_PER_PACKET + limits.WORK_BURST + limits.WORK_PER_SECOND)
    assert work.exhausted(10.5)
    assert work.exhausted(10.99)
    assert not work.exhausted(11.01)
    assert work.dropped == 2
    assert not work.exhausted(100.0)
    assert not work.used


def test_what_a_packet_usually_carries_is_free() -> None:
    work = Work(0.0)
    work.packet(limits.WORK_PER_PACKET)
    assert not work.used
    work.packet(limits.WORK_PER_PACKET + 5)
    assert work.used == 5


def test_stream_data_in_pieces_of_some_size_are_free() -> None:
    work = Work(0.0)
    for pieces, size in ((1, 1200), (1, 64), (40, 800), (64, 64_000)):
        work.delivery(pieces, size)
    assert not work.used
    work.delivery(1, 32)
    assert work.used == 1
    work.delivery(200, 200)
    assert work.used == 1 + 400


def test_ranges_of_an_ack_are_free_where_it_has_news() -> None:
    work = Work(0.0)
    work.ack(64, 2 * 1200)
    assert not work.used
    work.ack(1000, 0)
    assert work.used == 250
