"""Routing by ClientHello: a real client's bytes, pieces of them, and hostile ones."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quicfs.transport import transport_param
from quicfs.transport.client_hello import parse_client_hello
from quicfs.transport.errors import ProtocolViolation, TransportErrorCode
from quicfs.transport.limits import MAX_CLIENT_HELLO
from quicfs.transport.packet import VERSION_1, VERSION_2
from quicfs.transport.transport_param import VersionInformation

VECTORS = Path(__file__).parents[2] / "vectors"
SAMBA = bytes.fromhex((VECTORS / "smbclient-clienthello.hex").read_text())

DECODE_ERROR = TransportErrorCode.CRYPTO_ERROR + 50


def vector(length_size: int, data: bytes) -> bytes:
    return len(data).to_bytes(length_size, "big") + data


def client_hello(extensions: bytes | None, rest: bytes = b"") -> bytes:
    body = b"\x03\x03" + bytes(32) + b"\0" + vector(2, b"\x13\x01") + vector(1, b"\0")
    if extensions is not None:
        body += vector(2, extensions)
    return b"\x01" + vector(3, body + rest)


def extension(number: int, data: bytes) -> bytes:
    return number.to_bytes(2, "big") + vector(2, data)


def alpn(*names: bytes) -> bytes:
    return extension(16, vector(2, b"".join(vector(1, name) for name in names)))


def test_sambas_client() -> None:
    hello = parse_client_hello(SAMBA)
    assert hello is not None
    assert hello[:2] == ((b"smb",), "klab.test")
    parameters = transport_param.decode(hello.transport_parameters, from_server=False)
    assert parameters.version_information == VersionInformation(VERSION_1, (VERSION_2, VERSION_1))


def test_every_prefix_asks_for_more() -> None:
    for size in range(len(SAMBA)):
        assert parse_client_hello(memoryview(SAMBA)[:size]) is None


def test_what_follows_does_not_matter() -> None:
    assert parse_client_hello(SAMBA + b"more") == parse_client_hello(SAMBA)


def test_several_protocols_in_order() -> None:
    assert parse_client_hello(client_hello(alpn(b"sunrpc", b"smb", b"h3"))) == (
        (b"sunrpc", b"smb", b"h3"),
        None,
        b"",
    )


def test_no_extensions() -> None:
    assert parse_client_hello(client_hello(None)) == ((), None, b"")
    assert parse_client_hello(client_hello(b"")) == ((), None, b"")


def test_server_name_of_an_unknown_kind() -> None:
    names = b"\x07" + vector(2, b"x") + b"\x00" + vector(2, b"host")
    assert parse_client_hello(client_hello(extension(0, vector(2, names)))) == ((), "host", b"")


MALFORMED = {
    "empty protocol name": client_hello(alpn(b"smb", b"")),
    "ALPN list too short": client_hello(extension(16, b"\0\x09\x03smb")),
    "ALPN list with a rest": client_hello(extension(16, b"\0\x04\x03smb!")),
    "ALPN empty": client_hello(extension(16, b"")),
    "server name not ASCII": client_hello(extension(0, vector(2, b"\0" + vector(2, b"\xff")))),
    "server name cut off": client_hello(extension(0, vector(2, b"\0\0\x09host"))),
    "extension cut off": client_hello(b"\0\x10\0\x09"),
    "bytes after the extensions": client_hello(alpn(b"smb"), b"rest"),
    "body too short": b"\x01" + vector(3, bytes(20)),
    "empty body": b"\x01" + vector(3, b""),
}


@pytest.mark.parametrize("data", MALFORMED.values(), ids=MALFORMED.keys())
def test_malformed(data: bytes) -> None:
    with pytest.raises(ProtocolViolation) as caught:
        parse_client_hello(data)
    assert caught.value.code == DECODE_ERROR


def test_another_message() -> None:
    with pytest.raises(ProtocolViolation) as caught:
        parse_client_hello(b"\x02")
    assert caught.value.code == TransportErrorCode.CRYPTO_ERROR + 10


def test_too_long_is_refused_before_it_has_come() -> None:
    assert parse_client_hello(b"\x01" + (MAX_CLIENT_HELLO - 4).to_bytes(3, "big")) is None
    with pytest.raises(ProtocolViolation) as caught:
        parse_client_hello(b"\x01" + (MAX_CLIENT_HELLO - 3).to_bytes(3, "big"))
    assert caught.value.code == TransportErrorCode.CRYPTO_BUFFER_EXCEEDED


@given(st.binary(max_size=300), st.integers(0, len(SAMBA) - 1))
def test_garbage_and_mutations(junk: bytes, position: int) -> None:
    mutated = SAMBA[:position] + junk[:4] + SAMBA[position + len(junk[:4]) :]
    for data in (junk, b"\x01" + vector(3, junk), mutated):
        try:
            parse_client_hello(data)
        except ProtocolViolation as violation:
            assert violation.frame_type == 6
