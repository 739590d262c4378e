"""GnuTLS as a TLS 1.3 engine for QUIC (RFC 9001): the one place that knows the C library.

A `Session` holds no socket: CRYPTO bytes go in with `feed`, `advance` runs the handshake as far as it goes,
and what it wants done lies in `outputs`, in order. Callbacks are made once for the whole process and find
their session by its address; an exception in one of them ends the handshake and comes out of `advance`.
"""

from __future__ import annotations

import ctypes as C
import functools
import ipaddress
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from pathlib import Path
from typing import Any, Final

from quicfs.handshake_agent import keylog
from quicfs.handshake_agent.failures import (
    E_CERTIFICATE_VERIFICATION_ERROR,
    E_NO_CERTIFICATE_FOUND,
    TlsUnavailable,
)
from quicfs.transport.uapi import CryptoLevel, TlsCipher

SONAME: Final = "libgnutls.so.30"
MIN_VERSION: Final = b"3.7.2"

# gnutls.h, flags of gnutls_init
_SERVER, _CLIENT, _NONBLOCK, _NO_TICKETS = 1, 1 << 1, 1 << 3, 1 << 10
_NO_AUTO_SEND_TICKET, _NO_END_OF_EARLY_DATA = 1 << 21, 1 << 22
_COMMON_FLAGS: Final = _NONBLOCK | _NO_TICKETS | _NO_AUTO_SEND_TICKET | _NO_END_OF_EARLY_DATA

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

PURPOSE_SERVER: Final = b"1.3.6.1.5.5.7.3.1"  # RFC 5280 §4.2.1.12
PURPOSE_CLIENT: Final = b"1.3.6.1.5.5.7.3.2"


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


class _Datum(C.Structure):
    _fields_ = (("data", C.c_void_p), ("size", C.c_uint))


class _TypedData(C.Structure):
    _fields_ = (("type", C.c_int), ("data", C.c_char_p), ("size", C.c_uint))


_P, _I, _U, _S, _B = C.c_void_p, C.c_int, C.c_uint, C.c_size_t, C.c_char_p
_SecretFunc = C.CFUNCTYPE(_I, _P, _I, _P, _P, _S)
_ReadFunc = C.CFUNCTYPE(_I, _P, _I, _I, _P, _S)
_AlertFunc = C.CFUNCTYPE(_I, _P, _I, _I, _I)
_VerifyFunc = C.CFUNCTYPE(_I, _P)
_ExtRecvFunc = C.CFUNCTYPE(_I, _P, _P, _S)
_ExtSendFunc = C.CFUNCTYPE(_I, _P, _P)

_PROTOTYPES: Final[dict[str, tuple[Any, tuple[Any, ...]]]] = {
    "gnutls_check_version": (_B, (_B,)),
    "gnutls_strerror": (_B, (_I,)),
    "gnutls_error_to_alert": (_I, (_I, _P)),
    "gnutls_priority_init": (_I, (_P, _B, _P)),
    "gnutls_priority_set": (_I, (_P, _P)),
    "gnutls_certificate_allocate_credentials": (_I, (_P,)),
    "gnutls_certificate_free_credentials": (None, (_P,)),
    "gnutls_certificate_set_x509_system_trust": (_I, (_P,)),
    "gnutls_certificate_set_x509_trust_mem": (_I, (_P, _P, _I)),
    "gnutls_certificate_set_x509_key_mem": (_I, (_P, _P, _P, _I)),
    "gnutls_init": (_I, (_P, _U)),
    "gnutls_deinit": (None, (_P,)),
    "gnutls_credentials_set": (_I, (_P, _I, _P)),
    "gnutls_certificate_server_set_request": (None, (_P, _I)),
    "gnutls_session_set_verify_function": (None, (_P, _VerifyFunc)),
    "gnutls_certificate_get_peers": (_P, (_P, _P)),
    "gnutls_certificate_verify_peers": (_I, (_P, _P, _U, _P)),
    "gnutls_server_name_set": (_I, (_P, _I, _B, _S)),
    "gnutls_alpn_set_protocols": (_I, (_P, _P, _U, _U)),
    "gnutls_alpn_get_selected_protocol": (_I, (_P, _P)),
    "gnutls_session_ext_register": (
        _I,
        (_P, _B, _I, _I, _ExtRecvFunc, _ExtSendFunc, _P, _P, _P, _U),
    ),
    "gnutls_buffer_append_data": (_I, (_P, _B, _S)),
    "gnutls_handshake_set_secret_function": (None, (_P, _SecretFunc)),
    "gnutls_handshake_set_read_function": (None, (_P, _ReadFunc)),
    "gnutls_alert_set_read_function": (None, (_P, _AlertFunc)),
    "gnutls_handshake_write": (_I, (_P, _I, _B, _S)),
    "gnutls_handshake": (_I, (_P,)),
    "gnutls_cipher_get": (_I, (_P,)),
}


@functools.cache
def load() -> Any:
    """The library with its prototypes. Raises TlsUnavailable with a sentence that names the package."""
    keylog.prepare()
    try:
        library = C.CDLL(SONAME)
        for name, (restype, argtypes) in _PROTOTYPES.items():
            function = getattr(library, name)
            function.restype, function.argtypes = restype, argtypes
    except (OSError, AttributeError):
        usable = False
    else:
        usable = library.gnutls_check_version(MIN_VERSION) is not None
    if not usable:
        raise TlsUnavailable(
            f"the TLS library {SONAME} ({MIN_VERSION.decode()} or newer) is not there: "
            "install the Debian package libgnutls30"
        )
    return library


class GnutlsError(Exception):
    """A function of GnuTLS failed with `code`; `verify_status` holds its GNUTLS_CERT_* bits, if any."""

    def __init__(self, code: int, verify_status: int = 0) -> None:
        super().__init__(load().gnutls_strerror(code).decode())
        self.code = code
        self.verify_status = verify_status

    @property
    def alert(self) -> int:
        """The TLS alert that GnuTLS has for this error (RFC 8446 §6)."""
        return int(load().gnutls_error_to_alert(self.code, C.byref(C.c_int())))


def _check(code: int) -> int:
    if code < 0:
        raise GnutlsError(code)
    return code


@functools.cache
def _priority(cipher: TlsCipher | None) -> C.c_void_p:
    """TLS 1.3 with all suites that QUIC knows, or with one. Kept for the life of the process."""
    ciphers = _CIPHER_NAMES.values() if cipher is None else (_CIPHER_NAMES[cipher],)
    parts = ["NORMAL", "-VERS-ALL", "+VERS-TLS1.3", "-CIPHER-ALL", *(f"+{name}" for name in ciphers)]
    parts += ["-GROUP-ALL", *(f"+GROUP-{name}" for name in _GROUPS), "%DISABLE_TLS13_COMPAT_MODE"]
    priority = C.c_void_p()
    _check(load().gnutls_priority_init(C.byref(priority), ":".join(parts).encode(), None))
    return priority


def _datum(data: bytes) -> _Datum:
    """Points into `data`, which must live as long as the datum is used."""
    return _Datum(C.cast(C.c_char_p(data), C.c_void_p), len(data))


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
        _check(self._library.gnutls_certificate_allocate_credentials(C.byref(self.pointer)))
        self.has_certificate = certificate is not None and private_key is not None
        if certificate is not None and private_key is not None:
            cert, key = certificate.read_bytes(), private_key.read_bytes()
            _check(
                self._library.gnutls_certificate_set_x509_key_mem(
                    self.pointer, C.byref(_datum(cert)), C.byref(_datum(key)), _X509_FMT_PEM
                )
            )
        if truststore is not None:
            trust = truststore.read_bytes()
            count = self._library.gnutls_certificate_set_x509_trust_mem(
                self.pointer, C.byref(_datum(trust)), _X509_FMT_PEM
            )
            _check(count or E_NO_CERTIFICATE_FOUND)
        elif system_trust:
            _check(self._library.gnutls_certificate_set_x509_system_trust(self.pointer))

    def __del__(self) -> None:
        if getattr(self, "pointer", None):
            self._library.gnutls_certificate_free_credentials(self.pointer)


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


Output = PeerParams | Secret | CryptoData

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
    ) -> None:
        self.server = server
        self.outputs: list[Output] = []
        self.read_level = CryptoLevel.INITIAL
        self.got_params = False
        self.sent_alert: int | None = None
        self.callback_error: BaseException | None = None
        self._library = load()
        self._params = transport_params
        self._verify_status = 0
        self._credentials = credentials  # must outlive the session
        self._pointer = C.c_void_p()
        _check(
            self._library.gnutls_init(
                C.byref(self._pointer), (_SERVER if server else _CLIENT) | _COMMON_FLAGS
            )
        )
        assert self._pointer.value is not None
        self._address = self._pointer.value
        _sessions[self._address] = self
        try:
            self._configure(alpn, cipher, peername, verify, certificate_request)
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
        _check(library.gnutls_priority_set(pointer, _priority(cipher)))
        _check(library.gnutls_credentials_set(pointer, _CRD_CERTIFICATE, self._credentials.pointer))
        library.gnutls_handshake_set_secret_function(pointer, _on_secret)
        library.gnutls_handshake_set_read_function(pointer, _on_crypto)
        library.gnutls_alert_set_read_function(pointer, _on_alert)
        _check(
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
        protocols = (_Datum * len(alpn))(*map(_datum, alpn))
        _check(library.gnutls_alpn_set_protocols(pointer, protocols, len(alpn), _ALPN_MANDATORY))
        if self.server:
            library.gnutls_certificate_server_set_request(pointer, certificate_request)
        if verify:
            self._expect(peername)

    def _expect(self, peername: str) -> None:
        expected = [(_DT_KEY_PURPOSE_OID, PURPOSE_CLIENT if self.server else PURPOSE_SERVER)]
        if not self.server:
            address = _ip_address(peername)
            if address is not None:
                expected.append((_DT_IP_ADDRESS, address))
            else:
                name = peername.removesuffix(".").encode()
                _check(self._library.gnutls_server_name_set(self._pointer, _NAME_DNS, name, len(name)))
                expected.append((_DT_DNS_HOSTNAME, name))
        self._expected = (_TypedData * len(expected))(
            *(_TypedData(kind, value, len(value)) for kind, value in expected)
        )
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
        code = self._library.gnutls_handshake(self._pointer)
        if self.callback_error is not None:
            raise self.callback_error
        if code in (E_AGAIN, E_INTERRUPTED):
            return False
        if code < 0:
            raise GnutlsError(code, self._verify_status)
        return True

    @property
    def selected_alpn(self) -> bytes | None:
        protocol = _Datum()
        if self._library.gnutls_alpn_get_selected_protocol(self._pointer, C.byref(protocol)) < 0:
            return None
        return C.string_at(protocol.data, protocol.size)

    def close(self) -> None:
        """Free the session. Twice is allowed; nothing else may be called afterwards."""
        if _sessions.pop(self._address, None) is not None:
            self._library.gnutls_deinit(self._pointer)

    def secret(self, level: int, read: int | None, write: int | None, size: int) -> None:
        ours = _TO_CRYPTO_LEVEL[Level(level)]
        cipher = _CIPHERS[self._library.gnutls_cipher_get(self._pointer)]
        if read:
            self.outputs.append(Secret(ours, False, cipher, C.string_at(read, size)))
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
        status = C.c_uint()
        _check(
            self._library.gnutls_certificate_verify_peers(
                self._pointer, self._expected, len(self._expected), C.byref(status)
            )
        )
        self._verify_status = status.value
        return E_CERTIFICATE_VERIFICATION_ERROR if status.value else 0

    def params(self, data: int, size: int) -> None:
        if not self.got_params:  # a second ClientHello repeats them
            self.got_params = True
            self.outputs.append(PeerParams(C.string_at(data, size)))

    def send_params(self, buffer: int) -> int:
        _check(self._library.gnutls_buffer_append_data(buffer, self._params, len(self._params)))
        return len(self._params)


_on_secret: Final = _SecretFunc(_for_session(Session.secret))
_on_crypto: Final = _ReadFunc(_for_session(Session.crypto))
_on_alert: Final = _AlertFunc(_for_session(Session.alert))
_on_verify: Final = _VerifyFunc(_for_session(Session.verify_peer))
_on_params: Final = _ExtRecvFunc(_for_session(Session.params))
_on_send_params: Final = _ExtSendFunc(_for_session(Session.send_params))


def _ip_address(name: str) -> bytes | None:
    """The packed address if `name` is one (a zone after "%" does not count)."""
    try:
        return ipaddress.ip_address(name.strip("[]").partition("%")[0]).packed
    except ValueError:
        return None
