"""As much HTTP/3 (RFC 9114) as fetching a file takes: peers that speak nothing else are peers too.

Field sections come from and go to pylsqpack without a dynamic table, so the QPACK streams stay silent.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Final

import pylsqpack

from quicfs.transport import varint
from quicfs.transport.quic_stream import QuicStream
from quicfs.transport.socket import QuicSocket
from tests.interop.contract import Request

MAX_FIELD_SECTION: Final = 16 * 1024
PIECE: Final = 256 * 1024

_CONTROL_STREAM: Final = b"\x00"
_DATA, _HEADERS, _SETTINGS = 0x00, 0x01, 0x04


class Http3:
    """A dialect of web.py."""

    alpn = "h3"

    def __init__(self) -> None:
        self._encoder = pylsqpack.Encoder()
        self._decoder = pylsqpack.Decoder(0, 0)

    async def start(self, sock: QuicSocket) -> None:
        """RFC 9114 §6.2.1: each side opens its control stream and says its settings first."""
        control = await sock.wait_open_stream(unidirectional=True)
        await control.send(_CONTROL_STREAM + _frame(_SETTINGS, b""))

    def ask(self, stream_id: int, request: Request) -> bytes:
        return self._headers(
            stream_id,
            [
                (b":method", b"GET"),
                (b":scheme", b"https"),
                (b":authority", f"{request.host}:{request.port}".encode()),
                (b":path", request.path.encode()),
            ],
        )

    async def body(self, stream: QuicStream) -> AsyncIterator[bytes | memoryview]:
        reader = _Frames(stream)
        while (frame := await reader.next()) is not None:
            kind, length = frame
            if kind == _DATA:
                async for piece in reader.payload(length):
                    yield piece
            elif kind == _HEADERS:
                fields = await self._fields(stream.stream_id, reader, length)
                if fields.get(b":status", b"") != b"200":
                    raise ConnectionError(f"the server answered {fields.get(b':status', b'nothing')!r}")
            else:
                await reader.skip(length)

    async def asked(self, stream: QuicStream) -> bytes | None:
        reader = _Frames(stream)
        while (frame := await reader.next()) is not None:
            kind, length = frame
            if kind == _HEADERS:
                fields = await self._fields(stream.stream_id, reader, length)
                if fields.get(b":method") != b"GET":
                    return None
                return fields.get(b":path", b"").lstrip(b"/") or None
            await reader.skip(length)
        return None

    def answer(self, stream_id: int, size: int) -> bytes:
        fields = [(b":status", b"200"), (b"content-length", str(size).encode())]
        return self._headers(stream_id, fields) + varint.encode(_DATA) + varint.encode(size)

    def _headers(self, stream_id: int, fields: list[tuple[bytes, bytes]]) -> bytes:
        _, section = self._encoder.encode(stream_id, fields)
        return _frame(_HEADERS, section)

    async def _fields(self, stream_id: int, reader: _Frames, length: int) -> dict[bytes, bytes]:
        if length > MAX_FIELD_SECTION:
            raise ConnectionError(f"a field section of {length} bytes is too much")
        section = b"".join([bytes(piece) async for piece in reader.payload(length)])
        try:
            _, fields = self._decoder.feed_header(stream_id, section)
        except (pylsqpack.DecompressionFailed, pylsqpack.StreamBlocked) as error:
            raise ConnectionError("a field section cannot be read") from error
        return dict(fields)


def _frame(kind: int, payload: bytes) -> bytes:
    return varint.encode(kind) + varint.encode(len(payload)) + payload


class _Frames:
    """The frames of one stream (RFC 9114 §7.1)."""

    def __init__(self, stream: QuicStream) -> None:
        self._stream = stream
        self._held = b""

    async def next(self) -> tuple[int, int] | None:
        """Type and length of the next frame; None at the end of the stream."""
        kind = await self._varint()
        if kind is None:
            return None
        length = await self._varint()
        if length is None:
            raise ConnectionError("the stream ended within a frame")
        return kind, length

    async def payload(self, length: int) -> AsyncIterator[bytes | memoryview]:
        """The payload of the frame that `next` announced; it has to be read."""
        while length:
            piece: bytes | memoryview
            if self._held:
                piece, self._held = self._held[:length], self._held[length:]
            else:
                piece = await self._stream.recv(min(length, PIECE))
            if not piece:
                raise ConnectionError("the stream ended within a frame")
            length -= len(piece)
            yield piece

    async def skip(self, length: int) -> None:
        async for _ in self.payload(length):
            pass

    async def _varint(self) -> int | None:
        while not self._held or len(self._held) < 1 << (self._held[0] >> 6):
            piece = await self._stream.recv(PIECE)
            if not piece:
                return None
            self._held += piece
        value, used = varint.decode(self._held, 0)
        self._held = self._held[used:]
        return value
