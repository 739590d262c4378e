"""Record marking (RFC 5531 §11; draft-cel-nfsv4-rpc-over-quicv1-06 §3.4): where messages begin and end on a stream.

Four bytes stand before each record: the top bit marks the last record of a message, the rest is its length.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Final

from quicfs.nfs import limits
from quicfs.nfs.rpc.errors import RpcErrorCode, RpcStreamError
from quicfs.nfs.xdr import LARGE
from quicfs.transport.bytestream import ByteStream

_LAST: Final = 0x80000000
_HEADER: Final = 4
_CHUNK: Final = 1 << 20


class RecordError(RpcStreamError):
    """What came is no sequence of records, or more than is allowed. The stream cannot be read any further."""


class RecordBuffer:
    """Bytes in, whole messages out. A message that came in one piece is a view of it; others are copied once, into a
    buffer that grows with what comes."""

    __slots__ = ("_fragments", "_known", "_last", "_later", "_rest", "_target", "limit")

    def __init__(self, limit: int = limits.MAX_MESSAGE) -> None:
        self.limit = limit
        self._rest = b""  # less than a header
        self._later = memoryview(b"")  # what has not been looked at
        self._target: bytearray | None = None  # what came of a message under way
        self._known = 0  # bytes that its records so far announced
        self._last = True
        self._fragments = 0

    @property
    def partial(self) -> bool:
        """Whether a message has begun and not ended."""
        return self._target is not None or bool(self._rest)

    def more(self) -> list[memoryview]:
        """Messages that have come and were not returned yet."""
        if not self._later:
            return []
        data, self._later = self._later, memoryview(b"")
        return self.feed(data)

    def feed(self, data: memoryview) -> list[memoryview]:
        """The messages that end in `data`, in order; after `limits.BURST` of them the others wait for `more`, to be
        called before the next piece comes. RecordError for what is not allowed."""
        found: list[memoryview] = []
        if self._rest:
            data = memoryview(b"".join((self._rest, data)))
            self._rest = b""
        at, size = 0, len(data)
        while at < size:
            if len(found) >= limits.BURST:  # each takes far more room here than it took to send
                self._later = data[at:]
                break
            target = self._target
            if target is None or len(target) == self._known:  # a record begins
                if size - at < _HEADER:
                    self._rest = bytes(data[at:])  # a view would keep all that came with it
                    break
                mark = int.from_bytes(data[at : at + _HEADER], "big")
                at += _HEADER
                length = mark & ~_LAST
                if target is None and mark & _LAST and length <= size - at and length <= self.limit:
                    found.append(data[at : at + length])
                    at += length
                    continue
                target = self._begin(length, last=bool(mark & _LAST))
            count = min(self._known - len(target), size - at)
            target += data[at : at + count]
            at += count
            if self._last and len(target) == self._known:
                found.append(memoryview(target))
                self._target, self._known, self._fragments = None, 0, 0
        return found

    def _begin(self, length: int, *, last: bool) -> bytearray:
        self._fragments += 1
        self._known += length
        self._last = last
        if self._known > self.limit:
            raise RecordError(f"a message of {self._known} bytes or more, where {self.limit} are allowed")
        if self._fragments > limits.MAX_FRAGMENTS:
            raise RecordError(f"a message in more than {limits.MAX_FRAGMENTS} records")
        if self._target is None:
            self._target = bytearray()
        return self._target


class MessageReader:
    """Whole messages from a stream, as many at a time as have come."""

    def __init__(self, stream: ByteStream, *, silence: float = limits.SILENCE_S) -> None:
        self._stream = stream
        self._buffer = RecordBuffer()
        self._silence = silence

    async def read(self) -> list[memoryview]:
        """At least one message; none at the end of the stream.

        Raises RecordError for what is not allowed, also for silence within a message, and ConnectionError when
        the stream breaks.
        """
        buffer = self._buffer
        if found := buffer.more():
            return found
        while True:
            if buffer.partial:
                piece = await self._rest()
            elif not (piece := await self._stream.recv(_CHUNK)):
                return []
            if found := buffer.feed(piece):
                return found

    def drop(self) -> None:
        """Nothing more is read: what came and was not returned is forgotten."""
        self._buffer = RecordBuffer()

    async def _rest(self) -> memoryview:
        try:
            async with asyncio.timeout(self._silence):
                piece = await self._stream.recv(_CHUNK)
        except TimeoutError:
            text = f"half a message, and nothing more for {self._silence:.0f} s"
            raise RecordError(text, RpcErrorCode.UNSPECIFIED_ERROR) from None
        if not piece:
            raise RecordError("the peer ended the stream in the middle of a message")
        return piece


class Gather:
    """Messages that go out as one write. Small pieces are put together, large ones are not copied."""

    __slots__ = ("_parts", "_small", "size")

    def __init__(self) -> None:
        self._parts: list[bytes | memoryview] = []
        self._small = bytearray()
        self.size = 0

    def add(self, header: bytes, parts: Sequence[bytes | memoryview] = ()) -> None:
        """One message, sent as one record; `header` is the first of it."""
        length = len(header)
        for part in parts:
            length += len(part)
        if length >= _LAST:
            raise ValueError(f"a message of {length} bytes does not fit a record")
        self._small += (_LAST | length).to_bytes(_HEADER, "big")
        self._small += header
        for part in parts:
            if len(part) < LARGE:
                self._small += part
            else:
                self._flush()
                self._parts.append(part)
        self.size += _HEADER + length

    def take(self) -> list[bytes | memoryview]:
        """Everything, and empty again."""
        self._flush()
        parts, self._parts, self.size = self._parts, [], 0
        return parts

    def _flush(self) -> None:
        if self._small:
            self._parts.append(memoryview(self._small))
            self._small = bytearray()
