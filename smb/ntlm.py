"""NTLMv2 ([MS-NLMP]), both ends. The structures and key derivations are impacket's.

The two classes take and give whole NTLM messages; SPNEGO is put around them elsewhere. NTLMv1, LM and
sessions without extended security are refused by both.
"""

from __future__ import annotations

import functools
import hashlib
import hmac
import os
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from Cryptodome.Cipher import ARC4
from impacket import ntlm

from quicfs.smb.errors import SmbProtocolError

__all__ = [
    "SIGNATURE",
    "Credentials",
    "NtlmAcceptor",
    "NtlmInitiator",
    "NtlmLogon",
    "NtlmRefused",
    "SecurityContext",
    "TargetNames",
    "machine_id",
]

SIGNATURE: Final = b"NTLMSSP\0"
MAX_MESSAGE: Final = 8192  # bytes; real ones have some hundred
_MIC: Final = slice(72, 88)  # [MS-NLMP] §2.2.1.3: after 64 bytes of fields and 8 of version
_FILETIME_EPOCH_NS: Final = 11644473600 * 10**9
_VERSION: Final = struct.pack("<BBHxxxB", 10, 0, 0, ntlm.VERSION.NTLMSSP_REVISION_W2K3)

_AV_FLAG_MIC: Final = 0x2  # [MS-NLMP] §2.2.2.1 MsvAvFlags
_AV_SINGLE_HOST: Final = 0x08  # Single_Host_Data, which impacket calls RESTRICTIONS
_SINGLE_HOST: Final = struct.Struct("<II8s32s")  # §2.2.2.2

_REQUIRED: Final = ntlm.NTLMSSP_NEGOTIATE_UNICODE | ntlm.NTLMSSP_NEGOTIATE_EXTENDED_SESSIONSECURITY
_OFFERED: Final = (
    _REQUIRED
    | ntlm.NTLMSSP_NEGOTIATE_NTLM
    | ntlm.NTLMSSP_NEGOTIATE_SIGN
    | ntlm.NTLMSSP_NEGOTIATE_SEAL
    | ntlm.NTLMSSP_NEGOTIATE_ALWAYS_SIGN
    | ntlm.NTLMSSP_NEGOTIATE_KEY_EXCH
    | ntlm.NTLMSSP_NEGOTIATE_128
    | ntlm.NTLMSSP_NEGOTIATE_56
    | ntlm.NTLMSSP_NEGOTIATE_VERSION
    | ntlm.NTLMSSP_REQUEST_TARGET
)


class NtlmRefused(Exception):
    """The message is well-formed, and what it asks for is not granted. The text is for our log only."""


def _filetime(now_ns: int) -> bytes:
    return ((now_ns + _FILETIME_EPOCH_NS) // 100).to_bytes(8, "little")


def _hmac_md5(key: bytes, data: bytes) -> bytes:
    return hmac.digest(key, data, "md5")


@functools.cache
def machine_id() -> bytes:
    """32 bytes that name this machine until it restarts, for Single_Host_Data ([MS-NLMP] §2.2.2.2).

    Containers with a network of their own count as machines; without /proc each process does.
    """
    try:
        here = Path("/proc/sys/kernel/random/boot_id").read_bytes()
        network = Path("/proc/self/ns/net").stat()
    except OSError:
        return os.urandom(32)
    return hashlib.sha256(b"%b %d %d" % (here, network.st_dev, network.st_ino)).digest()


@dataclass(frozen=True, slots=True)
class Credentials:
    """Who logs in. No user: anonymous. The password or its NT hash (16 bytes)."""

    user: str = ""
    password: str = field(default="", repr=False)
    domain: str = ""
    nt_hash: bytes | None = field(default=None, repr=False)

    def response_key(self) -> bytes:
        """NTOWFv2, [MS-NLMP] §3.3.2."""
        key: bytes = ntlm.NTOWFv2(self.user, self.password, self.domain, self.nt_hash or "")
        return key


@dataclass(frozen=True, slots=True)
class TargetNames:
    """What a server calls itself in its challenge."""

    computer: str
    domain: str = "WORKGROUP"
    dns_computer: str = ""
    dns_domain: str = ""

    def encode(self, now_ns: int) -> bytes:
        pairs = ntlm.AV_PAIRS()
        pairs[ntlm.NTLMSSP_AV_DOMAINNAME] = self.domain.upper().encode("utf-16le")
        pairs[ntlm.NTLMSSP_AV_HOSTNAME] = self.computer.upper()[:15].encode("utf-16le")
        pairs[ntlm.NTLMSSP_AV_DNS_DOMAINNAME] = self.dns_domain.encode("utf-16le")
        pairs[ntlm.NTLMSSP_AV_DNS_HOSTNAME] = (self.dns_computer or self.computer).encode("utf-16le")
        pairs[ntlm.NTLMSSP_AV_TIME] = _filetime(now_ns)
        return bytes(pairs.getData())


class SecurityContext:
    """Signatures over messages that are not SMB: SPNEGO's list of mechanisms ([MS-NLMP] §3.4.4)."""

    __slots__ = ("_flags", "_key")

    def __init__(self, flags: int, key: bytes) -> None:
        self._flags = flags
        self._key = key

    def _sign(self, data: bytes, side: str) -> bytes:
        flags = self._flags
        seal = ARC4.new(ntlm.SEALKEY(flags, self._key, side)).encrypt
        mac = ntlm.MAC(flags, seal, ntlm.SIGNKEY(flags, self._key, side), 0, data)
        return bytes(mac.getData())

    def sign(self, data: bytes, *, by_client: bool) -> bytes:
        """The first signature (sequence number 0) of that side."""
        return self._sign(data, "Client" if by_client else "Server")

    def verify(self, data: bytes, signature: bytes, *, by_client: bool) -> bool:
        return hmac.compare_digest(self.sign(data, by_client=by_client), signature)


class _Message:
    """The fields of a received NTLM message: sizes and offsets checked, then impacket's structure."""

    def __init__(self, data: bytes, kind: int, structure: type, fixed: int) -> None:
        if not fixed <= len(data) <= MAX_MESSAGE or data[:8] != SIGNATURE:
            raise SmbProtocolError(f"an NTLM message of {len(data)} bytes that is none")
        if int.from_bytes(data[8:12], "little") != kind:
            raise SmbProtocolError("an NTLM message out of order")
        self._data = data
        self._fields: Any = structure()
        try:
            self._fields.fromString(data)
        except Exception as error:  # impacket raises whatever comes up, Exception itself included
            raise SmbProtocolError("a malformed NTLM message") from error

    def number(self, name: str) -> int:
        return int(self._fields[name])

    def payload(self, name: str) -> bytes:
        start, length = self.number(f"{name}_offset"), self.number(f"{name}_len")
        if not length:
            return b""
        if start + length > len(self._data):
            raise SmbProtocolError(f"the {name} of an NTLM message lies outside of it")
        return self._data[start : start + length]

    def text(self, name: str) -> str:
        try:
            return self.payload(name).decode("utf-16le")
        except UnicodeDecodeError:
            raise SmbProtocolError(f"the {name} of an NTLM message is not UTF-16") from None


def _av_pairs(data: bytes) -> dict[int, bytes]:
    """AV_PAIRs by their number ([MS-NLMP] §2.2.2.1)."""
    return dict(_iterate_av_pairs(data))


def _iterate_av_pairs(data: bytes) -> Iterator[tuple[int, bytes]]:
    at = 0
    while at + 4 <= len(data):
        number, length = struct.unpack_from("<HH", data, at)
        at += 4
        if number == ntlm.NTLMSSP_AV_EOL:
            return
        if at + length > len(data):
            break
        yield number, data[at : at + length]
        at += length
    raise SmbProtocolError("the AV_PAIRs of an NTLM message do not end")


def _exported_key(flags: int, base: bytes, encrypted: bytes) -> bytes:
    if not flags & ntlm.NTLMSSP_NEGOTIATE_KEY_EXCH:
        return base
    if len(encrypted) != 16:
        raise SmbProtocolError(f"an NTLM session key of {len(encrypted)} bytes")
    return bytes(ARC4.new(base).decrypt(encrypted))


@dataclass(frozen=True, slots=True)
class NtlmLogon:
    """What an AUTHENTICATE message proved."""

    user: str
    domain: str
    workstation: str
    anonymous: bool
    known: bool  # the user is in our list, and the response was right
    context: SecurityContext | None  # None for users that we do not know
    session_key: bytes
    same_machine: bool  # the client runs on this machine, or says so


class NtlmAcceptor:
    """The server's end of one exchange: `challenge`, then `verify`.

    `entropy` makes random bytes, `now_ns` is the time since the Unix epoch.
    """

    def __init__(self, names: TargetNames, now_ns: int, entropy: Callable[[int], bytes]) -> None:
        self._names = names
        self._now_ns = now_ns
        self._entropy = entropy
        self._negotiate = b""
        self._challenge = b""
        self._nonce = b""
        self._flags = 0

    def challenge(self, negotiate: bytes) -> bytes:
        """NEGOTIATE in, CHALLENGE out ([MS-NLMP] §3.2.5.1.1)."""
        message = _Message(negotiate, 1, ntlm.NTLMAuthNegotiate, 16 if len(negotiate) < 32 else 32)
        wanted = message.number("flags")
        if wanted & _REQUIRED != _REQUIRED:
            raise NtlmRefused("the client does not know Unicode and extended session security")
        self._flags = (wanted & _OFFERED) | ntlm.NTLMSSP_NEGOTIATE_TARGET_INFO | ntlm.NTLMSSP_NEGOTIATE_NTLM
        if wanted & ntlm.NTLMSSP_REQUEST_TARGET:
            self._flags |= ntlm.NTLMSSP_TARGET_TYPE_SERVER
        target = self._names.computer.upper()[:15].encode("utf-16le")
        info = self._names.encode(self._now_ns)
        self._nonce = self._entropy(8)
        answer = ntlm.NTLMAuthChallenge()
        answer["flags"] = self._flags
        answer["challenge"] = self._nonce
        answer["domain_name"] = target
        answer["domain_offset"] = 56
        answer["Version"] = _VERSION if self._flags & ntlm.NTLMSSP_NEGOTIATE_VERSION else bytes(8)
        answer["VersionLen"] = 8
        answer["TargetInfoFields"] = info
        answer["TargetInfoFields_offset"] = 56 + len(target)
        self._negotiate = bytes(negotiate)
        self._challenge = bytes(answer.getData())
        return self._challenge

    def verify(self, authenticate: bytes, find: Callable[[str], bytes | None]) -> NtlmLogon:
        """AUTHENTICATE in ([MS-NLMP] §3.2.5.1.2). `find` gives the NT hash of a user, or None.

        NtlmRefused when the proof is wrong; a user that `find` does not know comes back as not `known`,
        after the same work.
        """
        message = _Message(authenticate, 3, ntlm.NTLMAuthChallengeResponse, 64)
        flags = message.number("flags") & self._flags
        user, domain, host = message.text("user"), message.text("domain"), message.text("host")
        response, lm, encrypted = (
            message.payload("ntlm"),
            message.payload("lanman"),
            message.payload("session_key"),
        )
        if not user and not response and lm in {b"", b"\0"}:
            key = _exported_key(flags, bytes(16), encrypted)
            # Samba's clients have no extended session security then, and sign nothing.
            context = SecurityContext(flags, key) if flags & _REQUIRED == _REQUIRED else None
            return NtlmLogon("", domain, host, True, False, context, key, False)
        if flags & _REQUIRED != _REQUIRED:
            raise NtlmRefused("the client took Unicode or extended session security back")
        if len(response) < 16 + 28 or response[16:18] != b"\x01\x01":
            # §3.3.2: shorter ones are LM or NTLMv1, which can be broken
            raise NtlmRefused(f"user {user!r} answered with NTLMv1 or LM")
        known = find(user)
        secret = known if known is not None else self._entropy(16)
        response_key = ntlm.NTOWFv2(user, "", domain, secret)
        proof = _hmac_md5(response_key, self._nonce + response[16:])
        right = hmac.compare_digest(proof, response[:16])
        key = _exported_key(flags, _hmac_md5(response_key, proof), encrypted)
        pairs = _av_pairs(response[16 + 28 :])
        right &= self._mic_is_right(authenticate, pairs, key)
        same = self._is_same_machine(pairs)
        if known is None:
            return NtlmLogon(user, domain, host, False, False, None, bytes(16), same)
        if not right:
            raise NtlmRefused(f"wrong password for user {user!r}")
        return NtlmLogon(user, domain, host, False, True, SecurityContext(flags, key), key, same)

    def _mic_is_right(self, authenticate: bytes, pairs: dict[int, bytes], key: bytes) -> bool:
        """The MIC binds the three messages to each other; the flag for it is covered by the proof."""
        av_flags = int.from_bytes(pairs.get(ntlm.NTLMSSP_AV_FLAGS, b""), "little")
        if not av_flags & _AV_FLAG_MIC:
            return True
        blank = bytearray(authenticate)
        blank[_MIC] = bytes(16)
        wanted = _hmac_md5(key, b"".join((self._negotiate, self._challenge, blank)))
        return hmac.compare_digest(wanted, authenticate[_MIC])

    def _is_same_machine(self, pairs: dict[int, bytes]) -> bool:
        host = pairs.get(_AV_SINGLE_HOST, b"")
        return len(host) >= _SINGLE_HOST.size and _SINGLE_HOST.unpack_from(host)[3] == machine_id()


class NtlmInitiator:
    """The client's end of one exchange: `negotiate`, then `authenticate`.

    `target` is the host that the user asked for; it goes into the proof as `cifs/target`, so that a
    server elsewhere cannot pass the proof on unnoticed.
    """

    def __init__(
        self, credentials: Credentials, target: str, now_ns: int, entropy: Callable[[int], bytes]
    ) -> None:
        self._credentials = credentials
        self._target = target
        self._now_ns = now_ns
        self._entropy = entropy
        self._negotiate = b""
        self.session_key = bytes(16)
        """The exported session key, 16 bytes. Right after `authenticate`."""
        self.context: SecurityContext | None = None

    def negotiate(self) -> bytes:
        message = ntlm.NTLMAuthNegotiate()
        message["flags"] = _OFFERED | ntlm.NTLMSSP_NEGOTIATE_TARGET_INFO
        message["os_version"] = _VERSION
        self._negotiate = bytes(message.getData())
        return self._negotiate

    def authenticate(self, challenge: bytes) -> bytes:
        """CHALLENGE in, AUTHENTICATE out ([MS-NLMP] §3.1.5.1.2)."""
        message = _Message(challenge, 2, ntlm.NTLMAuthChallenge, 48)
        flags = message.number("flags") & (_OFFERED | ntlm.NTLMSSP_NEGOTIATE_TARGET_INFO)
        if flags & _REQUIRED != _REQUIRED or not flags & ntlm.NTLMSSP_NEGOTIATE_TARGET_INFO:
            raise NtlmRefused("the server offers only the old NTLM, which can be broken")
        flags |= ntlm.NTLMSSP_NEGOTIATE_VERSION  # room for version and MIC is always there
        nonce = bytes(challenge[24:32])
        info = _av_pairs(message.payload("TargetInfoFields"))
        anonymous = not self._credentials.user
        if anonymous:
            response, lm, base = b"", b"\0", bytes(16)
            flags |= ntlm.NTLMSSP_NEGOTIATE_ANONYMOUS
        else:
            response, lm, base = self._respond(nonce, info)
        encrypted = b""
        self.session_key = base
        if flags & ntlm.NTLMSSP_NEGOTIATE_KEY_EXCH:
            self.session_key = self._entropy(16)
            encrypted = bytes(ARC4.new(base).encrypt(self.session_key))
        self.context = SecurityContext(flags, self.session_key)
        answer = bytearray(self._encode(flags, response, lm, encrypted))
        if not anonymous:
            answer[_MIC] = _hmac_md5(self.session_key, b"".join((self._negotiate, challenge, answer)))
        return bytes(answer)

    def _respond(self, nonce: bytes, info: dict[int, bytes]) -> tuple[bytes, bytes, bytes]:
        """NTLMv2 response, LM response and session base key, [MS-NLMP] §3.3.2."""
        stamp = info.get(ntlm.NTLMSSP_AV_TIME, _filetime(self._now_ns))
        if len(stamp) != 8:
            raise SmbProtocolError(f"a time stamp of {len(stamp)} bytes in an NTLM challenge")
        pairs = ntlm.AV_PAIRS()
        for number, value in info.items():
            pairs[number] = value
        old = int.from_bytes(info.get(ntlm.NTLMSSP_AV_FLAGS, b""), "little")
        pairs[ntlm.NTLMSSP_AV_FLAGS] = struct.pack("<I", (old | _AV_FLAG_MIC) & 0xFFFFFFFF)
        pairs[_AV_SINGLE_HOST] = _SINGLE_HOST.pack(_SINGLE_HOST.size, 0, bytes(8), machine_id())
        pairs[ntlm.NTLMSSP_AV_CHANNEL_BINDINGS] = bytes(16)  # §3.1.5.1.2: zeros without a binding
        pairs[ntlm.NTLMSSP_AV_TARGET_NAME] = f"cifs/{self._target}".encode("utf-16le")
        temp = b"".join((b"\x01\x01", bytes(6), stamp, self._entropy(8), bytes(4), pairs.getData(), bytes(4)))
        key = self._credentials.response_key()
        proof = _hmac_md5(key, nonce + temp)
        return proof + temp, bytes(24), _hmac_md5(key, proof)

    def _encode(self, flags: int, response: bytes, lm: bytes, encrypted: bytes) -> bytes:
        message = ntlm.NTLMAuthChallengeResponse()
        message["flags"] = flags
        message["user_name"] = self._credentials.user.encode("utf-16le")
        message["domain_name"] = self._credentials.domain.encode("utf-16le")
        message["host_name"] = b""
        message["lanman"] = lm
        message["ntlm"] = response
        message["session_key"] = encrypted
        message["Version"] = _VERSION
        message["VersionLen"] = 8
        message["MIC"] = bytes(16)
        message["MICLen"] = 16
        return bytes(message.getData())
