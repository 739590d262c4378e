"""The memory that all readers and writers of one mount share."""

from __future__ import annotations

import threading


class Buffers:
    """Counts bytes. Nothing waits here: who gets no room does without."""

    def __init__(self, limit: int) -> None:
        self._free = limit
        self._lock = threading.Lock()

    def take(self, size: int) -> bool:
        with self._lock:
            if size > self._free:
                return False
            self._free -= size
            return True

    def take_anyway(self, size: int) -> bool:
        """For what must be kept in any case; False tells that the bound is passed and to make room."""
        with self._lock:
            self._free -= size
            return self._free >= 0

    def give(self, size: int) -> None:
        with self._lock:
            self._free += size
