"""Sets of integers as a few half-open ranges, in ascending order."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterator


class RangeSet:
    """Disjoint half-open ranges `[start, stop)`; neighbours are merged.

    Kept as two parallel lists of numbers, since nearly all sets of a connection hold one range or two.
    """

    __slots__ = ("_starts", "_stops")

    def __init__(self) -> None:
        self._starts: list[int] = []
        self._stops: list[int] = []

    def __bool__(self) -> bool:
        return bool(self._starts)

    def __len__(self) -> int:
        """How many ranges there are."""
        return len(self._starts)

    def __iter__(self) -> Iterator[tuple[int, int]]:
        return zip(self._starts, self._stops, strict=True)

    def __reversed__(self) -> Iterator[tuple[int, int]]:
        return zip(reversed(self._starts), reversed(self._stops), strict=True)

    def __contains__(self, value: int) -> bool:
        index = bisect_right(self._starts, value) - 1
        return index >= 0 and value < self._stops[index]

    def __repr__(self) -> str:
        return f"RangeSet({list(self)})"

    @property
    def first(self) -> tuple[int, int]:
        return self._starts[0], self._stops[0]

    @property
    def last(self) -> tuple[int, int]:
        return self._starts[-1], self._stops[-1]

    def add(self, start: int, stop: int) -> None:
        starts, stops = self._starts, self._stops
        if stops and start == stops[-1]:  # the common case: it grows at the end
            stops[-1] = stop
            return
        low = bisect_left(stops, start)  # the first range that touches [start, stop)
        high = bisect_right(starts, stop)  # one past the last that does
        if low < high:
            start = min(start, starts[low])
            stop = max(stop, stops[high - 1])
        starts[low:high] = [start]
        stops[low:high] = [stop]

    def remove(self, start: int, stop: int) -> None:
        starts, stops = self._starts, self._stops
        low = bisect_right(stops, start)
        high = bisect_left(starts, stop)
        if low >= high:
            return
        new_starts: list[int] = []
        new_stops: list[int] = []
        if starts[low] < start:
            new_starts.append(starts[low])
            new_stops.append(start)
        if stops[high - 1] > stop:
            new_starts.append(stop)
            new_stops.append(stops[high - 1])
        starts[low:high] = new_starts
        stops[low:high] = new_stops

    def remove_below(self, value: int) -> None:
        if self._starts and self._starts[0] < value:
            self.remove(self._starts[0], value)

    def drop_first(self) -> None:
        del self._starts[0]
        del self._stops[0]

    def missing(self, start: int, stop: int) -> Iterator[tuple[int, int]]:
        """The parts of `[start, stop)` that are not in the set."""
        index = bisect_right(self._stops, start)
        while start < stop:
            if index == len(self._starts) or self._starts[index] >= stop:
                yield start, stop
                return
            if start < self._starts[index]:
                yield start, self._starts[index]
            start = self._stops[index]
            index += 1
