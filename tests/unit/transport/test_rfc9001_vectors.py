"""RFC 9001 appendix A, byte for byte."""

import json
from pathlib import Path
from typing import Any

import pytest

from quicfs.transport.crypto import (
    VERSION_1,
    VERSION_LABELS,
    CipherSuite,
    Keys,
    hkdf_expand_label,
    initial_secrets,
)
from quicfs.transport.packet import PacketType, check_retry, parse_long_header, write_long_header, write_retry
from quicfs.transport.protection import TAG_LENGTH

VECTORS: dict[str, Any] = json.loads(
    (Path(__file__).parents[2] / "vectors" / "rfc9001_appendix_a.json").read_text()
)
KEYS = VECTORS["keys"]
CLIENT_INITIAL = VECTORS["client_initial"]
SERVER_INITIAL = VECTORS["server_initial"]
RETRY = VECTORS["retry"]
CHACHA20 = VECTORS["chacha20_short_header"]


def unhex(value: str | list[str]) -> bytes:
    return bytes.fromhex("".join(value))


def initial_keys(role: str) -> Keys:
    return Keys(CipherSuite.AES_128_GCM, unhex(KEYS[role]["secret"]))


def client_payload() -> bytes:
    return unhex(CLIENT_INITIAL["crypto_frame"]).ljust(CLIENT_INITIAL["payload_length"], b"\0")


def seal(keys: Keys, header: bytes, pn: int, pn_length: int, payload: bytes) -> bytes:
    out = bytearray(len(header) + len(payload) + TAG_LENGTH)
    end = keys.seal_run(memoryview(out), 0, header[:-pn_length], pn, pn_length, [payload])
    return bytes(out[:end])


def test_initial_secrets() -> None:
    """§A.1."""
    client, server = initial_secrets(VERSION_1, unhex(KEYS["dcid"]))
    assert client == unhex(KEYS["client"]["secret"])
    assert server == unhex(KEYS["server"]["secret"])
    assert VERSION_LABELS[VERSION_1].initial_salt == unhex(KEYS["initial_salt"])


@pytest.mark.parametrize("role", ["client", "server"])
@pytest.mark.parametrize(("field", "label", "length"), [("key", "key", 16), ("iv", "iv", 12)])
def test_keys_from_secret(role: str, field: str, label: str, length: int) -> None:
    """§A.1."""
    suite = CipherSuite.AES_128_GCM
    secret = unhex(KEYS[role]["secret"])
    assert hkdf_expand_label(
        suite.hash_type, secret, getattr(VERSION_LABELS[VERSION_1], label), length
    ) == unhex(KEYS[role][field])
    assert hkdf_expand_label(
        suite.hash_type, secret, VERSION_LABELS[VERSION_1].header_protection, suite.key_length
    ) == unhex(KEYS[role]["hp"])


@pytest.mark.parametrize(
    ("role", "vector", "pn_length", "payload"),
    [
        ("client", CLIENT_INITIAL, 4, client_payload()),
        ("server", SERVER_INITIAL, 2, unhex(SERVER_INITIAL["payload"])),
    ],
    ids=["client", "server"],
)
def test_seal_initial(role: str, vector: dict[str, Any], pn_length: int, payload: bytes) -> None:
    """§A.2, §A.3."""
    sealed = seal(
        initial_keys(role), unhex(vector["unprotected_header"]), vector["packet_number"], pn_length, payload
    )
    assert sealed == unhex(vector["packet"])


@pytest.mark.parametrize(
    ("role", "vector", "payload"),
    [
        ("client", CLIENT_INITIAL, client_payload()),
        ("server", SERVER_INITIAL, unhex(SERVER_INITIAL["payload"])),
    ],
    ids=["client", "server"],
)
def test_open_initial(role: str, vector: dict[str, Any], payload: bytes) -> None:
    """§A.2, §A.3."""
    data = bytearray(unhex(vector["packet"]))
    header = parse_long_header(memoryview(data), 0, len(data))
    assert (header.packet_type, header.version, header.end) == (PacketType.INITIAL, VERSION_1, len(data))
    opened, _ = initial_keys(role).open_run(
        memoryview(data), [0], [len(data)], header.payload_offset, -1, memoryview(bytearray(len(data)))
    )
    unprotected = unhex(vector["unprotected_header"])
    assert [(pn, first, bytes(view)) for pn, first, view in opened] == [
        (vector["packet_number"], unprotected[0], payload)
    ]


def test_headers_of_initials() -> None:
    """§A.2, §A.3: our own headers are the RFC's."""
    assert write_long_header(
        PacketType.INITIAL, VERSION_1, unhex(KEYS["dcid"]), b"", b"", pn=2, pn_length=4, length=1182
    ) == unhex(CLIENT_INITIAL["unprotected_header"])
    payload = unhex(SERVER_INITIAL["payload"])
    assert write_long_header(
        PacketType.INITIAL,
        VERSION_1,
        b"",
        unhex(RETRY["scid"]),
        b"",
        pn=1,
        pn_length=2,
        length=2 + len(payload) + TAG_LENGTH,
    ) == unhex(SERVER_INITIAL["unprotected_header"])


def test_forged_initial_is_left_out() -> None:
    for position in (0, 20, 600, 1199):  # first byte, packet number, payload, tag
        data = bytearray(unhex(CLIENT_INITIAL["packet"]))
        data[position] ^= 0x01
        forged = bytes(data)
        opened, _ = initial_keys("client").open_run(
            memoryview(data), [0], [len(data)], 18, -1, memoryview(bytearray(len(data)))
        )
        assert opened == []
        assert data == forged  # the header is as it came


def test_retry() -> None:
    """§A.4."""
    original_dcid, packet = unhex(RETRY["original_dcid"]), unhex(RETRY["packet"])
    written = write_retry(
        VERSION_1, b"", unhex(RETRY["scid"]), unhex(RETRY["token"]), original_dcid, unused_bits=0x0F
    )
    assert written == packet
    assert check_retry(packet, original_dcid)
    assert not check_retry(packet, original_dcid[::-1])
    assert not check_retry(packet[:-1] + bytes((packet[-1] ^ 1,)), original_dcid)
    header = parse_long_header(memoryview(packet), 0, len(packet))
    assert (header.packet_type, header.token) == (PacketType.RETRY, unhex(RETRY["token"]))


def test_chacha20_short_header() -> None:
    """§A.5."""
    suite = CipherSuite.CHACHA20_POLY1305
    secret, header = unhex(CHACHA20["secret"]), unhex(CHACHA20["unprotected_header"])
    for field, label, length in (("key", b"quic key", 32), ("iv", b"quic iv", 12), ("hp", b"quic hp", 32)):
        assert hkdf_expand_label(suite.hash_type, secret, label, length) == unhex(CHACHA20[field])
    assert hkdf_expand_label(suite.hash_type, secret, b"quic ku", 32) == unhex(CHACHA20["ku"])

    pn = CHACHA20["packet_number"]
    packet = unhex(CHACHA20["packet"])
    assert seal(Keys(suite, secret), header, pn, 3, unhex(CHACHA20["payload"])) == packet

    data = bytearray(packet)
    opened, _ = Keys(suite, secret).open_run(
        memoryview(data), [0], [len(data)], 1, pn - 1, memoryview(bytearray(len(data)))
    )
    assert [(got, first, bytes(view)) for got, first, view in opened] == [
        (pn, header[0], unhex(CHACHA20["payload"]))
    ]
