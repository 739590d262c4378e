"""Sealing and opening of whole trains under one direction's keys (RFC 9001 §5.3, §5.4).

A train costs one AEAD call per packet and one header-protection call in all: the samples of the train
are enciphered together, since AES-ECB blocks are independent of each other.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from struct import Struct
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM, ChaCha20Poly1305

TAG_LENGTH: Final = 16
SAMPLE_LENGTH: Final = 16

Opened = list[tuple[int, int, memoryview]]
"""`(packet number, first byte, payload)` of each packet, the first byte unprotected."""

_MASK: Final = Struct(">BI11x")  # for the first byte, and for up to four bytes of packet number
_U32: Final = Struct(">I")
_KEY_PHASE: Final = 0x04


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


class Protection:
    """The ciphers of one direction; both ways write into a buffer of the caller.

    `key`, `iv` and `hp` are those of RFC 9001 §5.1; AES-GCM by the length of the key, or ChaCha20-Poly1305.
    """

    __slots__ = ("_aead", "_decrypt_into", "_encrypt_into", "_iv", "_masks")

    def __init__(self, key: bytes, iv: bytes, hp: bytes, *, chacha20: bool) -> None:
        self._iv = int.from_bytes(iv, "big")
        self._aead: AESGCM | ChaCha20Poly1305 = ChaCha20Poly1305(key) if chacha20 else AESGCM(key)
        self._masks = _chacha20_masks(hp) if chacha20 else _aes_masks(hp)
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
        phase: int = -1,
    ) -> tuple[Opened, list[int]]:
        """Open the packets `data[start:stop]`; returns `(opened, other)`.

        `opened` has the packets that are authentic, their payloads views into `out`; `other` the indices of those
        whose Key Phase bit is not `phase` (0 or 4; -1: it does not matter), of which nothing was tried. A packet
        whose tag does not verify is in neither.

        The packets of a run share what stands between the first byte and the packet number, `pn_offset` bytes
        after the start of each (with long headers it may differ). `largest_pn` is the largest number seen so far, -1
        for none. `data` is not changed.
        """
        sample_offset = pn_offset + 4
        samples = b"".join(
            [data[start + sample_offset : start + sample_offset + SAMPLE_LENGTH] for start in starts]
        )
        if len(samples) != SAMPLE_LENGTH * len(starts):
            return [], []  # a packet too short to hold a sample (RFC 9001 §5.4.2)
        iv = self._iv
        decrypt_into = self._decrypt_into
        first_bits = 0x0F if data[starts[0]] & 0x80 else 0x1F
        opened: Opened = []
        other: list[int] = []
        other_phase = -1 if phase < 0 else phase ^ _KEY_PHASE
        expected = largest_pn + 1
        position = 0
        prefix = b""
        prefix_first = -1
        for start, stop, (mask0, mask4) in zip(
            starts, stops, _MASK.iter_unpack(self._masks(samples)), strict=True
        ):
            first = data[start] ^ (mask0 & first_bits)
            if first & _KEY_PHASE == other_phase:
                other.append(starts.index(start))
                continue
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
        return opened, other
