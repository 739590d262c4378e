"""Signatures of messages ([MS-SMB2] §3.1.4.1)."""

from __future__ import annotations

import hmac
import struct
from collections.abc import Callable, Sequence
from typing import Final, cast

from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import GCM
from cryptography.hazmat.primitives.cmac import CMAC

from quicfs.smb.messages.header import SIGNATURE_OFFSET, Command
from quicfs.smb.messages.negotiate_contexts import SigningAlgorithm

__all__ = ["Signer"]

_NONCE = struct.Struct("<QI")
_ZEROS: Final = bytes(16)
# Below this, gathering the parts for one call costs less than a context that takes them one by one.
_ONE_CALL: Final = 128 * 1024
_AFTER_SIGNATURE: Final = SIGNATURE_OFFSET + 16

Mac = Callable[[Sequence[bytes | memoryview], bytes], bytes]


def _hmac_sha256(key: bytes) -> Mac:
    base = hmac.new(key, digestmod="sha256")

    def mac(parts: Sequence[bytes | memoryview], nonce: bytes) -> bytes:
        state = base.copy()
        for part in parts:
            state.update(part)
        return state.digest()[:16]

    return mac


def _aes_cmac(key: bytes) -> Mac:
    base = CMAC(AES(key))

    def mac(parts: Sequence[bytes | memoryview], nonce: bytes) -> bytes:
        state = base.copy()
        for part in parts:
            state.update(cast(bytes, part))  # any buffer will do; the annotation says less
        return state.finalize()

    return mac


def _aes_gmac(key: bytes) -> Mac:
    encrypt = AESGCM(key).encrypt
    aes = AES(key)

    def mac(parts: Sequence[bytes | memoryview], nonce: bytes) -> bytes:
        if sum(map(len, parts)) <= _ONE_CALL:
            return encrypt(nonce, b"", b"".join(parts))
        encryptor = Cipher(aes, GCM(nonce)).encryptor()
        for part in parts:
            encryptor.authenticate_additional_data(cast(bytes, part))
        encryptor.finalize()
        return encryptor.tag

    return mac


_MACS: Final = {
    SigningAlgorithm.HMAC_SHA256: _hmac_sha256,
    SigningAlgorithm.AES_CMAC: _aes_cmac,
    SigningAlgorithm.AES_GMAC: _aes_gmac,
}


class Signer:
    """Signs and checks with one key. A message is its parts in order, the whole header in the first."""

    __slots__ = ("_mac",)

    def __init__(self, algorithm: int, key: bytes) -> None:
        self._mac = _MACS[SigningAlgorithm(algorithm)](key)

    def sign(self, parts: Sequence[bytes | memoryview], *, server: bool) -> bytes:
        """The signature that belongs at `SIGNATURE_OFFSET`; what stands there now does not count."""
        head = parts[0]
        # §3.1.4.1: MessageId, then one bit for the server's messages and one for CANCEL.
        message_id = int.from_bytes(head[24:32], "little")
        command = head[12] | head[13] << 8
        nonce = _NONCE.pack(message_id, server | (command == Command.CANCEL) << 1)
        return self._mac((head[:SIGNATURE_OFFSET], _ZEROS, head[_AFTER_SIGNATURE:], *parts[1:]), nonce)

    def verify(self, message: memoryview, *, server: bool) -> bool:
        """Whether the message, as it came from the server (or the client), carries the right signature."""
        expected = self.sign((message,), server=server)
        return hmac.compare_digest(expected, message[SIGNATURE_OFFSET:_AFTER_SIGNATURE])
