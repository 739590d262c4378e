"""Packet protection (RFC 9001 §5): keys of one direction, and sealing and opening of whole trains.

A train costs one AEAD call per packet and one header-protection call in all: the samples of the train
are enciphered together, since AES-ECB blocks are independent of each other.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Sequence
from struct import Struct
from typing import Final, NamedTuple

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM, ChaCha20Poly1305
from cryptography.hazmat.primitives.hmac import HMAC
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand

TAG_LENGTH: Final = 16
SAMPLE_LENGTH: Final = 16
VERSION_1: Final = 0x00000001


_MASK: Final = Struct(">BI11x")  # for the first byte, and for up to four bytes of packet number
_U32: Final = Struct(">I")


class CipherSuite(enum.Enum):
    """The AEADs of RFC 9001 §5.3 with their key length and hash."""

    AES_128_GCM = (16, hashes.SHA256)
    AES_256_GCM = (32, hashes.SHA384)
    CHACHA20_POLY1305 = (32, hashes.SHA256)

    def __init__(self, key_length: int, hash_type: type[hashes.HashAlgorithm]) -> None:
        self.key_length = key_length
        self.hash_type = hash_type


class VersionLabels(NamedTuple):
    """What a version of QUIC puts into its key schedule (RFC 9001 §5.1, §5.2)."""

    initial_salt: bytes
    key: bytes
    iv: bytes
    header_protection: bytes


VERSION_LABELS: Final = {
    VERSION_1: VersionLabels(
        bytes.fromhex("38762cf7f55934b34d179ae6a4c80cadccbb7f0a"), b"quic key", b"quic iv", b"quic hp"
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


def _aes_masks(key: bytes) -> Callable[[bytes], bytes]:
    # ECB keeps no state from one block to the next, so that one context serves for ever (RFC 9001 §5.4.3).
    return Cipher(algorithms.AES(key), modes.ECB()).encryptor().update


def _chacha20_masks(key: bytes) -> Callable[[bytes], bytes]:
    def masks(samples: bytes) -> bytes:
        # The sample is counter and nonce at once (RFC 9001 §5.4.4): one context per packet.
        return b"".join(
            Cipher(algorithms.ChaCha20(key, samples[i : i + 16]), None).encryptor().update(bytes(16))
            for i in range(0, len(samples), SAMPLE_LENGTH)
        )

    return masks


class Keys:
    """The keys of one direction at one encryption level; both ways write into a buffer of the caller."""

    __slots__ = ("_aead", "_decrypt_into", "_encrypt_into", "_iv", "_masks", "secret", "suite")

    def __init__(self, suite: CipherSuite, secret: bytes, version: int = VERSION_1) -> None:
        labels = VERSION_LABELS[version]
        expand = hkdf_expand_label
        key = expand(suite.hash_type, secret, labels.key, suite.key_length)
        hp = expand(suite.hash_type, secret, labels.header_protection, suite.key_length)
        self.suite = suite
        self.secret = secret
        self._iv = int.from_bytes(expand(suite.hash_type, secret, labels.iv, 12), "big")
        self._aead: AESGCM | ChaCha20Poly1305
        if suite is CipherSuite.CHACHA20_POLY1305:
            self._aead = ChaCha20Poly1305(key)
            self._masks = _chacha20_masks(hp)
        else:
            self._aead = AESGCM(key)
            self._masks = _aes_masks(hp)
        self._encrypt_into = self._aead.encrypt_into
        self._decrypt_into = self._aead.decrypt_into

    def seal_run(
        self,
        out: memoryview,
        pos: int,
        prefix: bytes,
        first_pn: int,
        pn_length: int,
        payloads: Sequence[bytes],
    ) -> int:
        """Seal consecutive packets one after the other into `out` from `pos` on; returns the end.

        `prefix` is the header up to the packet number, the same for all: for short headers the first byte
        and the connection ID. Every payload must leave 4 bytes after the start of the packet number
        before the sample (RFC 9001 §5.4.2): `pn_length + len(payload) >= 4`.
        """
        iv = self._iv
        encrypt_into = self._encrypt_into
        pn_mask = (1 << 8 * pn_length) - 1
        header_length = len(prefix) + pn_length
        sample_offset = len(prefix) + 4
        pn = first_pn
        starts: list[int] = []
        samples: list[memoryview] = []
        for payload in payloads:
            starts.append(pos)
            body = pos + header_length
            end = body + len(payload) + TAG_LENGTH
            encrypt_into(
                (iv ^ pn).to_bytes(12, "big"),
                payload,
                prefix + (pn & pn_mask).to_bytes(pn_length, "big"),
                out[body:end],
            )
            sample = pos + sample_offset
            samples.append(out[sample : sample + SAMPLE_LENGTH])
            pos = end
            pn += 1
        first = prefix[0]
        first_bits = 0x0F if first & 0x80 else 0x1F
        rest = prefix[1:]
        shift = 32 - 8 * pn_length
        pn = first_pn
        for start, (mask0, mask4) in zip(
            starts, _MASK.iter_unpack(self._masks(b"".join(samples))), strict=True
        ):
            out[start : start + header_length] = b"".join(
                (
                    (first ^ (mask0 & first_bits)).to_bytes(1, "big"),
                    rest,
                    ((pn & pn_mask) ^ (mask4 >> shift)).to_bytes(pn_length, "big"),
                )
            )
            pn += 1
        return pos

    def open_run(
        self,
        data: memoryview,
        starts: Sequence[int],
        stops: Sequence[int],
        pn_offset: int,
        largest_pn: int,
        out: memoryview,
    ) -> list[tuple[int, int, memoryview]]:
        """Open the packets `data[start:stop]`; returns `(packet number, first byte, payload)` of each that
        is authentic, the first byte unprotected, the payload a view into `out`.

        The packets of a run share what stands between the first byte and the packet number, `pn_offset` bytes
        after the start of each (with long headers it may differ). `largest_pn` is the largest number seen so far, -1
        for none. A packet whose tag does not verify is left out.
        """
        sample_offset = pn_offset + 4
        samples = b"".join(
            [data[start + sample_offset : start + sample_offset + SAMPLE_LENGTH] for start in starts]
        )
        if len(samples) != SAMPLE_LENGTH * len(starts):
            return []  # a packet too short to hold a sample (RFC 9001 §5.4.2)
        iv = self._iv
        decrypt_into = self._decrypt_into
        first_bits = 0x0F if data[starts[0]] & 0x80 else 0x1F
        opened: list[tuple[int, int, memoryview]] = []
        expected = largest_pn + 1
        position = 0
        prefix = b""
        prefix_first = -1
        for start, stop, (mask0, mask4) in zip(
            starts, stops, _MASK.iter_unpack(self._masks(samples)), strict=True
        ):
            first = data[start] ^ (mask0 & first_bits)
            pn_length = (first & 0x03) + 1
            pn_at = start + pn_offset
            body = pn_at + pn_length
            end = position + stop - body - TAG_LENGTH
            if end < position:
                continue
            truncated = (_U32.unpack_from(data, pn_at)[0] ^ mask4) >> 32 - 8 * pn_length
            # RFC 9000 §A.3: the number closest to the expected one that ends in these bits.
            window = 1 << 8 * pn_length
            pn = (expected & -window) | truncated
            if pn != expected:
                if pn + (window >> 1) <= expected and pn + window < 1 << 62:
                    pn += window
                elif pn > expected + (window >> 1) and pn >= window:
                    pn -= window
            if first != prefix_first or first & 0x80:
                prefix_first = first
                prefix = first.to_bytes(1, "big") + bytes(data[start + 1 : pn_at])
            payload = out[position:end]
            try:
                decrypt_into(
                    (iv ^ pn).to_bytes(12, "big"),
                    data[body:stop],
                    prefix + truncated.to_bytes(pn_length, "big"),
                    payload,
                )
            except InvalidTag:
                continue
            opened.append((pn, first, payload))
            position = end
            if pn >= expected:
                expected = pn + 1
        return opened
