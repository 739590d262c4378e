"""A queue that is nearly always empty or short."""

from __future__ import annotations

from typing import TypeVar

T = TypeVar("T")


class Fifo(list[T]):
    """A list used as a deque. A deque reserves 64 places when it is made, and an idle connection would have seven of
    them: 5 KB. Up to about a thousand entries taking the first of a list costs next to nothing."""

    __slots__ = ()

    def popleft(self) -> T:
        """Remove and return the oldest; IndexError if there is none."""
        return self.pop(0)
