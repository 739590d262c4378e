"""RFC 9001 appendix A and RFC 9369 appendix A, byte for byte."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from quicfs.transport.crypto import VERSION_LABELS, CipherSuite, Keys, hkdf_expand_label, initial_secrets
from quicfs.transport.packet import (
    VERSION_1,
    VERSION_2,
    PacketType,
    check_retry,
    parse_long_header,
    write_long_header,
    write_retry,
)
from quicfs.transport.protection import TAG_LENGTH

FOLDER = Path(__file__).parents[2] / "vectors"
SUITE = CipherSuite.AES_128_GCM
FIRST_PN_LENGTHS = {"client": 4, "server": 2}


def unhex(value: str | list[str]) -> bytes:
    return bytes.fromhex("".join(value))


class Vectors:
    """One version's appendix."""

    def __init__(self, version: int, name: str) -> None:
        data: dict[str, Any] = json.loads((FOLDER / name).read_text())
        self.version = version
        self.labels = VERSION_LABELS[version]
        self.keys: dict[str, Any] = data["keys"]
        self.initials: dict[str, dict[str, Any]] = {
            "client": data["client_initial"],
            "server": data["server_initial"],
        }
        self.retry: dict[str, str] = data["retry"]
        self.chacha20: dict[str, Any] = data["chacha20_short_header"]

    def initial_keys(self, role: str) -> Keys:
        return Keys(SUITE, unhex(self.keys[role]["secret"]), self.version)

    def payload(self, role: str) -> bytes:
        vector = self.initials[role]
        if role == "server":
            return unhex(vector["payload"])
        return unhex(vector["crypto_frame"]).ljust(vector["payload_length"], b"\0")


@pytest.fixture(
    params=[(VERSION_1, "rfc9001_appendix_a.json"), (VERSION_2, "rfc9369_appendix_a.json")],
    ids=["v1", "v2"],
)
def vectors(request: pytest.FixtureRequest) -> Vectors:
    return Vectors(*request.param)


@pytest.fixture(params=["client", "server"])
def role(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def seal(keys: Keys, header: bytes, pn: int, pn_length: int, payload: bytes) -> bytes:
    out = bytearray(len(header) + len(payload) + TAG_LENGTH)
    end = keys.seal_run(memoryview(out), 0, header[:-pn_length], pn, pn_length, [payload])
    return bytes(out[:end])


def test_initial_secrets(vectors: Vectors) -> None:
    """§A.1."""
    client, server = initial_secrets(vectors.version, unhex(vectors.keys["dcid"]))
    assert client == unhex(vectors.keys["client"]["secret"])
    assert server == unhex(vectors.keys["server"]["secret"])
    assert vectors.labels.initial_salt == unhex(vectors.keys["initial_salt"])


@pytest.mark.parametrize(
    ("field", "label", "length"), [("key", "key", 16), ("iv", "iv", 12), ("hp", "header_protection", 16)]
)
def test_keys_from_secret(vectors: Vectors, role: str, field: str, label: str, length: int) -> None:
    """§A.1."""
    secret = unhex(vectors.keys[role]["secret"])
    derived = hkdf_expand_label(SUITE.hash_type, secret, getattr(vectors.labels, label), length)
    assert derived == unhex(vectors.keys[role][field])


def test_seal_initial(vectors: Vectors, role: str) -> None:
    """§A.2, §A.3."""
    vector = vectors.initials[role]
    sealed = seal(
        vectors.initial_keys(role),
        unhex(vector["unprotected_header"]),
        vector["packet_number"],
        FIRST_PN_LENGTHS[role],
        vectors.payload(role),
    )
    assert sealed == unhex(vector["packet"])


def test_open_initial(vectors: Vectors, role: str) -> None:
    """§A.2, §A.3."""
    vector = vectors.initials[role]
    data = bytearray(unhex(vector["packet"]))
    header = parse_long_header(memoryview(data), 0, len(data))
    assert (header.packet_type, header.version, header.end) == (
        PacketType.INITIAL,
        vectors.version,
        len(data),
    )
    opened, _ = vectors.initial_keys(role).open_run(
        memoryview(data), [0], [len(data)], header.payload_offset, -1, memoryview(bytearray(len(data)))
    )
    unprotected = unhex(vector["unprotected_header"])
    assert [(pn, first, bytes(view)) for pn, first, view in opened] == [
        (vector["packet_number"], unprotected[0], vectors.payload(role))
    ]


def test_headers_of_initials(vectors: Vectors) -> None:
    """§A.2, §A.3: our own headers are the RFC's."""
    written = write_long_header(
        PacketType.INITIAL,
        vectors.version,
        unhex(vectors.keys["dcid"]),
        b"",
        b"",
        pn=2,
        pn_length=4,
        length=1182,
    )
    assert written == unhex(vectors.initials["client"]["unprotected_header"])
    written = write_long_header(
        PacketType.INITIAL,
        vectors.version,
        b"",
        unhex(vectors.retry["scid"]),
        b"",
        pn=1,
        pn_length=2,
        length=2 + len(vectors.payload("server")) + TAG_LENGTH,
    )
    assert written == unhex(vectors.initials["server"]["unprotected_header"])


def test_forged_initial_is_left_out(vectors: Vectors) -> None:
    for position in (0, 20, 600, 1199):  # first byte, packet number, payload, tag
        data = bytearray(unhex(vectors.initials["client"]["packet"]))
        data[position] ^= 0x01
        forged = bytes(data)
        opened, _ = vectors.initial_keys("client").open_run(
            memoryview(data), [0], [len(data)], 18, -1, memoryview(bytearray(len(data)))
        )
        assert opened == []
        assert data == forged  # the header is as it came


def test_keys_of_another_version(vectors: Vectors) -> None:
    """RFC 9369 §3.3: a packet of one version means nothing in the other."""
    data = bytearray(unhex(vectors.initials["client"]["packet"]))
    other = VERSION_2 if vectors.version == VERSION_1 else VERSION_1
    client, _ = initial_secrets(other, unhex(vectors.keys["dcid"]))
    assert Keys(SUITE, client, other).open_run(
        memoryview(data), [0], [len(data)], 18, -1, memoryview(bytearray(len(data)))
    ) == ([], [])


def test_retry(vectors: Vectors) -> None:
    """§A.4."""
    retry = vectors.retry
    original_dcid, packet = unhex(retry["original_dcid"]), unhex(retry["packet"])
    written = write_retry(
        vectors.version, b"", unhex(retry["scid"]), unhex(retry["token"]), original_dcid, unused_bits=0x0F
    )
    assert written == packet
    assert check_retry(packet, original_dcid)
    assert not check_retry(packet, original_dcid[::-1])
    assert not check_retry(packet[:-1] + bytes((packet[-1] ^ 1,)), original_dcid)
    header = parse_long_header(memoryview(packet), 0, len(packet))
    assert (header.packet_type, header.token) == (PacketType.RETRY, unhex(retry["token"]))


def test_chacha20_short_header(vectors: Vectors) -> None:
    """§A.5."""
    suite = CipherSuite.CHACHA20_POLY1305
    vector, labels = vectors.chacha20, vectors.labels
    secret, header = unhex(vector["secret"]), unhex(vector["unprotected_header"])
    for field, label, length in (
        ("key", labels.key, 32),
        ("iv", labels.iv, 12),
        ("hp", labels.header_protection, 32),
    ):
        assert hkdf_expand_label(suite.hash_type, secret, label, length) == unhex(vector[field])
    keys = Keys(suite, secret, vectors.version)
    assert keys.next_phase().secret == unhex(vector["ku"])

    pn = vector["packet_number"]
    packet = unhex(vector["packet"])
    assert seal(keys, header, pn, 3, unhex(vector["payload"])) == packet

    data = bytearray(packet)
    opened, _ = keys.open_run(memoryview(data), [0], [len(data)], 1, pn - 1, memoryview(bytearray(len(data))))
    assert [(got, first, bytes(view)) for got, first, view in opened] == [
        (pn, header[0], unhex(vector["payload"]))
    ]
