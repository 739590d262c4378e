"""What routing needs of a ClientHello (RFC 8446 §4.1.2): the ALPN offer, the server name and
the transport parameters, which hold the versions of QUIC that a client speaks.

One UDP port serves several listeners, so the endpoint must know what a client asks for before any TLS
library sees the message. Nothing here is trusted for more than that choice.
"""

from __future__ import annotations

from typing import NamedTuple, NoReturn

from quicfs.transport.errors import ProtocolViolation, TransportErrorCode
from quicfs.transport.frame_type import FrameType
from quicfs.transport.limits import MAX_CLIENT_HELLO

_CLIENT_HELLO = 1
_EXT_SERVER_NAME = 0  # RFC 6066 §3
_EXT_ALPN = 16  # RFC 7301 §3.1
_EXT_TRANSPORT_PARAMETERS = 0x39  # RFC 9001 §8.2
_HOST_NAME = 0

_UNEXPECTED_MESSAGE = 10  # alerts of RFC 8446 §6.2
_DECODE_ERROR = 50


class ClientHello(NamedTuple):
    alpn: tuple[bytes, ...]
    """As offered, best first; empty without the extension."""
    server_name: str | None
    transport_parameters: bytes = b""
    """As they came; empty without the extension."""


def parse_client_hello(data: bytes | bytearray | memoryview) -> ClientHello | None:
    """Read the ClientHello at the beginning of the Initial CRYPTO stream; None while it is incomplete.

    Raises ProtocolViolation with a TLS alert's code (CRYPTO_ERROR + alert) when it is none, when it is
    malformed or beyond MAX_CLIENT_HELLO bytes.
    """
    if not data:
        return None
    if data[0] != _CLIENT_HELLO:
        _refuse(_UNEXPECTED_MESSAGE, "the first message is not a ClientHello")
    if len(data) < 4:
        return None
    length = int.from_bytes(data[1:4], "big")
    if 4 + length > MAX_CLIENT_HELLO:
        raise ProtocolViolation(
            TransportErrorCode.CRYPTO_BUFFER_EXCEEDED, f"ClientHello of {length} bytes", FrameType.CRYPTO
        )
    if len(data) < 4 + length:
        return None
    body = _Reader(bytes(data[4 : 4 + length]))
    body.take(2 + 32)  # legacy_version, random
    body.vector(1)  # legacy_session_id
    body.vector(2)  # cipher_suites
    body.vector(1)  # legacy_compression_methods
    alpn: tuple[bytes, ...] = ()
    server_name = None
    parameters = b""
    extensions = _Reader(body.vector(2) if body else b"")
    body.must_be_empty()
    while extensions:
        extension = extensions.integer(2)
        value = extensions.vector(2)
        content = _Reader(value)
        if extension == _EXT_ALPN:
            alpn = _parse_alpn(content)
        elif extension == _EXT_SERVER_NAME:
            server_name = _parse_server_name(content)
        elif extension == _EXT_TRANSPORT_PARAMETERS:
            parameters = value
    return ClientHello(alpn, server_name, parameters)


def _parse_alpn(content: _Reader) -> tuple[bytes, ...]:
    names = _Reader(content.vector(2))
    content.must_be_empty()
    alpn = []
    while names:
        name = names.vector(1)
        if not name:
            _refuse(_DECODE_ERROR, "empty protocol name in ALPN")  # RFC 7301 §3.1
        alpn.append(name)
    return tuple(alpn)


def _parse_server_name(content: _Reader) -> str | None:
    names = _Reader(content.vector(2))
    content.must_be_empty()
    while names:
        kind, name = names.integer(1), names.vector(2)
        if kind == _HOST_NAME:
            try:
                return name.decode("ascii")
            except UnicodeDecodeError:
                _refuse(_DECODE_ERROR, "server name is not ASCII")
    return None


class _Reader:
    """TLS presentation language (RFC 8446 §3): integers and vectors, in order."""

    __slots__ = ("_data", "_pos")

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._pos = 0

    def __bool__(self) -> bool:
        return self._pos < len(self._data)

    def take(self, size: int) -> bytes:
        start, self._pos = self._pos, self._pos + size
        if self._pos > len(self._data):
            _refuse(_DECODE_ERROR, "ClientHello is malformed")
        return self._data[start : self._pos]

    def integer(self, size: int) -> int:
        return int.from_bytes(self.take(size), "big")

    def vector(self, length_size: int) -> bytes:
        return self.take(self.integer(length_size))

    def must_be_empty(self) -> None:
        if self:
            _refuse(_DECODE_ERROR, "ClientHello is malformed")


def _refuse(alert: int, reason: str) -> NoReturn:
    raise ProtocolViolation(TransportErrorCode.CRYPTO_ERROR + alert, reason, FrameType.CRYPTO)
