"""GnuTLS as a TLS 1.3 engine for QUIC (RFC 9001): the one place that knows the C library.

A `Session` holds no socket: CRYPTO bytes go in with `feed`, `advance` runs the handshake as far as it goes,
and what it wants done lies in `outputs`, in order. Callbacks are made once for the whole process and find
their session by its address; an exception in one of them ends the handshake and comes out of `advance`.
"""

from __future__ import annotations

import ctypes as C
import functools
import hashlib
import ipaddress
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from pathlib import Path
from typing import Any, Final

from quicfs.handshake_agent.failures import (
    E_CERTIFICATE_VERIFICATION_ERROR,
    E_NO_CERTIFICATE_FOUND,
)
from quicfs.handshake_agent.gnutls_library import (
    AlertFunc,
    Datum,
    DbAddFunc,
    ExtRecvFunc,
    ExtSendFunc,
    GnutlsError,
    ReadFunc,
    SecretFunc,
    TypedData,
    VerifyFunc,
    check,
    datum,
    load,
)
from quicfs.transport.uapi import CryptoLevel, TlsCipher

# gnutls.h, flags of gnutls_init
_SERVER, _CLIENT, _NONBLOCK, _NO_TICKETS = 1, 1 << 1, 1 << 3, 1 << 10
_ENABLE_EARLY_DATA, _NO_AUTO_SEND_TICKET, _NO_END_OF_EARLY_DATA = 1 << 20, 1 << 21, 1 << 22
_COMMON_FLAGS: Final = _NONBLOCK | _NO_AUTO_SEND_TICKET | _NO_END_OF_EARLY_DATA
# gnutls_session_get_flags
_TICKET_RECEIVED, _EARLY_DATA_ACCEPTED = 1 << 7, 1 << 10

TICKET_KEY_LENGTH: Final = 64
QUIC_EARLY_DATA: Final = 0xFFFFFFFF
"""max_early_data_size of a ticket that allows 0-RTT; no other value is allowed (RFC 9001 §4.6.1)."""

# Extension 0x39 under TLS, in ClientHello and EncryptedExtensions (RFC 9001 §8.2)
_TRANSPORT_PARAMETERS: Final = 0x39
_EXT_FLAGS: Final = (1 << 7) | (1 << 1) | (1 << 4)
_EXT_PARSE_TLS: Final = 2

_CRD_CERTIFICATE: Final = 1
_X509_FMT_PEM: Final = 1
_NAME_DNS: Final = 1
_ALPN_MANDATORY: Final = 1
_CHANGE_CIPHER_SPEC: Final = 254
_DT_DNS_HOSTNAME, _DT_KEY_PURPOSE_OID, _DT_IP_ADDRESS = 1, 2, 4

E_AGAIN: Final = -28
E_INTERRUPTED: Final = -52
E_INTERNAL_ERROR: Final = -59
E_DB_ENTRY_EXISTS: Final = -428

_BINDING_LABEL: Final = b"EXPORTER-Channel-Binding"
_BINDING_LENGTH: Final = 32

MAX_SESSION: Final = 8192
"""Bytes of a session's data; they hold the server's certificates."""

PURPOSE_SERVER: Final = b"1.3.6.1.5.5.7.3.1"  # RFC 5280 §4.2.1.12
PURPOSE_CLIENT: Final = b"1.3.6.1.5.5.7.3.2"
RPC_ALPN: Final = b"sunrpc"
PURPOSE_RPC_CLIENT: Final = b"1.3.6.1.5.5.7.3.33"  # RFC 9289 §5.2.1: as good as the others, for RPC
PURPOSE_RPC_SERVER: Final = b"1.3.6.1.5.5.7.3.34"


class Level(IntEnum):
    """GnuTLS's numbering of the encryption levels."""

    INITIAL = 0
    EARLY = 1
    HANDSHAKE = 2
    APPLICATION = 3


_TO_CRYPTO_LEVEL: Final = {
    Level.INITIAL: CryptoLevel.INITIAL,
    Level.EARLY: CryptoLevel.EARLY,
    Level.HANDSHAKE: CryptoLevel.HANDSHAKE,
    Level.APPLICATION: CryptoLevel.APP,
}
_FROM_CRYPTO_LEVEL: Final = {ours: theirs for theirs, ours in _TO_CRYPTO_LEVEL.items()}

_CIPHERS: Final = {10: TlsCipher.AES_GCM_128, 11: TlsCipher.AES_GCM_256, 23: TlsCipher.CHACHA20_POLY1305}
_CIPHER_NAMES: Final = {
    TlsCipher.AES_GCM_128: "AES-128-GCM",
    TlsCipher.AES_GCM_256: "AES-256-GCM",
    TlsCipher.CHACHA20_POLY1305: "CHACHA20-POLY1305",
}
_GROUPS: Final = ("X25519", "SECP256R1", "SECP384R1")


@functools.cache
def _priority(cipher: TlsCipher | None) -> C.c_void_p:
    """TLS 1.3 with all suites that QUIC knows, or with one. Kept for the life of the process."""
    ciphers = _CIPHER_NAMES.values() if cipher is None else (_CIPHER_NAMES[cipher],)
    parts = ["NORMAL", "-VERS-ALL", "+VERS-TLS1.3", "-CIPHER-ALL", *(f"+{name}" for name in ciphers)]
    parts += ["-GROUP-ALL", *(f"+GROUP-{name}" for name in _GROUPS), "%DISABLE_TLS13_COMPAT_MODE"]
    priority = C.c_void_p()
    check(load().gnutls_priority_init(C.byref(priority), ":".join(parts).encode(), None))
    return priority


class Credentials:
    """Own certificate and the certificates that are trusted; may be shared by many sessions.

    PEM in `certificate` (leaf first, then its issuers), `private_key` and `truststore`. Without truststore
    the system's is used if `system_trust` says so, else nobody is trusted. Raises OSError or GnutlsError.
    """

    def __init__(
        self,
        *,
        certificate: Path | None = None,
        private_key: Path | None = None,
        truststore: Path | None = None,
        system_trust: bool = False,
    ) -> None:
        self._library = load()
        self.pointer = C.c_void_p()
        check(self._library.gnutls_certificate_allocate_credentials(C.byref(self.pointer)))
        self.has_certificate = certificate is not None and private_key is not None
        digest = hashlib.sha256()
        if certificate is not None and private_key is not None:
            cert, key = certificate.read_bytes(), private_key.read_bytes()
            digest.update(b"certificate" + len(cert).to_bytes(4, "big") + cert)
            check(
                self._library.gnutls_certificate_set_x509_key_mem(
                    self.pointer, C.byref(datum(cert)), C.byref(datum(key)), _X509_FMT_PEM
                )
            )
        if truststore is not None:
            trust = truststore.read_bytes()
            digest.update(b"truststore" + trust)
            count = self._library.gnutls_certificate_set_x509_trust_mem(
                self.pointer, C.byref(datum(trust)), _X509_FMT_PEM
            )
            check(count or E_NO_CERTIFICATE_FOUND)
        elif system_trust:
            check(self._library.gnutls_certificate_set_x509_system_trust(self.pointer))
            digest.update(b"system")
        self.fingerprint = digest.digest()
        """Of the certificate and of what is trusted: the same as long as both are."""

    def __del__(self) -> None:
        if getattr(self, "pointer", None):
            self._library.gnutls_certificate_free_credentials(self.pointer)


class AntiReplay:
    """GnuTLS's protection against replayed 0-RTT (RFC 8446 §8.2), for the life of the process.

    `is_new(key)` remembers a ClientHello for at least `window_s` seconds; False if it is known already, or if
    there is no room to remember it: the early data are refused then, the handshake goes on.
    """

    def __init__(self, is_new: Callable[[bytes], bool], window_s: int) -> None:
        library = load()
        self.pointer = C.c_void_p()
        check(library.gnutls_anti_replay_init(C.byref(self.pointer)))

        def add(_: Any, expires: int, key: Any, entry: Any) -> int:
            try:
                known = not is_new(C.string_at(key[0].data, key[0].size))
            except BaseException:
                return E_INTERNAL_ERROR
            return E_DB_ENTRY_EXISTS if known else 0

        self._add = DbAddFunc(add)  # must outlive the library's use of it
        library.gnutls_anti_replay_set_window(self.pointer, window_s * 1000)
        library.gnutls_anti_replay_set_add_function(self.pointer, self._add)


@dataclass(frozen=True, slots=True)
class Resumption:
    """What a session does about tickets.

    Client: `session` is the data of an earlier session that is to be resumed, `receive` takes a new ticket,
    `anti_replay` is not used. Server: tickets are issued under `ticket_key` (TICKET_KEY_LENGTH bytes), which GnuTLS
    rotates; `anti_replay` is needed for early data. Either: `early_data` offers or accepts 0-RTT.
    """

    session: bytes = field(default=b"", repr=False)
    receive: bool = False
    ticket_key: bytes = field(default=b"", repr=False)
    anti_replay: AntiReplay | None = None
    early_data: bool = False

    @property
    def flags(self) -> int:
        """For gnutls_init."""
        used = self.session or self.receive or self.ticket_key
        return (0 if used else _NO_TICKETS) | (_ENABLE_EARLY_DATA if self.early_data else 0)


@dataclass(frozen=True, slots=True)
class PeerParams:
    """The peer's encoded transport parameters."""

    data: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Secret:
    """One direction's traffic secret of one level."""

    level: CryptoLevel
    send: bool
    cipher: TlsCipher
    secret: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class CryptoData:
    """Handshake bytes to send at a level."""

    level: CryptoLevel
    data: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class EarlyDataRefused:
    """Client: the server does not take the early data that were offered."""


Output = PeerParams | Secret | CryptoData | EarlyDataRefused

_sessions: Final[dict[int, Session]] = {}


def _for_session(method: Callable[..., int | None]) -> Callable[..., int]:
    """A C callback that finds its session and turns an exception into an error code: raising through
    ctypes would print a traceback and report success."""

    def callback(address: int, *args: Any) -> int:
        session = _sessions.get(address)
        if session is None:
            return E_INTERNAL_ERROR
        try:
            return method(session, *args) or 0
        except BaseException as error:
            session.callback_error = error
            return E_INTERNAL_ERROR

    return callback


class Session:
    """One side of one TLS 1.3 handshake.

    `peername`: client only, the DNS name or IP address that the server's certificate must hold.
    `verify`: check the peer's certificate (chain, dates, purpose, and name if there is one).
    `certificate_request`: server only, uapi.CertificateRequest.
    `resumption`: tickets and 0-RTT; none by default.
    """

    def __init__(
        self,
        *,
        server: bool,
        credentials: Credentials,
        transport_params: bytes,
        alpn: Sequence[bytes],
        cipher: TlsCipher | None = None,
        peername: str = "",
        verify: bool = True,
        certificate_request: int = 0,
        resumption: Resumption = Resumption(),
    ) -> None:
        self.server = server
        self.outputs: list[Output] = []
        self.read_level = CryptoLevel.INITIAL
        self.got_params = False
        self.sent_alert: int | None = None
        self.callback_error: BaseException | None = None
        self._library = load()
        self._params = transport_params
        self._verifies = verify
        self._name: tuple[int, bytes] | None = None  # that a server's certificate must hold
        self._verify_status = 0
        self._credentials = credentials  # must outlive the session
        self._early_offered = False
        self._pointer = C.c_void_p()
        check(
            self._library.gnutls_init(
                C.byref(self._pointer), (_SERVER if server else _CLIENT) | _COMMON_FLAGS | resumption.flags
            )
        )
        assert self._pointer.value is not None
        self._address = self._pointer.value
        _sessions[self._address] = self
        try:
            self._configure(alpn, cipher, peername, verify, certificate_request)
            self._prepare(resumption)
        except BaseException:
            self.close()
            raise

    def _configure(
        self,
        alpn: Sequence[bytes],
        cipher: TlsCipher | None,
        peername: str,
        verify: bool,
        certificate_request: int,
    ) -> None:
        library, pointer = self._library, self._pointer
        check(library.gnutls_priority_set(pointer, _priority(cipher)))
        check(library.gnutls_credentials_set(pointer, _CRD_CERTIFICATE, self._credentials.pointer))
        library.gnutls_handshake_set_secret_function(pointer, _on_secret)
        library.gnutls_handshake_set_read_function(pointer, _on_crypto)
        library.gnutls_alert_set_read_function(pointer, _on_alert)
        check(
            library.gnutls_session_ext_register(
                pointer,
                b"QUIC transport parameters",
                _TRANSPORT_PARAMETERS,
                _EXT_PARSE_TLS,
                _on_params,
                _on_send_params,
                None,
                None,
                None,
                _EXT_FLAGS,
            )
        )
        protocols = (Datum * len(alpn))(*map(datum, alpn))
        check(library.gnutls_alpn_set_protocols(pointer, protocols, len(alpn), _ALPN_MANDATORY))
        if self.server:
            library.gnutls_certificate_server_set_request(pointer, certificate_request)
        if verify:
            self._expect(peername)

    def _prepare(self, resumption: Resumption) -> None:
        library, pointer = self._library, self._pointer
        if resumption.ticket_key:
            key = C.byref(datum(resumption.ticket_key))  # copied
            check(library.gnutls_session_ticket_enable_server(pointer, key))
        if resumption.anti_replay is not None and resumption.early_data:
            check(library.gnutls_record_set_max_early_data_size(pointer, QUIC_EARLY_DATA))
            library.gnutls_anti_replay_enable(pointer, resumption.anti_replay.pointer)
        if resumption.session:
            # Data that GnuTLS does not like lead to a full handshake.
            library.gnutls_session_set_data(pointer, resumption.session, len(resumption.session))

    def _expect(self, peername: str) -> None:
        if not self.server:
            address = _ip_address(peername)
            if address is not None:
                self._name = (_DT_IP_ADDRESS, address)
            else:
                name = peername.removesuffix(".").encode()
                check(self._library.gnutls_server_name_set(self._pointer, _NAME_DNS, name, len(name)))
                self._name = (_DT_DNS_HOSTNAME, name)
        self._library.gnutls_session_set_verify_function(self._pointer, _on_verify)

    def feed(self, level: int, data: bytes) -> None:
        """CRYPTO bytes that came in order at `level` (uapi.CryptoLevel). Raises GnutlsError."""
        code = self._library.gnutls_handshake_write(
            self._pointer, _FROM_CRYPTO_LEVEL[CryptoLevel(level)], data, len(data)
        )
        if code < 0 and code != E_AGAIN:
            raise GnutlsError(code)

    def advance(self) -> bool:
        """Run the handshake as far as the bytes allow; True when it is complete. Raises GnutlsError."""
        had_params = self.got_params
        code = self._library.gnutls_handshake(self._pointer)
        if self._early_offered and self.got_params and not had_params and not self.early_data_accepted:
            # EncryptedExtensions did not take it; whoever hears of the parameters must know that first
            at = next(i for i, output in enumerate(self.outputs) if isinstance(output, PeerParams))
            self.outputs.insert(at, EarlyDataRefused())
        if self.callback_error is not None:
            raise self.callback_error
        if code in (E_AGAIN, E_INTERRUPTED):
            return False
        if code < 0:
            raise GnutlsError(code, self._verify_status)
        return True

    @property
    def selected_alpn(self) -> bytes | None:
        protocol = Datum()
        if self._library.gnutls_alpn_get_selected_protocol(self._pointer, C.byref(protocol)) < 0:
            return None
        return C.string_at(protocol.data, protocol.size)

    @property
    def resumed(self) -> bool:
        return bool(self._library.gnutls_session_is_resumed(self._pointer))

    @property
    def early_data_accepted(self) -> bool:
        return bool(self._library.gnutls_session_get_flags(self._pointer) & _EARLY_DATA_ACCEPTED)

    def issue_ticket(self) -> None:
        """Server, handshake complete: a ticket for the client, in `outputs`."""
        check(self._library.gnutls_session_ticket_send(self._pointer, 1, 0))
        if self.callback_error is not None:
            raise self.callback_error

    def take_ticket(self) -> bytes:
        """Client: after `feed` of a NewSessionTicket, the data with which the session can be resumed; empty if there
        was none in it."""
        if not self._library.gnutls_session_get_flags(self._pointer) & _TICKET_RECEIVED:
            return b""
        size = C.c_size_t(MAX_SESSION)
        buffer = C.create_string_buffer(MAX_SESSION)
        check(self._library.gnutls_session_get_data(self._pointer, buffer, C.byref(size)))
        return buffer.raw[: size.value]

    @property
    def max_early_data(self) -> int:
        """Client: what the ticket says about 0-RTT; 0 if it is not allowed."""
        return int(self._library.gnutls_record_get_max_early_data_size(self._pointer))

    def channel_binding(self) -> bytes:
        """Handshake complete: tls-exporter, the same at both ends and for no other connection (RFC 9266 §2)."""
        buffer = C.create_string_buffer(_BINDING_LENGTH)
        check(
            self._library.gnutls_prf_rfc5705(
                self._pointer, len(_BINDING_LABEL), _BINDING_LABEL, 0, b"", _BINDING_LENGTH, buffer
            )
        )
        return buffer.raw

    @property
    def peer_certificate(self) -> bytes:
        """The peer's own certificate (DER) if there is one and it was found to be good; empty otherwise."""
        count = C.c_uint()
        chain = self._library.gnutls_certificate_get_peers(self._pointer, C.byref(count))
        if not self._verifies or not count.value or self._verify_status:
            return b""
        return C.string_at(chain[0].data, chain[0].size)

    def close(self) -> None:
        """Free the session. Twice is allowed; nothing else may be called afterwards."""
        if _sessions.pop(self._address, None) is not None:
            self._library.gnutls_deinit(self._pointer)

    def secret(self, level: int, read: int | None, write: int | None, size: int) -> None:
        ours = _TO_CRYPTO_LEVEL[Level(level)]
        if ours is CryptoLevel.EARLY:
            cipher = _CIPHERS[self._library.gnutls_early_cipher_get(self._pointer)]
            self._early_offered = True
        else:
            cipher = _CIPHERS[self._library.gnutls_cipher_get(self._pointer)]
        if read:
            self.outputs.append(Secret(ours, False, cipher, C.string_at(read, size)))
            if ours is not CryptoLevel.EARLY:  # no TLS messages travel there (RFC 9001 §4.1.4)
                self.read_level = ours
        if write:
            self.outputs.append(Secret(ours, True, cipher, C.string_at(write, size)))

    def crypto(self, level: int, kind: int, data: int, size: int) -> None:
        if kind != _CHANGE_CIPHER_SPEC:  # RFC 9001 §8.4: middlebox compatibility mode is not used
            self.outputs.append(CryptoData(_TO_CRYPTO_LEVEL[Level(level)], C.string_at(data, size)))

    def alert(self, level: int, alert_level: int, description: int) -> None:
        self.sent_alert = description

    def verify_peer(self) -> int:
        count = C.c_uint()
        self._library.gnutls_certificate_get_peers(self._pointer, C.byref(count))
        if self.server and not count.value:
            return 0  # GnuTLS has refused already if one was required
        purposes = [PURPOSE_CLIENT if self.server else PURPOSE_SERVER]
        if self.selected_alpn == RPC_ALPN:
            purposes.append(PURPOSE_RPC_CLIENT if self.server else PURPOSE_RPC_SERVER)
        results = [self._verify_for(purpose) for purpose in purposes]
        self._verify_status = 0 if 0 in results else results[0]
        return E_CERTIFICATE_VERIFICATION_ERROR if self._verify_status else 0

    def _verify_for(self, purpose: bytes) -> int:
        """GNUTLS_CERT_* bits of what is wrong with the peer's certificate: chain, dates, name, purpose."""
        expected = [(_DT_KEY_PURPOSE_OID, purpose)]
        if self._name is not None:
            expected.append(self._name)
        data = (TypedData * len(expected))(*(TypedData(kind, value, len(value)) for kind, value in expected))
        status = C.c_uint()
        check(self._library.gnutls_certificate_verify_peers(self._pointer, data, len(data), C.byref(status)))
        return status.value

    def params(self, data: int, size: int) -> None:
        if not self.got_params:  # a second ClientHello repeats them
            self.got_params = True
            self.outputs.append(PeerParams(C.string_at(data, size)))

    def send_params(self, buffer: int) -> int:
        check(self._library.gnutls_buffer_append_data(buffer, self._params, len(self._params)))
        return len(self._params)


_on_secret: Final = SecretFunc(_for_session(Session.secret))
_on_crypto: Final = ReadFunc(_for_session(Session.crypto))
_on_alert: Final = AlertFunc(_for_session(Session.alert))
_on_verify: Final = VerifyFunc(_for_session(Session.verify_peer))
_on_params: Final = ExtRecvFunc(_for_session(Session.params))
_on_send_params: Final = ExtSendFunc(_for_session(Session.send_params))


def _ip_address(name: str) -> bytes | None:
    """The packed address if `name` is one (a zone after "%" does not count)."""
    try:
        return ipaddress.ip_address(name.strip("[]").partition("%")[0]).packed
    except ValueError:
        return None
