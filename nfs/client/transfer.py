"""How much one READ or WRITE takes, and how long."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from quicfs.vfs.pieces import PIECE

if TYPE_CHECKING:
    from quicfs.nfs.client.session import Session

__all__ = ["SMALL_PIECE", "Pace", "read_limit", "write_limit"]

_AROUND: Final = 1024
"""Bytes of a call or a reply around its data."""
_LITTLE: Final = 4096
_LEAST_AROUND, _MOST_AROUND = 16 << 10, 128 << 10

SMALL_PIECE: Final = 256 << 10
"""What a file is cut into that is fetched in the background, so that who waits is not held up for long."""


def read_limit(session: Session | None, by_server: int) -> int:
    """Bytes of one READ."""
    room = session.limits.maxresponsesize - _AROUND if session is not None else PIECE
    return max(512, min(PIECE, by_server or PIECE, room))


def write_limit(session: Session | None, by_server: int) -> int:
    """Bytes of one WRITE."""
    room = session.limits.maxrequestsize - _AROUND if session is not None else PIECE
    return max(512, min(PIECE, by_server or PIECE, room))


class Pace:
    """How long calls take: those with little in them, and by how much longer for each byte."""

    __slots__ = ("_per_byte", "_trip")

    def __init__(self) -> None:
        self._trip = 0.0
        self._per_byte: float | None = None

    def note(self, seconds: float, size: int) -> None:
        """A call took so long, with so many bytes in it and its answer."""
        if size < _LITTLE:
            self._trip += (seconds - self._trip) / (8 if self._trip else 1)
        elif self._trip:
            sample = max(0.0, seconds - self._trip) / size
            known = self._per_byte
            self._per_byte = sample if known is None else known + (sample - known) / 8

    @property
    def free(self) -> int:
        """Bytes that may come along with a small READ: they make it take half as long again. A power of two."""
        if not self._trip or not self._per_byte:
            return _LEAST_AROUND
        room = int(self._trip / 2 / self._per_byte)
        return 1 << max(_LEAST_AROUND, min(room, _MOST_AROUND)).bit_length() - 1

    def seconds(self, size: int) -> float | None:
        """That a READ of so many bytes takes; None while that is not known."""
        return self._trip + size * self._per_byte if self._trip and self._per_byte is not None else None
