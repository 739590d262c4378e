"""SMB2 messages on a stream of bytes: the Direct TCP transport header of [MS-SMB2] 2.1.

One zero byte and the message's length as 24 bits, big-endian, stand before every message. SMB over QUIC
uses the same header.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final, Protocol, runtime_checkable

from quicfs.smb.errors import SmbProtocolError
from quicfs.transport.bytestream import ByteStream

__all__ = ["MAX_MESSAGE", "FramingError", "MessageStream"]

HEADER_SIZE: Final = 4
MAX_MESSAGE: Final = 0xFFFFFF
"""The largest length that the header can carry, in bytes."""

_CHUNK: Final = 1 << 20


class FramingError(SmbProtocolError):
    """The peer sent something that is no Direct TCP header, or announced more than it may send."""


@runtime_checkable
class _FillsBuffers(Protocol):
    """A stream that can also receive into a buffer of ours, which saves one copy of large messages."""

    async def recv_into(self, buffer: memoryview) -> int: ...


class MessageStream:
    """Reads and writes whole messages. One task may read while others write.

    A message that arrives in one piece is handed on as a view of that piece; a larger one is gathered in
    one buffer of its own size. Either way its bytes are copied at most once.
    """

    __slots__ = ("_fill", "_rest", "stream")

    def __init__(self, stream: ByteStream) -> None:
        self.stream = stream
        self._rest = memoryview(b"")
        self._fill = stream if isinstance(stream, _FillsBuffers) else None

    async def read_message(self, limit: int = MAX_MESSAGE) -> memoryview | None:
        """The next message of at most `limit` bytes, or None when the peer ended the stream between two.

        Raises FramingError for a bad header, and ConnectionError when the stream breaks (also in the
        middle of a message).
        """
        rest = self._rest
        while len(rest) < HEADER_SIZE:
            piece = await self.stream.recv(_CHUNK)
            if not piece:
                if rest:
                    raise ConnectionError("the peer ended the stream in the middle of a header")
                return None
            rest = memoryview(b"".join((rest, piece))) if rest else piece
            self._rest = rest
        header = int.from_bytes(rest[:HEADER_SIZE], "big")
        if header > limit:
            self._rest = memoryview(b"")
            if header > MAX_MESSAGE:  # [MS-SMB2] 2.1: the first byte is zero
                raise FramingError(f"not a Direct TCP header: {header:08x}")
            raise FramingError(f"a message of {header} bytes, where {limit} are allowed")
        end = HEADER_SIZE + header
        if len(rest) >= end:
            self._rest = rest[end:]
            return rest[HEADER_SIZE:end]
        self._rest = memoryview(b"")
        return await self._gather(rest[HEADER_SIZE:], header)

    async def _gather(self, first: memoryview, size: int) -> memoryview:
        message = memoryview(bytearray(size))
        got = len(first)
        message[:got] = first
        while got < size:
            if self._fill is not None:
                received = await self._fill.recv_into(message[got:])
            else:
                piece = await self.stream.recv(min(size - got, _CHUNK))
                received = len(piece)
                message[got : got + received] = piece
            if not received:
                raise ConnectionError("the peer ended the stream in the middle of a message")
            got += received
        return message

    async def write_message(self, *parts: bytes | memoryview) -> None:
        """Send one message that consists of `parts`, which must not change afterwards."""
        size = sum(map(len, parts))
        if size > MAX_MESSAGE:
            raise ValueError(f"a message of {size} bytes does not fit the header")
        await self.stream.send(size.to_bytes(HEADER_SIZE, "big"), *parts)

    async def write_messages(self, messages: Iterable[Sequence[bytes | memoryview]]) -> None:
        """Send several messages, each given by its parts, as one gathered write."""
        parts: list[bytes | memoryview] = []
        for message in messages:
            size = sum(map(len, message))
            if size > MAX_MESSAGE:
                raise ValueError(f"a message of {size} bytes does not fit the header")
            parts.append(size.to_bytes(HEADER_SIZE, "big"))
            parts += message
        await self.stream.send(*parts)

    async def aclose(self) -> None:
        await self.stream.aclose()
