"""Bytes of one stream (or one CRYPTO level) on their way out: unsent, in flight, lost, acknowledged."""

from __future__ import annotations

from bisect import bisect_right

from quicfs.transport.ranges import RangeSet

_COMPACT_AFTER = 64


class OutQueue:
    """A send buffer that keeps references to what was written until it is acknowledged."""

    __slots__ = ("_acked", "_chunks", "_head", "_lost", "_starts", "acked", "end", "sent")

    def __init__(self) -> None:
        self.acked = 0  # everything below is acknowledged
        self.sent = 0  # everything below was sent once
        self.end = 0  # everything below was written
        self._starts: list[int] = []
        self._chunks: list[memoryview] = []
        self._head = 0  # index of the first chunk that is still needed
        self._acked = RangeSet()  # acknowledged above `acked`
        self._lost = RangeSet()

    @property
    def pending(self) -> int:
        """Bytes held for the writer: not acknowledged yet."""
        return self.end - self.acked

    @property
    def unsent(self) -> int:
        return self.end - self.sent

    @property
    def has_lost(self) -> bool:
        return bool(self._lost)

    def write(self, data: bytes | memoryview) -> None:
        if not len(data):
            return
        view = memoryview(data)
        if view.format != "B" or view.ndim != 1:
            view = view.cast("B")
        self._starts.append(self.end)
        self._chunks.append(view)
        self.end += len(view)

    def first_lost(self) -> tuple[int, int] | None:
        """The lowest range that has to be sent again."""
        return self._lost.first if self._lost else None

    def mark_sent(self, start: int, stop: int) -> None:
        if start < self.sent:
            self._lost.remove(start, stop)
        self.sent = max(self.sent, stop)

    def contiguous(self, start: int) -> int:
        """How many bytes from `start` on `view` gives without a copy."""
        index = bisect_right(self._starts, start, self._head) - 1
        return self._starts[index] + len(self._chunks[index]) - start

    def view(self, start: int, length: int) -> memoryview:
        """`length` contiguous bytes from `start` on, without a copy if one chunk holds them."""
        index = bisect_right(self._starts, start, self._head) - 1
        within = start - self._starts[index]
        chunk = self._chunks[index]
        if within + length <= len(chunk):
            return chunk[within : within + length]
        parts = [chunk[within:]]
        have = len(parts[0])
        while have < length:
            index += 1
            part = self._chunks[index][: length - have]
            parts.append(part)
            have += len(part)
        return memoryview(b"".join(parts))

    def on_ack(self, start: int, stop: int) -> None:
        """`[start, stop)` arrived. Ranges may come twice and in any order."""
        if stop <= self.acked:
            return
        if self._lost:
            self._lost.remove(start, stop)
        if start > self.acked:
            self._acked.add(start, stop)
            return
        self.acked = stop
        if self._acked:
            self._acked.remove_below(stop)
            if self._acked and self._acked.first[0] == stop:
                self.acked = self._acked.first[1]
                self._acked.drop_first()
        self._release()

    def on_lost(self, start: int, stop: int) -> None:
        """`[start, stop)` has to be sent again, as far as it did not arrive by other means."""
        start = max(start, self.acked)
        if start < stop:
            for low, high in self._acked.missing(start, stop):
                self._lost.add(low, high)

    def start_again(self) -> None:
        """Nothing was acknowledged, and nothing counts as sent."""
        self.sent = 0
        self._lost = RangeSet()

    def _release(self) -> None:
        head = self._head
        chunks, starts = self._chunks, self._starts
        count = len(chunks)
        acked = self.acked
        while head < count and starts[head] + len(chunks[head]) <= acked:
            chunks[head] = _EMPTY
            head += 1
        if head > _COMPACT_AFTER or head == count:
            del chunks[:head]
            del starts[:head]
            head = 0
        self._head = head

    def discard(self) -> None:
        """Forget everything; nothing will be sent any more."""
        self._starts.clear()
        self._chunks.clear()
        self._head = 0
        self._lost = RangeSet()
        self._acked = RangeSet()
        self.acked = self.sent = self.end


_EMPTY = memoryview(b"")
