"""The bytes of a message being written or read (RFC 4506)."""

from __future__ import annotations

import struct as _struct
from typing import Final

Buffer = bytes | memoryview

PADDING: Final = (b"", b"\0\0\0", b"\0\0", b"\0")  # by length modulo 4
_UINT32: Final = _struct.Struct(">I")
_UINT64: Final = _struct.Struct(">Q")
LARGE: Final = 8192
"""From here on a payload travels beside the buffer instead of being copied into it."""


class XdrError(ValueError):
    """The bytes are not what the type says (GARBAGE_ARGS, NFS4ERR_BADXDR), or a value does not fit its type."""


class Packer:
    """Collects a message. `parts()` is what to send, in order; large payloads are not copied."""

    __slots__ = ("_done", "_size", "buffer")

    def __init__(self) -> None:
        self.buffer = bytearray()
        self._done: list[Buffer | bytearray] = []
        self._size = 0

    def __len__(self) -> int:
        return self._size + len(self.buffer)

    def uint32(self, value: int) -> None:
        self.buffer += _UINT32.pack(value)

    def uint64(self, value: int) -> None:
        self.buffer += _UINT64.pack(value)

    def opaque(self, value: Buffer) -> None:
        """Variable-length opaque data (§4.10)."""
        size = len(value)
        self.uint32(size)
        self.body(value, size)

    def fixed(self, value: Buffer) -> None:
        """Fixed-length opaque data (§4.9)."""
        self.buffer += value
        self.buffer += PADDING[len(value) & 3]

    def body(self, value: Buffer, size: int) -> None:
        """The bytes of opaque data whose length has been packed."""
        if size < LARGE:
            self.buffer += value
        else:
            self._append(value, size)
        if size & 3:
            self.buffer += PADDING[size & 3]

    def raw(self, other: Packer) -> None:
        """What another packer holds; it must not be used afterwards."""
        if not other._done:
            self.buffer += other.buffer
            return
        self._flush()
        self._done += other._done
        self._size += other._size
        self.buffer = other.buffer

    def patch_uint32(self, position: int, value: int) -> None:
        """Overwrite four bytes of `buffer`. Only positions before any large payload may be patched."""
        target = self._done[0] if self._done else self.buffer
        assert isinstance(target, bytearray)
        _UINT32.pack_into(target, position, value)

    def mark(self) -> tuple[int, int, int]:
        """Where the message ends now, for `rollback`."""
        return len(self._done), len(self.buffer), self._size

    def rollback(self, mark: tuple[int, int, int]) -> None:
        """Forget what was packed since."""
        done, length, self._size = mark
        if len(self._done) > done:
            buffer = self._done[done]  # what was `buffer` then
            assert isinstance(buffer, bytearray)
            self.buffer = buffer
            del self._done[done:]
        del self.buffer[length:]

    def parts(self) -> list[bytes | memoryview]:
        """Everything packed so far. The packer must not be used afterwards."""
        return [
            part if isinstance(part, (bytes, memoryview)) else memoryview(part)
            for part in (*self._done, self.buffer)
        ]

    def getvalue(self) -> bytes:
        return b"".join((*self._done, self.buffer))

    def _append(self, value: Buffer, size: int) -> None:
        self._flush()
        self._done.append(value)
        self._size += size

    def _flush(self) -> None:
        self._size += len(self.buffer)
        self._done.append(self.buffer)
        self.buffer = bytearray()


class Unpacker:
    """A position in a message."""

    __slots__ = ("data", "position", "size")

    def __init__(self, data: Buffer | bytearray, position: int = 0) -> None:
        self.data = memoryview(data)
        self.size = len(self.data)
        self.position = position

    @property
    def remaining(self) -> int:
        return self.size - self.position

    def uint32(self) -> int:
        try:
            value: int = _UINT32.unpack_from(self.data, self.position)[0]
        except _struct.error:
            raise XdrError("the message ends too early") from None
        self.position += 4
        return value

    def uint64(self) -> int:
        try:
            value: int = _UINT64.unpack_from(self.data, self.position)[0]
        except _struct.error:
            raise XdrError("the message ends too early") from None
        self.position += 8
        return value

    def view(self, limit: int) -> memoryview:
        """Variable-length opaque data, not copied."""
        size = self.uint32()
        if size > limit:
            raise XdrError(f"{size} bytes where {limit} are allowed")
        return self.take(size)

    def opaque(self, limit: int) -> bytes:
        return bytes(self.view(limit))

    def take(self, size: int) -> memoryview:
        """Fixed-length opaque data, not copied."""
        start = self.position
        end = start + size
        padded = end + (-size & 3)
        if padded > self.size:
            raise XdrError("the message ends too early")
        self.position = padded
        return self.data[start:end]

    def done(self) -> None:
        """XdrError if something is left."""
        if self.remaining:
            raise XdrError(f"{self.remaining} bytes too many")
