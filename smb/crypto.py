"""Keys of a session ([MS-SMB2] §3.1.4.2, §3.3.5.5.3) and the preauth integrity hash (§3.3.5.4)."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Final

from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.kbkdf import KBKDFHMAC, CounterLocation, Mode

from quicfs.smb.messages.negotiate import Dialect
from quicfs.smb.messages.negotiate_contexts import Cipher

__all__ = ["PreauthHash", "SessionKeys", "derive_key", "derive_session_keys"]

_KEY_SIZE: Final = 16
_AES_256: Final = (Cipher.AES_256_CCM, Cipher.AES_256_GCM)


class PreauthHash:
    """The chain H(previous || message) over the messages of NEGOTIATE and SESSION_SETUP."""

    __slots__ = ("value",)

    def __init__(self, value: bytes = bytes(64)) -> None:
        self.value = value

    def update(self, *parts: bytes | memoryview) -> None:
        """One whole message, header included, without the transport's length."""
        digest = hashlib.sha512(self.value)
        for part in parts:
            digest.update(part)
        self.value = digest.digest()

    def copy(self) -> PreauthHash:
        return PreauthHash(self.value)


@dataclass(frozen=True, slots=True)
class SessionKeys:
    """Keys by direction: `client_to_server` is the client's encryption key and our decryption key."""

    signing: bytes
    client_to_server: bytes
    server_to_client: bytes
    application: bytes


def derive_key(key: bytes, label: bytes, context: bytes, length: int = _KEY_SIZE) -> bytes:
    """SP800-108 in counter mode with HMAC-SHA256 (§3.1.4.2); labels and contexts end with their zero byte."""
    return KBKDFHMAC(
        algorithm=SHA256(),
        mode=Mode.CounterMode,
        length=length,
        rlen=4,
        llen=4,
        location=CounterLocation.BeforeFixed,
        label=label,
        context=context,
        fixed=None,
    ).derive(key)


def derive_session_keys(
    dialect: int, session_key: bytes, preauth_hash: bytes = b"", cipher: int = 0
) -> SessionKeys:
    """All keys of a session. `session_key` is what the GSS exchange exported, cut or filled to 16 bytes.

    `preauth_hash` counts for 3.1.1 only, `cipher` decides on the length of the encryption keys.
    """
    # §3.3.5.5.3: the first 16 bytes of the key, right-filled with zeros.
    key = session_key[:_KEY_SIZE].ljust(_KEY_SIZE, b"\0")
    if dialect < Dialect.SMB_3_0:
        return SessionKeys(key, b"", b"", key)
    if dialect < Dialect.SMB_3_1_1:
        return SessionKeys(
            derive_key(key, b"SMB2AESCMAC\0", b"SmbSign\0"),
            derive_key(key, b"SMB2AESCCM\0", b"ServerIn \0"),
            derive_key(key, b"SMB2AESCCM\0", b"ServerOut\0"),
            derive_key(key, b"SMB2APP\0", b"SmbRpc\0"),
        )
    # AES-256 keys come from the whole key that the exchange exported.
    wide = cipher in _AES_256
    source, length = (session_key, 32) if wide else (key, _KEY_SIZE)
    return SessionKeys(
        derive_key(key, b"SMBSigningKey\0", preauth_hash),
        derive_key(source, b"SMBC2SCipherKey\0", preauth_hash, length),
        derive_key(source, b"SMBS2CCipherKey\0", preauth_hash, length),
        derive_key(key, b"SMBAppKey\0", preauth_hash),
    )
