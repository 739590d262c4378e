"""CRYPTO bytes that came in order and wait for whoever does the handshake."""

from __future__ import annotations


class CryptoReceived:
    """Pieces of `(level, bytes)`. Bytes of a level that follow each other are one piece, so that a peer which sends
    them one by one makes nothing slower. `size`: bytes of all pieces."""

    __slots__ = ("_pieces", "size")

    def __init__(self) -> None:
        self._pieces: list[tuple[int, bytearray]] = []
        self.size = 0

    def __bool__(self) -> bool:
        return bool(self._pieces)

    def append(self, level: int, data: bytes) -> None:
        self.size += len(data)
        if self._pieces and self._pieces[-1][0] == level:
            self._pieces[-1][1].extend(data)
        else:
            self._pieces.append((level, bytearray(data)))

    def popleft(self) -> tuple[int, bytes]:
        """The oldest piece; IndexError if there is none."""
        level, data = self._pieces.pop(0)
        self.size -= len(data)
        return level, bytes(data)

    def of(self, level: int) -> bytes:
        """What waits of one level; it stays."""
        return b"".join(data for known, data in self._pieces if known == level)

    def clear(self) -> None:
        self._pieces.clear()
        self.size = 0
