"""The key schedule (RFC 9001 §5.1, §5.2): secrets, and the keys of one direction that come of them."""

from __future__ import annotations

import enum
from typing import Final, NamedTuple

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.hmac import HMAC
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand

from quicfs.transport.packet import VERSION_1, VERSION_2
from quicfs.transport.protection import make_protection


class CipherSuite(enum.Enum):
    """The AEADs of RFC 9001 §5.3 with their key length and hash."""

    AES_128_GCM = (16, hashes.SHA256)
    AES_256_GCM = (32, hashes.SHA384)
    CHACHA20_POLY1305 = (32, hashes.SHA256)

    def __init__(self, key_length: int, hash_type: type[hashes.HashAlgorithm]) -> None:
        self.key_length = key_length
        self.hash_type = hash_type


class VersionLabels(NamedTuple):
    """What a version of QUIC puts into its key schedule (RFC 9001 §5.1, §5.2, RFC 9369 §3.3)."""

    initial_salt: bytes
    key: bytes
    iv: bytes
    header_protection: bytes
    key_update: bytes


VERSION_LABELS: Final = {
    VERSION_1: VersionLabels(
        bytes.fromhex("38762cf7f55934b34d179ae6a4c80cadccbb7f0a"),
        b"quic key",
        b"quic iv",
        b"quic hp",
        b"quic ku",
    ),
    VERSION_2: VersionLabels(
        bytes.fromhex("0dede3def700a6db819381be6e269dcbf9bd2ed9"),
        b"quicv2 key",
        b"quicv2 iv",
        b"quicv2 hp",
        b"quicv2 ku",
    ),
}


def hkdf_expand_label(
    hash_type: type[hashes.HashAlgorithm], secret: bytes, label: bytes, length: int
) -> bytes:
    """HKDF-Expand-Label of RFC 8446 §7.1 with an empty context."""
    full = b"tls13 " + label
    info = length.to_bytes(2, "big") + bytes((len(full),)) + full + b"\0"
    return HKDFExpand(hash_type(), length, info).derive(secret)


def initial_secrets(version: int, original_dcid: bytes) -> tuple[bytes, bytes]:
    """Client's and server's Initial secrets (RFC 9001 §5.2)."""
    extract = HMAC(VERSION_LABELS[version].initial_salt, hashes.SHA256())
    extract.update(original_dcid)
    secret = extract.finalize()
    return (
        hkdf_expand_label(hashes.SHA256, secret, b"client in", 32),
        hkdf_expand_label(hashes.SHA256, secret, b"server in", 32),
    )


class Keys:
    """The keys of one direction at one encryption level; what they do is described in `protection.Protection`.

    `hp` is the header protection key of the phase before, which an update leaves as it is.
    """

    __slots__ = (
        "_hp",
        "_version",
        "open_run",
        "open_stream_run",
        "seal_run",
        "seal_stream_run",
        "secret",
        "suite",
    )

    def __init__(
        self, suite: CipherSuite, secret: bytes, version: int = VERSION_1, hp: bytes | None = None
    ) -> None:
        labels = VERSION_LABELS[version]
        expand = hkdf_expand_label
        self._hp = hp or expand(suite.hash_type, secret, labels.header_protection, suite.key_length)
        self._version = version
        protection = make_protection(
            expand(suite.hash_type, secret, labels.key, suite.key_length),
            expand(suite.hash_type, secret, labels.iv, 12),
            self._hp,
            chacha20=suite is CipherSuite.CHACHA20_POLY1305,
        )
        self.suite = suite
        self.secret = secret
        self.seal_run = protection.seal_run
        self.seal_stream_run = protection.seal_stream_run
        self.open_run = protection.open_run
        self.open_stream_run = protection.open_stream_run

    def next_phase(self) -> Keys:
        """The keys after a key update (RFC 9001 §6.1)."""
        hash_type = self.suite.hash_type
        label = VERSION_LABELS[self._version].key_update
        secret = hkdf_expand_label(hash_type, self.secret, label, hash_type().digest_size)
        return Keys(self.suite, secret, self._version, self._hp)


def initial_keys(version: int, dcid: bytes, *, is_server: bool) -> tuple[Keys, Keys]:
    """Keys of Initial packets, in and out, for a client whose first packet went to `dcid` (RFC 9001 §5.2)."""
    client, server = (
        Keys(CipherSuite.AES_128_GCM, secret, version) for secret in initial_secrets(version, dcid)
    )
    return (client, server) if is_server else (server, client)
