"""Range sets against plain sets of integers."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from quicfs.transport.ranges import RangeSet

SPAN = st.tuples(st.integers(0, 60), st.integers(1, 12)).map(lambda pair: (pair[0], pair[0] + pair[1]))


def members(ranges: RangeSet) -> set[int]:
    return {value for start, stop in ranges for value in range(start, stop)}


@given(st.lists(st.tuples(st.sampled_from(["add", "remove", "below"]), SPAN), max_size=40))
def test_like_a_set(steps: list[tuple[str, tuple[int, int]]]) -> None:
    ranges, model = RangeSet(), set[int]()
    for verb, (start, stop) in steps:
        if verb == "add":
            ranges.add(start, stop)
            model |= set(range(start, stop))
        elif verb == "remove":
            ranges.remove(start, stop)
            model -= set(range(start, stop))
        else:
            ranges.remove_below(start)
            model -= set(range(start))
        assert members(ranges) == model
        pairs = list(ranges)
        assert all(a < b for a, b in pairs)
        assert all(left[1] < right[0] for left, right in pairwise(pairs)), "not merged"
        assert list(reversed(ranges)) == pairs[::-1]
        assert all((value in ranges) == (value in model) for value in range(80))


@given(st.lists(SPAN, max_size=10), SPAN)
def test_missing(spans: list[tuple[int, int]], window: tuple[int, int]) -> None:
    ranges = RangeSet()
    for start, stop in spans:
        ranges.add(start, stop)
    gaps = {value for start, stop in ranges.missing(*window) for value in range(start, stop)}
    assert gaps == set(range(*window)) - members(ranges)
