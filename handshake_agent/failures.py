"""How a handshake fails: an errno for the consumer, an alert for the peer, and words for a person."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, Final

from quicfs.transport.uapi import CRYPTO_ERROR, PHRASE_MAX_LEN, ConnectionClose

if TYPE_CHECKING:
    from quicfs.handshake_agent.gnutls_library import GnutlsError


class AgentError(Exception):
    """The agent cannot start. Its text is one sentence with the remedy."""


class TlsUnavailable(AgentError):
    """There is no usable GnuTLS."""


# RFC 8446 §6
ALERT_UNEXPECTED_MESSAGE: Final = 10
ALERT_HANDSHAKE_FAILURE: Final = 40
ALERT_BAD_CERTIFICATE: Final = 42
ALERT_UNSUPPORTED_CERTIFICATE: Final = 43
ALERT_CERTIFICATE_REVOKED: Final = 44
ALERT_CERTIFICATE_EXPIRED: Final = 45
ALERT_UNKNOWN_CA: Final = 48
ALERT_PROTOCOL_VERSION: Final = 70
ALERT_INTERNAL_ERROR: Final = 80
ALERT_MISSING_EXTENSION: Final = 109
ALERT_CERTIFICATE_REQUIRED: Final = 116
ALERT_NO_APPLICATION_PROTOCOL: Final = 120


class Failure(Exception):
    """A handshake ended badly. `phrase` goes to the peer as well, so it tells nothing of this machine."""

    def __init__(self, code: int, alert: int, phrase: str) -> None:
        super().__init__(phrase)
        self.errno = code
        self.alert = alert
        self.phrase = phrase

    def connection_close(self) -> ConnectionClose:
        """RFC 9001 §4.8: an alert becomes a connection error of type CRYPTO_ERROR + alert."""
        phrase = self.phrase.encode()[:PHRASE_MAX_LEN].decode(errors="ignore").encode()
        return ConnectionClose(CRYPTO_ERROR + self.alert, 0x06, phrase)


# GNUTLS_CERT_* bit, errno, alert, phrase about "{}"; the first bit that is set decides.
_VERIFY_STATUS: Final = (
    (1 << 6, errno.EACCES, ALERT_UNKNOWN_CA, "certificate of {} is not signed by a trusted CA"),
    (1 << 7, errno.EACCES, ALERT_UNKNOWN_CA, "certificate of {} is signed by one that is no CA"),
    (1 << 11, errno.EKEYREJECTED, ALERT_BAD_CERTIFICATE, "certificate of {} has a wrong signature"),
    (1 << 5, errno.EKEYREVOKED, ALERT_CERTIFICATE_REVOKED, "certificate of {} was revoked"),
    (1 << 10, errno.EKEYEXPIRED, ALERT_CERTIFICATE_EXPIRED, "certificate of {} has expired"),
    (1 << 9, errno.EKEYREJECTED, ALERT_BAD_CERTIFICATE, "certificate of {} is not valid yet"),
    (1 << 14, errno.EACCES, ALERT_BAD_CERTIFICATE, "certificate is not for the name {}"),
    (1 << 18, errno.EKEYREJECTED, ALERT_UNSUPPORTED_CERTIFICATE, "certificate of {} is for another purpose"),
    (1 << 8, errno.EKEYREJECTED, ALERT_BAD_CERTIFICATE, "certificate of {} uses a weak algorithm"),
    (0, errno.EACCES, ALERT_BAD_CERTIFICATE, "certificate of {} was refused"),
)

# gnutls.h
E_UNSUPPORTED_VERSION_PACKET: Final = -8
E_INSUFFICIENT_CREDENTIALS: Final = -32
E_NO_CERTIFICATE_FOUND: Final = -49
E_NO_CIPHER_SUITES: Final = -87
E_CERTIFICATE_REQUIRED: Final = -112
E_NO_APPLICATION_PROTOCOL: Final = -344
E_CERTIFICATE_VERIFICATION_ERROR: Final = -348
E_NO_COMMON_KEY_SHARE: Final = -423

# Error of GnuTLS, errno, alert (None: GnuTLS's own choice), phrase
_ERRORS: Final[dict[int, tuple[int, int | None, str]]] = {
    E_NO_APPLICATION_PROTOCOL: (
        errno.EPROTONOSUPPORT,
        ALERT_NO_APPLICATION_PROTOCOL,
        "no application protocol (ALPN) in common",
    ),
    E_NO_CERTIFICATE_FOUND: (errno.EACCES, ALERT_CERTIFICATE_REQUIRED, "the client sent no certificate"),
    E_CERTIFICATE_REQUIRED: (errno.EACCES, ALERT_CERTIFICATE_REQUIRED, "the client sent no certificate"),
    E_INSUFFICIENT_CREDENTIALS: (errno.ENOENT, ALERT_INTERNAL_ERROR, "no certificate is configured"),
    E_NO_CIPHER_SUITES: (errno.EPROTO, ALERT_HANDSHAKE_FAILURE, "no cipher suite in common"),
    E_NO_COMMON_KEY_SHARE: (errno.EPROTO, ALERT_HANDSHAKE_FAILURE, "no key exchange group in common"),
    E_UNSUPPORTED_VERSION_PACKET: (errno.EPROTO, ALERT_PROTOCOL_VERSION, "the peer does not speak TLS 1.3"),
}


def _about(phrase: str, peer: str) -> str:
    full = phrase.format(peer)
    return full if len(full.encode()) <= PHRASE_MAX_LEN else phrase.format("the peer")


def from_gnutls(error: GnutlsError, peer: str, sent_alert: int | None) -> Failure:
    """What an error of GnuTLS means; `peer` is the other end's name for a person."""
    if error.code == E_CERTIFICATE_VERIFICATION_ERROR:
        for bit, code, alert, phrase in _VERIFY_STATUS:
            if error.verify_status & bit or not bit:
                return Failure(code, alert, _about(phrase, peer))
    code, chosen, phrase = _ERRORS.get(error.code, (errno.EPROTO, None, str(error)))
    if chosen is None:
        chosen = sent_alert if sent_alert is not None else error.alert
    return Failure(code, chosen if chosen > 0 else ALERT_INTERNAL_ERROR, phrase)


def missing_parameters() -> Failure:
    # RFC 9001 §8.2: no quic_transport_parameters -> missing_extension
    return Failure(errno.EPROTO, ALERT_MISSING_EXTENSION, "the peer sent no QUIC transport parameters")


def no_application_protocol() -> Failure:
    # RFC 9001 §8.1: no ALPN -> no_application_protocol
    code, alert, phrase = _ERRORS[E_NO_APPLICATION_PROTOCOL]
    assert alert is not None
    return Failure(code, alert, phrase)


def wrong_level() -> Failure:
    # RFC 9001 §4.1.3: CRYPTO data that goes on at a level that is behind us
    return Failure(errno.EPROTO, ALERT_UNEXPECTED_MESSAGE, "TLS messages at the wrong encryption level")


def no_certificate() -> Failure:
    code, alert, phrase = _ERRORS[E_INSUFFICIENT_CREDENTIALS]
    assert alert is not None
    return Failure(code, alert, phrase)


def no_truststore() -> Failure:
    return Failure(errno.ENOENT, ALERT_INTERNAL_ERROR, "no truststore for client certificates is configured")


def unusable_files() -> Failure:
    return Failure(errno.ENOENT, ALERT_INTERNAL_ERROR, "the agent cannot read its certificates")


def invalid_request(phrase: str) -> Failure:
    return Failure(errno.EINVAL, ALERT_INTERNAL_ERROR, phrase)


def unsupported(phrase: str) -> Failure:
    return Failure(errno.EOPNOTSUPP, ALERT_INTERNAL_ERROR, phrase)
