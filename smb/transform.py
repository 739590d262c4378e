"""Encrypted messages: the TRANSFORM header ([MS-SMB2] §2.2.41, §3.1.4.3, §3.3.5.2.1.1)."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import ciphers
from cryptography.hazmat.primitives.ciphers.aead import AESCCM, AESGCM
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import GCM

from quicfs.smb.errors import SmbProtocolError
from quicfs.smb.messages.header import TRANSFORM_MAGIC
from quicfs.smb.messages.negotiate_contexts import Cipher

__all__ = ["TRANSFORM_HEADER_SIZE", "Opener", "Sealer", "transform_session_id"]

_HEADER = struct.Struct("<4s16s16sIHHQ")
TRANSFORM_HEADER_SIZE: Final = _HEADER.size
_AAD = struct.Struct("<16sIHHQ")  # all but ProtocolId and Signature
_AAD_AT: Final = 20
_COUNTER = struct.Struct("<Q")
_ENCRYPTED: Final = 0x0001
_TAG_SIZE: Final = 16
_NONCE_SIZE: Final = {
    Cipher.AES_128_CCM: 11,
    Cipher.AES_128_GCM: 12,
    Cipher.AES_256_CCM: 11,
    Cipher.AES_256_GCM: 12,
}
# Above this, working piece by piece beats gathering the pieces for one call (measured: 3 µs for a small
# message instead of 8, 0.3 ms for 1 MiB instead of 1.5).
_ONE_CALL: Final = 128 * 1024
_MAX_COUNTER: Final = (1 << 64) - 1


class _Aead:
    __slots__ = ("aes", "gcm", "nonce_size", "one_call")

    def __init__(self, cipher: int, key: bytes) -> None:
        cipher = Cipher(cipher)
        self.nonce_size = _NONCE_SIZE[cipher]
        self.gcm = self.nonce_size == 12
        self.aes = AES(key)
        self.one_call: AESGCM | AESCCM = AESGCM(key) if self.gcm else AESCCM(key)


def transform_session_id(packet: memoryview) -> int:
    """Whose key opens this packet; it begins with TRANSFORM_MAGIC."""
    if len(packet) <= _HEADER.size:
        raise SmbProtocolError("TRANSFORM header: truncated")
    magic, _, _, size, _, flags, session_id = _HEADER.unpack_from(packet)
    if magic != TRANSFORM_MAGIC or flags != _ENCRYPTED:
        raise SmbProtocolError("TRANSFORM header: not an encrypted message")
    # §3.3.5.2.1.1: OriginalMessageSize must be that of the message.
    if size != len(packet) - _HEADER.size:
        raise SmbProtocolError("TRANSFORM header: OriginalMessageSize is not the size of the message")
    return int(session_id)


class Sealer:
    """Encrypts one direction of a session. The nonce is a counter: a key never sees one twice."""

    __slots__ = ("_aead", "_counter", "_session_id")

    def __init__(self, cipher: int, key: bytes, session_id: int) -> None:
        self._aead = _Aead(cipher, key)
        self._session_id = session_id
        self._counter = 0

    def seal(self, parts: Sequence[bytes | memoryview]) -> tuple[bytes, bytes | memoryview]:
        """The transform header and the ciphertext of one packet, to be sent in this order."""
        if self._counter == _MAX_COUNTER:
            raise OverflowError("the encryption key is used up")
        aead = self._aead
        nonce = _COUNTER.pack(self._counter).ljust(aead.nonce_size, b"\0")
        self._counter += 1
        size = sum(map(len, parts))
        aad = _AAD.pack(nonce, size, 0, _ENCRYPTED, self._session_id)
        sealed: bytes | memoryview
        if aead.gcm and size > _ONE_CALL:
            encryptor = ciphers.Cipher(aead.aes, GCM(nonce)).encryptor()
            encryptor.authenticate_additional_data(aad)
            sealed = memoryview(bytearray(size))
            at = 0
            for part in parts:
                at += encryptor.update_into(part, sealed[at:])
            encryptor.finalize()
            tag = encryptor.tag
        else:
            both = memoryview(aead.one_call.encrypt(nonce, b"".join(parts), aad))
            sealed, tag = both[:size], bytes(both[size:])
        return b"".join((TRANSFORM_MAGIC, tag, aad)), sealed


class Opener:
    """Decrypts the other direction."""

    __slots__ = ("_aead",)

    def __init__(self, cipher: int, key: bytes) -> None:
        self._aead = _Aead(cipher, key)

    def open(self, packet: memoryview) -> memoryview:
        """The messages inside; `transform_session_id` has checked the header."""
        aead = self._aead
        aad = packet[_AAD_AT : _HEADER.size]
        nonce = aad[: aead.nonce_size]
        tag = packet[4:_AAD_AT]
        sealed = packet[_HEADER.size :]
        try:
            if aead.gcm and len(sealed) > _ONE_CALL:
                decryptor = ciphers.Cipher(aead.aes, GCM(bytes(nonce), bytes(tag))).decryptor()
                decryptor.authenticate_additional_data(aad)
                opened = memoryview(bytearray(len(sealed)))
                decryptor.update_into(sealed, opened)
                decryptor.finalize()
                return opened
            return memoryview(aead.one_call.decrypt(nonce, b"".join((sealed, tag)), aad))
        except InvalidTag:
            raise SmbProtocolError("TRANSFORM header: the message was changed on the way") from None
