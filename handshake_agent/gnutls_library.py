"""The C library: where it is, its functions and types, and its errors."""

from __future__ import annotations

import ctypes as C
import functools
from typing import Any, Final

from quicfs.handshake_agent import keylog
from quicfs.handshake_agent.failures import TlsUnavailable

SONAME: Final = "libgnutls.so.30"
MIN_VERSION: Final = b"3.7.2"


class Datum(C.Structure):
    _fields_ = (("data", C.c_void_p), ("size", C.c_uint))


class TypedData(C.Structure):
    _fields_ = (("type", C.c_int), ("data", C.c_char_p), ("size", C.c_uint))


_P, _I, _U, _S, _B = C.c_void_p, C.c_int, C.c_uint, C.c_size_t, C.c_char_p
SecretFunc = C.CFUNCTYPE(_I, _P, _I, _P, _P, _S)
ReadFunc = C.CFUNCTYPE(_I, _P, _I, _I, _P, _S)
AlertFunc = C.CFUNCTYPE(_I, _P, _I, _I, _I)
VerifyFunc = C.CFUNCTYPE(_I, _P)
ExtRecvFunc = C.CFUNCTYPE(_I, _P, _P, _S)
ExtSendFunc = C.CFUNCTYPE(_I, _P, _P)
DbAddFunc = C.CFUNCTYPE(_I, _P, C.c_long, C.POINTER(Datum), C.POINTER(Datum))

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
    "gnutls_session_set_verify_function": (None, (_P, VerifyFunc)),
    "gnutls_certificate_get_peers": (C.POINTER(Datum), (_P, _P)),
    "gnutls_certificate_verify_peers": (_I, (_P, _P, _U, _P)),
    "gnutls_server_name_set": (_I, (_P, _I, _B, _S)),
    "gnutls_alpn_set_protocols": (_I, (_P, _P, _U, _U)),
    "gnutls_alpn_get_selected_protocol": (_I, (_P, _P)),
    "gnutls_session_ext_register": (
        _I,
        (_P, _B, _I, _I, ExtRecvFunc, ExtSendFunc, _P, _P, _P, _U),
    ),
    "gnutls_buffer_append_data": (_I, (_P, _B, _S)),
    "gnutls_handshake_set_secret_function": (None, (_P, SecretFunc)),
    "gnutls_handshake_set_read_function": (None, (_P, ReadFunc)),
    "gnutls_alert_set_read_function": (None, (_P, AlertFunc)),
    "gnutls_handshake_write": (_I, (_P, _I, _B, _S)),
    "gnutls_handshake": (_I, (_P,)),
    "gnutls_cipher_get": (_I, (_P,)),
    "gnutls_early_cipher_get": (_I, (_P,)),
    "gnutls_session_get_flags": (_U, (_P,)),
    "gnutls_session_is_resumed": (_I, (_P,)),
    "gnutls_session_get_data": (_I, (_P, _B, _P)),
    "gnutls_session_set_data": (_I, (_P, _B, _S)),
    "gnutls_session_ticket_enable_server": (_I, (_P, _P)),
    "gnutls_session_ticket_send": (_I, (_P, _U, _U)),
    "gnutls_record_set_max_early_data_size": (_I, (_P, _S)),
    "gnutls_record_get_max_early_data_size": (_S, (_P,)),
    "gnutls_prf_rfc5705": (_I, (_P, _S, _B, _S, _B, _S, _P)),
    "gnutls_anti_replay_init": (_I, (_P,)),
    "gnutls_anti_replay_set_window": (None, (_P, _U)),
    "gnutls_anti_replay_set_add_function": (None, (_P, DbAddFunc)),
    "gnutls_anti_replay_enable": (None, (_P, _P)),
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


def check(code: int) -> int:
    if code < 0:
        raise GnutlsError(code)
    return code


def datum(data: bytes) -> Datum:
    """Points into `data`, which must live as long as the datum is used."""
    return Datum(C.cast(C.c_char_p(data), C.c_void_p), len(data))
