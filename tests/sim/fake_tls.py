"""A scripted handshake in TLS's place: the messages and levels of TLS 1.3 without its cryptography.

Each end sends its transport parameters and takes fixed secrets. The ClientHello is a well-formed one, since the
endpoint routes by its ALPN.
"""

from __future__ import annotations

from collections.abc import Iterator
from hashlib import sha256
from typing import Protocol

from quicfs.transport.crypto import CipherSuite
from quicfs.transport.uapi import CryptoLevel

CLIENT_HELLO, SERVER_HELLO, NEW_SESSION_TICKET, ENCRYPTED_EXTENSIONS = 1, 2, 4, 8
CERTIFICATE, FINISHED = 11, 20
EARLY_DATA = 42
SUITE = CipherSuite.AES_128_GCM


class TlsTransport(Protocol):
    """What the handshake does to a connection."""

    def send_crypto(self, level: int, data: bytes) -> None: ...

    def install_secret(self, level: int, suite: CipherSuite, secret: bytes, *, send: bool) -> None: ...

    def local_parameters(self) -> bytes: ...

    def set_peer_parameters(self, data: bytes) -> None: ...

    def refuse_early_data(self) -> None: ...

    def handshake_complete(self) -> None: ...


def _vector(length_size: int, data: bytes) -> bytes:
    return len(data).to_bytes(length_size, "big") + data


def _message(kind: int, body: bytes) -> bytes:
    return bytes((kind,)) + _vector(3, body)


def _extension(number: int, data: bytes) -> bytes:
    return number.to_bytes(2, "big") + _vector(2, data)


def client_hello(alpn: bytes, parameters: bytes, padding: int = 0, *, early_data: bool = False) -> bytes:
    """A ClientHello with ALPN, transport parameters (0x39) and an unknown extension of `padding` bytes."""
    extensions = _extension(16, _vector(2, _vector(1, alpn))) + _extension(0x39, parameters)
    extensions += _extension(0xFAFA, bytes(padding))
    if early_data:
        extensions += _extension(EARLY_DATA, b"")
    body = b"\x03\x03" + bytes(32) + b"\0" + _vector(2, b"\x13\x01") + _vector(1, b"\0")
    return _message(CLIENT_HELLO, body + _vector(2, extensions))


def _extensions_of(hello: bytes) -> dict[int, bytes]:
    pos = 2 + 32 + 1 + 4 + 2 + 2
    extensions: dict[int, bytes] = {}
    while pos < len(hello):
        number = int.from_bytes(hello[pos : pos + 2], "big")
        length = int.from_bytes(hello[pos + 2 : pos + 4], "big")
        extensions[number] = hello[pos + 4 : pos + 4 + length]
        pos += 4 + length
    return extensions


def traffic_secret(level: CryptoLevel, *, from_server: bool) -> bytes:
    """The fixed secret that one end sends with."""
    return sha256(f"{level.name} {from_server}".encode()).digest()


class FakeTls:
    """One end. `certificate` is the size of the server's Certificate message. `early_data`: a client offers 0-RTT, a
    server takes it. `tickets`: how many a server sends when the handshake is complete."""

    def __init__(
        self,
        transport: TlsTransport,
        *,
        is_server: bool,
        alpn: bytes = b"smb",
        certificate: int = 2500,
        padding: int = 0,
        early_data: bool = False,
        tickets: int = 0,
    ) -> None:
        self.complete = False
        self.tickets: list[bytes] = []  # that came
        self._early_data = early_data
        self._issue = tickets
        self._transport = transport
        self._is_server = is_server
        self._alpn = alpn
        self._certificate = certificate
        self._padding = padding
        self._buffers = dict.fromkeys(CryptoLevel, b"")

    def start(self) -> None:
        """The client speaks first."""
        parameters = self._transport.local_parameters()
        hello = client_hello(self._alpn, parameters, self._padding, early_data=self._early_data)
        self._transport.send_crypto(CryptoLevel.INITIAL, hello)
        if self._early_data:
            self._install_early(send=True)

    def handle(self, level: int, data: bytes) -> None:
        self._buffers[CryptoLevel(level)] += data
        for kind, body in self._messages(CryptoLevel(level)):
            if self._is_server:
                self._serve(kind, body)
            else:
                self._ask(kind, body)

    def _messages(self, level: CryptoLevel) -> Iterator[tuple[int, bytes]]:
        while len(buffer := self._buffers[level]) >= 4:
            length = 4 + int.from_bytes(buffer[1:4], "big")
            if len(buffer) < length:
                return
            self._buffers[level] = buffer[length:]
            yield buffer[0], buffer[4:length]

    def _install(self, level: CryptoLevel) -> None:
        for send in (True, False):
            self._transport.install_secret(
                level, SUITE, traffic_secret(level, from_server=self._is_server is send), send=send
            )

    def _install_early(self, *, send: bool) -> None:
        secret = traffic_secret(CryptoLevel.EARLY, from_server=False)
        self._transport.install_secret(CryptoLevel.EARLY, SUITE, secret, send=send)

    def _serve(self, kind: int, body: bytes) -> None:
        transport = self._transport
        if kind == CLIENT_HELLO:
            extensions = _extensions_of(body)
            transport.set_peer_parameters(extensions[0x39])
            self._early_data = self._early_data and EARLY_DATA in extensions
            if self._early_data:
                self._install_early(send=False)
            transport.send_crypto(CryptoLevel.INITIAL, _message(SERVER_HELLO, bytes(86)))
            self._install(CryptoLevel.HANDSHAKE)
            transport.send_crypto(
                CryptoLevel.HANDSHAKE,
                _message(ENCRYPTED_EXTENSIONS, bytes((self._early_data,)) + transport.local_parameters())
                + _message(CERTIFICATE, bytes(self._certificate))
                + _message(FINISHED, bytes(32)),
            )
            self._install(CryptoLevel.APP)
        elif kind == FINISHED:
            self.complete = True
            for number in range(self._issue):
                ticket = _message(NEW_SESSION_TICKET, bytes((number,)) * 1500)
                transport.send_crypto(CryptoLevel.APP, ticket)
            transport.handshake_complete()

    def _ask(self, kind: int, body: bytes) -> None:
        transport = self._transport
        if kind == SERVER_HELLO:
            self._install(CryptoLevel.HANDSHAKE)
        elif kind == ENCRYPTED_EXTENSIONS:
            if self._early_data and not body[0]:
                transport.refuse_early_data()
            transport.set_peer_parameters(body[1:])
        elif kind == NEW_SESSION_TICKET:
            self.tickets.append(body)
        elif kind == FINISHED:
            self._install(CryptoLevel.APP)
            transport.send_crypto(CryptoLevel.HANDSHAKE, _message(FINISHED, bytes(32)))
            self.complete = True
            transport.handshake_complete()
