"""Data of files, kept between opens: as they were when the file had a certain change attribute (RFC 8881 §10.3)."""

from __future__ import annotations

import bisect
from typing import Final

from quicfs.nfs.client.nodes import NfsNode

__all__ = ["DataCache"]

_MOST: Final = 4096  # pieces of one file
_JOINED: Final = 64  # of these, for one read


class _File:
    """Pieces that do not overlap, in order. `end`: where the file ends, if a read has told. `reads`: how many brought
    pieces of it."""

    __slots__ = ("change", "end", "pieces", "reads", "size", "starts")

    def __init__(self, change: int) -> None:
        self.change = change
        self.starts: list[int] = []
        self.pieces: list[memoryview] = []
        self.size = 0
        self.reads = 0
        self.end: int | None = None


def _joined(file: _File, at: int, offset: int, length: int) -> memoryview | None:
    """Out of several pieces, the first of which is the one `at`, if there is no gap between them."""
    parts: list[memoryview] = []
    place, end = offset, offset + length
    for start, piece in zip(file.starts[at : at + _JOINED], file.pieces[at:], strict=False):
        if not start <= place < start + len(piece):
            return None
        parts.append(piece[place - start : end - start])
        place = start + len(piece)
        if place >= end:
            return memoryview(b"".join(parts))
    return None


class DataCache:
    """`limit`: bytes of all files together; what was used longest ago goes first."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.size = 0
        self._files: dict[NfsNode, _File] = {}

    def read(self, node: NfsNode, offset: int, length: int, change: int) -> memoryview | None:
        """What was read under this change attribute; None if it is not all here."""
        file = self._files.get(node)
        if file is None:
            return None
        if file.change != change:
            self.drop(node)
            return None
        if file.end is not None:
            if offset >= file.end:
                return memoryview(b"")
            length = min(length, file.end - offset)
        at = bisect.bisect_right(file.starts, offset) - 1
        if at < 0:
            return None
        self._files[node] = self._files.pop(node)
        start, piece = file.starts[at], file.pieces[at]
        if offset + length <= start + len(piece):
            return piece[offset - start : offset - start + length]
        return _joined(file, at, offset, length)

    def reads(self, node: NfsNode) -> int:
        """How many reads have brought what is here of the file."""
        file = self._files.get(node)
        return file.reads if file is not None else 0

    def put(self, node: NfsNode, offset: int, data: memoryview, change: int, *, eof: bool) -> None:
        """`data` was read from a file with this change attribute; `eof`: it reaches to the end."""
        if not self.limit or len(data) > self.limit:
            return
        file = self._files.pop(node, None)
        if file is not None and file.change != change:
            self.size -= file.size
            file = None
        if file is None:
            file = _File(change)
        self._files[node] = file
        file.reads += 1
        if eof and (data or offset == 0):
            file.end = offset + len(data)
        if data:
            self._cut(file, offset, offset + len(data))
            at = bisect.bisect_left(file.starts, offset)
            file.starts.insert(at, offset)
            file.pieces.insert(at, data.toreadonly())
            file.size += len(data)
            self.size += len(data)
        if len(file.starts) > _MOST:
            self.drop(node)
        while self.size > self.limit:
            self.drop(next(iter(self._files)))

    def cut(self, node: NfsNode, start: int, end: int) -> None:
        """We write there, or changed how long the file is."""
        file = self._files.get(node)
        if file is not None:
            self._cut(file, start, end)
            file.end = None

    def _cut(self, file: _File, start: int, end: int) -> None:
        at = max(0, bisect.bisect_right(file.starts, start) - 1)
        while at < len(file.starts) and file.starts[at] < end:
            first, piece = file.starts[at], file.pieces[at]
            last = first + len(piece)
            if last <= start:
                at += 1
                continue
            kept = []
            if first < start:
                kept.append((first, piece[: start - first]))
            if end < last:
                kept.append((end, piece[end - first :]))
            file.starts[at : at + 1] = [place for place, _ in kept]
            file.pieces[at : at + 1] = [rest for _, rest in kept]
            gone = len(piece) - sum(len(rest) for _, rest in kept)
            file.size -= gone
            self.size -= gone
            at += len(kept)

    def expect(self, node: NfsNode, change: int) -> None:
        """The file has this change attribute now."""
        file = self._files.get(node)
        if file is not None and file.change != change:
            self.drop(node)

    def keep(self, node: NfsNode, change: int) -> None:
        """The file has this change attribute now, and what is here is still good."""
        file = self._files.get(node)
        if file is not None:
            file.change = change

    def drop(self, node: NfsNode) -> None:
        file = self._files.pop(node, None)
        if file is not None:
            self.size -= file.size
