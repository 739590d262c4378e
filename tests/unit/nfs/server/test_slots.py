"""The table of sequence ids of a slot (RFC 8881 §2.10.6.1)."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from quicfs.nfs.server.slots import Slot, Turn
from quicfs.nfs.v4.const import Nfs4Error, Stat
from quicfs.nfs.xdr import Packer


def slot(max_cached: int = 4096) -> Slot:
    session: Any = SimpleNamespace(max_cached=max_cached)
    return Slot(session, 0)


def reply(size: int) -> Packer:
    packer = Packer()
    packer.fixed(bytes(size))
    return packer


def begin(slot: Slot, sequence: int, mark: int = 0, who: object = 0) -> Turn | Stat:
    try:
        return slot.begin(sequence, mark, who)
    except Nfs4Error as error:
        return error.status


@pytest.mark.parametrize("last", [1, 2, 0x7FFFFFFF, 0xFFFFFFFE, 0xFFFFFFFF])
def test_sequence_ids_of_a_free_slot(last: int) -> None:
    one = slot()
    one.sequence, one.who = last, 0
    for behind in (2, 3, 0x80000000):
        assert begin(one, (last - behind) & 0xFFFFFFFF) is Stat.SEQ_MISORDERED
    assert begin(one, (last + 2) & 0xFFFFFFFF) is Stat.SEQ_MISORDERED
    assert begin(one, last) is Turn.REPLAY
    assert begin(one, (last + 1) & 0xFFFFFFFF) is Turn.NEW


def test_the_first_request_has_one() -> None:
    one = slot()
    assert begin(one, 0) is Stat.SEQ_MISORDERED
    assert begin(one, 2) is Stat.SEQ_MISORDERED
    assert begin(one, 1) is Turn.NEW
    assert begin(one, 1) is Turn.RUNNING
    assert begin(one, 2) is Stat.SEQ_MISORDERED


def test_after_the_wrap_zero_is_a_number_like_others() -> None:
    one = slot()
    one.sequence = 0xFFFFFFFF
    assert begin(one, 0, 5) is Turn.NEW
    one.end(reply(8), keep=True)
    assert begin(one, 0, 5) is Turn.REPLAY
    assert one.kept == bytes(8)
    assert begin(one, 1) is Turn.NEW


def test_other_bytes_or_another_user_make_it_a_false_retry() -> None:
    one = slot()
    assert begin(one, 1, mark=7, who=1000) is Turn.NEW
    one.end(reply(8), keep=True)
    assert begin(one, 1, mark=8, who=1000) is Stat.SEQ_FALSE_RETRY
    assert begin(one, 1, mark=7, who=0) is Stat.SEQ_FALSE_RETRY
    assert begin(one, 1, mark=7, who=1000) is Turn.REPLAY


@pytest.mark.parametrize(
    ("size", "max_cached", "keep", "kept"),
    [(100, 4096, False, True), (1000, 4096, False, False), (1000, 4096, True, True), (100, 0, False, False)],
)
def test_what_is_kept(size: int, max_cached: int, keep: bool, kept: bool) -> None:
    one = slot(max_cached)
    begin(one, 1)
    one.end(reply(size), keep=keep)
    assert (one.kept is not None) is kept
    begin(one, 2)
    assert one.kept is None  # the memory of the one before is given back at once


def test_who_waits_gets_the_reply_that_it_waited_for() -> None:
    async def main() -> None:
        one = slot()
        begin(one, 1)
        waiting = asyncio.create_task(one.wait())
        await asyncio.sleep(0)
        one.end(reply(8), keep=True)
        assert begin(one, 2) is Turn.NEW  # before the one who waits had its turn
        assert await waiting == bytes(8)

    asyncio.run(main())


def test_a_request_that_was_broken_off_is_neither_repeated_nor_done_again() -> None:
    one = slot()
    begin(one, 1)
    one.abandon()
    assert begin(one, 1) is Turn.REPLAY
    assert one.kept is None
    assert begin(one, 2) is Turn.NEW
