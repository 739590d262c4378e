"""Address validation tokens (RFC 9000 §8.1): of Retry packets, and of NEW_TOKEN frames for later connections.

A token is sealed with AES-GCM under a key that only this server has. The client's address is
authenticated with it, so that a token never counts for another address.
"""

from __future__ import annotations

from enum import IntEnum
from ipaddress import IPv6Address, ip_address
from struct import Struct

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

NONCE_LENGTH = 12
_TAG_LENGTH = 16
_ISSUED = Struct(">Q")  # microseconds
_PORT = Struct(">H")
_VERSION = Struct(">I")


class TokenKind(IntEnum):
    """The first byte of a token: a server must be able to tell the two apart (§8.1.3)."""

    RETRY = 0x52
    NEW_TOKEN = 0x4E


def token_kind(token: bytes) -> TokenKind | None:
    """What a token claims to be; None for one that we cannot have issued.

    A bad Retry token deserves INVALID_TOKEN (§8.1.2), any other is as good as none (§8.1.3).
    """
    if len(token) < 1 + NONCE_LENGTH + _ISSUED.size + _TAG_LENGTH or token[0] not in _KINDS:
        return None
    return TokenKind(token[0])


_KINDS = frozenset(TokenKind)


class TokenSealer:
    """Issues and checks tokens. `key` has 16 or 32 bytes.

    `now` counts seconds on one clock for issuing and checking; where the key outlives the machine's
    uptime that must be the wall clock. Every nonce is 12 fresh random bytes.
    """

    def __init__(self, key: bytes) -> None:
        self._aead = AESGCM(key)

    def seal_retry(
        self, host: str, port: int, original_dcid: bytes, retry_scid: bytes, now: float, nonce: bytes
    ) -> bytes:
        """Token for a Retry packet with the source ID `retry_scid`, for a client at `host` and `port`."""
        bound = _address(host) + _PORT.pack(port) + retry_scid
        return self._seal(TokenKind.RETRY, original_dcid, bound, now, nonce)

    def open_retry(
        self, token: bytes, host: str, port: int, retry_scid: bytes, now: float, lifetime: float
    ) -> bytes | None:
        """The original destination ID; None unless issued to this address at most `lifetime` seconds ago.

        `retry_scid` is the destination ID of the Initial that brings the token (§17.2.5.2).
        """
        bound = _address(host) + _PORT.pack(port) + retry_scid
        return self._open(TokenKind.RETRY, token, bound, now, lifetime)

    def seal_new_token(self, host: str, version: int, now: float, nonce: bytes) -> bytes:
        """Token for a NEW_TOKEN frame. The port is left open: the next connection has another (§8.1.3). It counts for
        one version of QUIC (RFC 9369 §5)."""
        return self._seal(TokenKind.NEW_TOKEN, b"", _VERSION.pack(version) + _address(host), now, nonce)

    def open_new_token(self, token: bytes, host: str, version: int, now: float, lifetime: float) -> bool:
        """Whether the token was issued to this host at most `lifetime` seconds ago."""
        bound = _VERSION.pack(version) + _address(host)
        return self._open(TokenKind.NEW_TOKEN, token, bound, now, lifetime) is not None

    def _seal(self, kind: TokenKind, content: bytes, bound: bytes, now: float, nonce: bytes) -> bytes:
        head = bytes((kind,))
        plain = _ISSUED.pack(int(now * 1e6)) + content
        return head + nonce + self._aead.encrypt(nonce, plain, head + bound)

    def _open(self, kind: TokenKind, token: bytes, bound: bytes, now: float, lifetime: float) -> bytes | None:
        if token_kind(token) is not kind:
            return None
        sealed = 1 + NONCE_LENGTH
        try:
            plain = self._aead.decrypt(token[1:sealed], token[sealed:], token[:1] + bound)
        except InvalidTag:
            return None
        issued: int = _ISSUED.unpack_from(plain)[0]
        if not 0 <= int(now * 1e6) - issued <= lifetime * 1e6:
            return None
        return plain[_ISSUED.size :]


class UsedTokens:
    """Each NEW_TOKEN counts once (RFC 9000 §8.1.4). At most `limit` are remembered, for `lifetime` seconds; as long as
    there is no room, further ones count as none."""

    def __init__(self, limit: int, lifetime: float) -> None:
        self._limit = limit
        self._lifetime = lifetime
        self._used: dict[bytes, float] = {}  # nonce, and when the token expires; in the order of use

    def use(self, token: bytes, now: float) -> bool:
        """`token` was opened; True if this is the first time."""
        for nonce in list(self._used):
            if self._used[nonce] > now:
                break
            del self._used[nonce]
        nonce = token[1 : 1 + NONCE_LENGTH]
        if nonce in self._used or len(self._used) >= self._limit:
            return False
        self._used[nonce] = now + self._lifetime
        return True


def _address(host: str) -> bytes:
    """The address itself: a dual-stack socket names an IPv4 client ::ffff:192.0.2.1."""
    address = ip_address(host.partition("%")[0])
    if isinstance(address, IPv6Address) and address.ipv4_mapped:
        address = address.ipv4_mapped
    return address.packed
