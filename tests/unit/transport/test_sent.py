"""Runs of sent packets against one record per packet."""

from __future__ import annotations

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
