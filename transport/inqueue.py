"""Received bytes of one stream (or one CRYPTO level): put in order, exactly once."""

from __future__ import annotations

from bisect import bisect_right
from collections import deque

from quicfs.transport import limits
from quicfs.transport.errors import ProtocolViolation, TransportErrorCode
from quicfs.transport.fifo import Fifo


class InQueue:
    """Reassembly. Bytes below `contiguous` wait to be read; what came out of order waits apart. `short`: little waits
    at any time, as in CRYPTO streams."""

    __slots__ = ("_fragments", "_ready", "_starts", "contiguous", "fragment_bytes", "highest", "read")

    def __init__(self, *, short: bool = False) -> None:
        self.read = 0  # offset up to which the reader took bytes
        self.contiguous = 0  # offset up to which everything is here
        self.highest = 0  # one past the highest offset seen
        self.fragment_bytes = 0
        self._ready: deque[bytes | memoryview] | Fifo[bytes | memoryview] = Fifo() if short else deque()
        self._starts: list[int] = []
        self._fragments: list[bytes] = []

    @property
    def available(self) -> int:
        return self.contiguous - self.read

    def insert(self, offset: int, data: bytes | memoryview) -> bool:
        """Take `data`, which begins at `offset`, and which is ours from now on; True if the reader has more to read
        than before."""
        end = offset + len(data)
        self.highest = max(self.highest, end)
        contiguous = self.contiguous
        if end <= contiguous or not data:
            return False
        if offset > contiguous:
            self._keep(offset, bytes(data))  # what waits holds no more memory than its own bytes
            return False
        self._ready.append(memoryview(data)[contiguous - offset :] if offset < contiguous else data)
        self.contiguous = end
        if self._starts and self._starts[0] <= end:
            self._join()
        return True

    def _keep(self, offset: int, data: bytes) -> None:
        """Store an out-of-order piece; stored pieces never overlap."""
        starts, fragments = self._starts, self._fragments
        index = bisect_right(starts, offset)
        if index:
            overlap = starts[index - 1] + len(fragments[index - 1]) - offset
            if overlap >= len(data):
                return
            if overlap > 0:
                offset += overlap
                data = data[overlap:]
        while data:
            if index == len(starts) or starts[index] >= offset + len(data):
                self._store(index, offset, data)
                return
            gap = starts[index] - offset
            if gap:
                self._store(index, offset, data[:gap])
                index += 1
            skip = gap + len(fragments[index])
            offset += skip
            data = data[skip:]
            index += 1

    def _store(self, index: int, offset: int, data: bytes) -> None:
        if len(self._starts) >= limits.MAX_FRAGMENTS:
            raise ProtocolViolation(TransportErrorCode.INTERNAL_ERROR, "too many gaps in a stream")
        self._starts.insert(index, offset)
        self._fragments.insert(index, data)
        self.fragment_bytes += len(data)

    def _join(self) -> None:
        """Move the fragments that have become contiguous to the reader."""
        taken = 0
        for start, fragment in zip(self._starts, self._fragments, strict=True):
            if start > self.contiguous:
                break
            taken += 1
            self.fragment_bytes -= len(fragment)
            fresh = start + len(fragment) - self.contiguous
            if fresh > 0:
                self._ready.append(memoryview(fragment)[-fresh:])
                self.contiguous += fresh
        del self._starts[:taken]
        del self._fragments[:taken]

    def take(self, limit: int) -> memoryview:
        """The next bytes in order, at most `limit`; empty if there are none."""
        if not self._ready:
            return memoryview(b"")
        piece = memoryview(self._ready[0])
        if len(piece) > limit:
            self._ready[0] = piece[limit:]
            piece = piece[:limit]
        else:
            self._ready.popleft()
        self.read += len(piece)
        return piece

    def discard(self) -> None:
        """Forget everything that is stored; the reader is gone."""
        self._ready.clear()
        self._starts.clear()
        self._fragments.clear()
        self.fragment_bytes = 0
        self.read = self.contiguous
