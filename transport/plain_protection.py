"""Sealing and opening of whole trains in Python: see `protection.Protection` for what each method does.

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

from quicfs.transport.protection import SAMPLE_LENGTH, TAG_LENGTH, Opened

_MASK: Final = Struct(">BI11x")  # for the first byte, and for up to four bytes of packet number
_U32: Final = Struct(">I")
_KEY_PHASE: Final = 0x04
_SHORT_MASK: Final = 0x1F  # what is protected of a short header's first byte (RFC 9001 §5.4.1)
_OFFSET_8: Final = 0xC0 << 56  # the 8-byte form of a variable-length integer
_RUN_MAX: Final = 256


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


def stream_payloads(head: bytes, offset: int, data: memoryview, step: int) -> list[bytes]:
    """What `seal_stream_run` seals."""
    return [
        b"".join((head, (_OFFSET_8 | offset + at).to_bytes(8, "big"), data[at : at + step]))
        for at in range(0, len(data), step)
    ]


class PlainProtection:
    """Packet protection of one direction with `cryptography`."""

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
        /,
    ) -> int:
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

    def seal_stream_run(
        self,
        out: memoryview,
        pos: int,
        prefix: bytes,
        first_pn: int,
        pn_length: int,
        head: bytes,
        offset: int,
        data: memoryview,
        step: int,
        /,
    ) -> int:
        return self.seal_run(out, pos, prefix, first_pn, pn_length, stream_payloads(head, offset, data, step))

    def open_run(
        self,
        data: memoryview,
        starts: Sequence[int],
        stops: Sequence[int],
        pn_offset: int,
        largest_pn: int,
        out: memoryview,
        phase: int = -1,
        /,
    ) -> tuple[Opened, list[int]]:
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

    def open_stream_run(
        self,
        data: memoryview,
        segment_size: int,
        pn_offset: int,
        pn: int,
        phase: int,
        head: bytes,
        offset: int,
        /,
    ) -> tuple[int, memoryview]:
        total = len(data)
        sample_offset = pn_offset + 4
        last = min(total - sample_offset - SAMPLE_LENGTH, segment_size * (_RUN_MAX - 1))
        starts = range(0, last + 1, segment_size)
        masks = self._masks(
            b"".join([data[at + sample_offset : at + sample_offset + SAMPLE_LENGTH] for at in starts])
        )
        head_length = len(head) + 8
        wanted = 0x98 if phase < 0 else 0x9C  # bits of the first byte: form, reserved, key phase
        iv = self._iv
        decrypt = self._aead.decrypt
        prefix = b""
        prefix_first = -1
        pieces: list[memoryview] = []
        for start, (mask0, mask4) in zip(starts, _MASK.iter_unpack(masks), strict=True):
            first = data[start] ^ (mask0 & _SHORT_MASK)
            pn_length = (first & 0x03) + 1
            pn_at = start + pn_offset
            body = pn_at + pn_length
            stop = start + segment_size
            low_bits = pn & (1 << 8 * pn_length) - 1
            if (
                first & wanted != max(phase, 0)
                or (_U32.unpack_from(data, pn_at)[0] ^ mask4) >> 32 - 8 * pn_length != low_bits
                or min(stop, total) - body - TAG_LENGTH <= head_length
            ):
                break
            if first != prefix_first:
                prefix_first = first
                prefix = first.to_bytes(1, "big") + bytes(data[start + 1 : pn_at])
            try:
                payload = decrypt(
                    (iv ^ pn).to_bytes(12, "big"),
                    data[body:stop],
                    prefix + low_bits.to_bytes(pn_length, "big"),
                )
            except InvalidTag:
                break
            if not payload.startswith(head + (_OFFSET_8 | offset).to_bytes(8, "big")):
                break
            pieces.append(memoryview(payload)[head_length:])
            offset += len(payload) - head_length
            pn += 1
        return len(pieces), pieces[0] if len(pieces) == 1 else memoryview(b"".join(pieces))
