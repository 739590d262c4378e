"""Runs of sent packets against one record per packet."""

from __future__ import annotations

import random
from collections.abc import Callable
from time import process_time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quicfs.transport.errors import ProtocolViolation, TransportErrorCode
from quicfs.transport.sent import SentPackets, SentRun, StreamRange
from quicfs.transport.stream import Stream

STREAM = Stream(0, None, None)
STEP = 10


def run(first: int, count: int, time: float) -> SentRun:
    offset = first * STEP
    stop = offset + count * STEP - 3  # the last packet carries less
    bulk = StreamRange(STREAM, offset, stop, STEP, True)
    return SentRun(first, first + count - 1, time, 100, 97, eliciting=True, in_flight=True, bulk=bulk)


def spans(runs: list[SentRun]) -> dict[int, tuple[int, int, int, bool]]:
    """Per packet: its size, its stream range, and whether it ends the run's data."""
    found = {}
    for item in runs:
        assert item.bulk is not None
        start = item.bulk.offset
        assert item.size == sum(item.packet_size for _ in range(item.count - 1)) + item.last_size
        for pn in range(item.first, item.last + 1):
            stop = min(start + STEP, item.bulk.stop)
            last = pn == item.last
            found[pn] = (item.last_size if last else item.packet_size, start, stop, item.bulk.fin and last)
            start = stop
    return found


def random_entropy(seed: int) -> Callable[[int], bytes]:
    return random.Random(seed).randbytes


@given(st.integers(0, 1000), st.data())
def test_skipped_numbers_are_never_acknowledged(seed: int, data: st.DataObject) -> None:
    """RFC 9000 §21.4: an ACK is refused if and only if it names a number that was left out."""
    sent = SentPackets()
    entropy = random_entropy(seed)
    numbers: set[int] = set()
    while len(numbers) < 3000:
        if sent.next_pn >= sent.skip_at:
            sent.skip(entropy)
        sent.add(run(sent.next_pn, 20, 0.0))
        numbers |= set(range(sent.next_pn - 20, sent.next_pn))
    left_out = set(range(sent.next_pn)) - numbers
    assert 2 <= len(left_out) <= 12
    low = data.draw(st.integers(0, sent.next_pn - 1))
    high = data.draw(st.integers(low, sent.next_pn - 1))
    if left_out & set(range(low, high + 1)):
        with pytest.raises(ProtocolViolation) as violation:
            sent.take_acked([(low, high)])
        assert violation.value.code == TransportErrorCode.PROTOCOL_VIOLATION
    else:
        assert sum(item.count for item in sent.take_acked([(low, high)])) == high + 1 - low


def test_skips_become_rare() -> None:
    sent = SentPackets()
    entropy = random_entropy(1)
    skips = 0
    while sent.next_pn < 1_000_000:
        if sent.next_pn >= sent.skip_at:
            sent.skip(entropy)
            skips += 1
        sent.add(run(sent.next_pn, 50, 0.0))
        sent.take_acked([(sent.next_pn - 50, sent.next_pn - 1)])
    assert 15 <= skips <= 50
    assert not sent


def test_ack_of_ten_thousand_ranges_takes_about_as_long_as_ten_of_a_thousand() -> None:
    """Time is linear in the ranges and in what is under way."""

    def seconds(ranges: int) -> float:
        sent = SentPackets()
        for _ in range(ranges):
            sent.add(run(sent.next_pn, 4, 0.0))
        acked = [(pn, pn + 1) for pn in range(4 * ranges - 3, -1, -4)]
        start = process_time()
        taken = sent.take_acked(acked)
        spent = process_time() - start
        assert len(taken) == ranges and len(list(sent)) == 2 * ranges
        return spent

    best = min(seconds(1_000) for _ in range(5))
    # Ten times as much, and more where the tables outgrow the processor's caches; quadratic would be a hundred times.
    assert min(seconds(10_000) for _ in range(3)) < 60 * best


@given(
    st.lists(st.integers(1, 9), min_size=1, max_size=8),
    st.lists(st.tuples(st.integers(0, 60), st.integers(0, 12)), max_size=12),
)
def test_acks_cut_runs(counts: list[int], acks: list[tuple[int, int]]) -> None:
    sent = SentPackets()
    model: dict[int, tuple[int, int, int, bool]] = {}
    for time, count in enumerate(counts):
        item = run(sent.next_pn, count, float(time))
        model |= spans([item])
        sent.add(item)
    total = len(model)
    for low, length in acks:
        high = min(low + length, total - 1)
        if low > high:
            continue
        taken = spans(sent.take_acked([(low, high)]))
        expected = {pn: model.pop(pn) for pn in range(low, high + 1) if pn in model}
        assert taken == expected
        assert spans(list(sent)) == model
        assert sent.eliciting_in_flight == len(model)


@given(st.lists(st.integers(1, 9), min_size=2, max_size=8), st.data())
def test_losses_cut_runs(counts: list[int], data: st.DataObject) -> None:
    sent = SentPackets()
    times: dict[int, float] = {}
    for time, count in enumerate(counts):
        item = run(sent.next_pn, count, float(time))
        times |= dict.fromkeys(range(item.first, item.last + 1), float(time))
        sent.add(item)
    largest = data.draw(st.integers(0, len(times) - 1))
    sent.take_acked([(largest, largest)])
    threshold = largest - 3
    before = data.draw(st.floats(-1, len(counts)))
    lost, pending = sent.take_lost(threshold, before)
    del times[largest]
    expected = {pn for pn, time in times.items() if pn < largest and (pn <= threshold or time <= before)}
    assert set(spans(lost)) == expected
    left = [pn for pn in times if pn < largest and pn not in expected]
    assert pending == (times[left[0]] if left else None)
    assert sent.eliciting_in_flight == len(times) - len(expected)


def test_ack_of_the_unsent() -> None:
    """RFC 9000 §13.1; CVE-2025-4820."""
    sent = SentPackets()
    sent.add(run(0, 5, 0.0))
    with pytest.raises(ProtocolViolation) as caught:
        sent.take_acked([(0, 5)])
    assert caught.value.code == TransportErrorCode.PROTOCOL_VIOLATION
