"""Packet protection (RFC 9001 §5): keys of one direction, and sealing and opening of whole trains.

A train costs one AEAD call per packet and one header-protection call in all: the samples of the train
are enciphered together, since AES-ECB blocks are independent of each other.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Sequence
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
    """The keys of one direction at one encryption level.

    `seal_*` write into a buffer of the caller; `open_*` unprotect headers in place and write the payloads
    into another buffer.
    """

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
        pn_offset = len(prefix)
        header_length = pn_offset + pn_length
        pn_mask = (1 << 8 * pn_length) - 1
        sample_offset = pn_offset + 4
        pn = first_pn
        starts: list[int] = []
        samples: list[memoryview] = []
        for payload in payloads:
            header = prefix + (pn & pn_mask).to_bytes(pn_length, "big")
            body = pos + header_length
            end = body + len(payload) + TAG_LENGTH
            out[pos:body] = header
            encrypt_into((iv ^ pn).to_bytes(12, "big"), payload, header, out[body:end])
            sample = pos + sample_offset
            samples.append(out[sample : sample + SAMPLE_LENGTH])
            starts.append(pos)
            pos = end
            pn += 1
        masks = self._masks(b"".join(samples))
        first_bits = 0x0F if prefix[0] & 0x80 else 0x1F
        k = 0
        for start in starts:
            out[start] ^= masks[k] & first_bits
            q = start + pn_offset
            for i in range(k + 1, k + 1 + pn_length):
                out[q] ^= masks[i]
                q += 1
            k += SAMPLE_LENGTH
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

        `pn_offset` counts from the start of a packet. `largest_pn` is the largest number seen so far, -1
        for none. A packet whose tag does not verify is left out.
        """
        sample_offset = pn_offset + 4
        pieces = []
        for start in starts:
            sample = start + sample_offset
            pieces.append(data[sample : sample + SAMPLE_LENGTH])
        samples = b"".join(pieces)
        if len(samples) != SAMPLE_LENGTH * len(starts):
            return []  # a packet too short to hold a sample (RFC 9001 §5.4.2)
        masks = self._masks(samples)
        iv = self._iv
        decrypt_into = self._decrypt_into
        first_bits = 0x0F if data[starts[0]] & 0x80 else 0x1F
        opened: list[tuple[int, int, memoryview]] = []
        expected = largest_pn + 1
        position = 0
        k = 0
        for start, stop in zip(starts, stops, strict=True):
            first = data[start] ^ (masks[k] & first_bits)
            pn_length = (first & 0x03) + 1
            q = start + pn_offset
            body = q + pn_length
            length = stop - body - TAG_LENGTH
            if length < 0:
                k += SAMPLE_LENGTH
                continue
            bits = pn_length << 3
            truncated = int.from_bytes(data[q:body], "big") ^ (
                int.from_bytes(masks[k + 1 : k + 1 + pn_length], "big")
            )
            k += SAMPLE_LENGTH
            # RFC 9000 §A.3: the number closest to the expected one that ends in these bits.
            window = 1 << bits
            pn = (expected & -window) | truncated
            if pn + (window >> 1) <= expected and pn + window < 1 << 62:
                pn += window
            elif pn > expected + (window >> 1) and pn >= window:
                pn -= window
            data[start] = first
            data[q:body] = truncated.to_bytes(pn_length, "big")
            end = position + length
            payload = out[position:end]
            try:
                decrypt_into((iv ^ pn).to_bytes(12, "big"), data[body:stop], data[start:body], payload)
            except InvalidTag:
                # Put the header back: it may be a stateless reset, or wait for other keys.
                data[start] = first ^ (masks[k - SAMPLE_LENGTH] & first_bits)
                data[q:body] = bytes(
                    b ^ m for b, m in zip(data[q:body], masks[k - 15 : k - 15 + pn_length], strict=True)
                )
                continue
            opened.append((pn, first, payload))
            position = end
            if pn >= expected:
                expected = pn + 1
        return opened
