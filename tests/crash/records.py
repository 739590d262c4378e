"""What a writer writes: records whose size and content follow from a seed and their number."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import NamedTuple

SMALLEST, LARGEST = 100, 16_384


class Record(NamedTuple):
    number: int
    offset: int
    data: bytes

    @property
    def end(self) -> int:
        return self.offset + len(self.data)


def records(seed: int) -> Iterator[Record]:
    """Without end, one after the other in the file."""
    offset = number = 0
    while True:
        source = random.Random(f"{seed} {number}")
        data = source.randbytes(source.randint(SMALLEST, LARGEST))
        yield Record(number, offset, data)
        offset += len(data)
        number += 1


class Expected:
    """The file as it should be."""

    def __init__(self, seed: int) -> None:
        self._records = records(seed)
        self._content = bytearray()
        self._ends = [0]

    def up_to(self, count: int) -> bytes:
        """The first `count` records."""
        while len(self._ends) <= count:
            record = next(self._records)
            self._content += record.data
            self._ends.append(record.end)
        return bytes(self._content[: self._ends[count]])
