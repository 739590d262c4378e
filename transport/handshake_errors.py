"""What a failed handshake says to a person: one table from errno (and TLS alert) to reason and remedy."""

from __future__ import annotations

import errno
import os
from typing import Final, NamedTuple

from quicfs.transport.uapi import CRYPTO_ERROR, ConnectionClose, MessageType

__all__ = ["HandshakeError", "handshake_error", "peer_alert_error"]


class HandshakeError(OSError):
    """A handshake failed. `errno` is positive; the text is one sentence with the peer and the remedy."""

    def __init__(self, code: int, sentence: str) -> None:
        super().__init__(code, sentence)

    def __str__(self) -> str:
        return str(self.strerror)


class _Row(NamedTuple):
    """`{}` in a reason is the peer. An agent's own phrase takes the place of the reason."""

    reason: str
    remedy: str = ""  # for the side that connects
    server_remedy: str = ""  # for the side that is connected to


# RFC 8446 §6
_UNKNOWN_CA: Final = 48
_CERTIFICATE_ALERTS: Final = frozenset({42, 43, 44, 45, 46, 48, 49})
_CERTIFICATE_REQUIRED: Final = 116
_NO_APPLICATION_PROTOCOL: Final = 120
_UNRECOGNIZED_NAME: Final = 112

_RENEW = "ask its owner to renew it, and check the clock of this machine"
_CLIENT_CERTIFICATE = "give the agent a client certificate that the server trusts"
_START = "start one with `quicfs agent`"

# By errno, and where that says too little by the alert as well.
_ROWS: Final[dict[tuple[int, int | None], _Row]] = {
    (errno.EACCES, None): _Row(
        "the certificate of {} was refused", "connect by a name that its certificate holds"
    ),
    (errno.EACCES, _UNKNOWN_CA): _Row(
        "the certificate of {} is not signed by a trusted CA",
        "trust its CA with --ca FILE, or x509.truststore in the agent's configuration",
    ),
    (errno.EACCES, _CERTIFICATE_REQUIRED): _Row(
        "{} sent no certificate", "", "it needs a client certificate"
    ),
    (errno.EKEYEXPIRED, None): _Row("the certificate of {} has expired", _RENEW),
    (errno.EKEYREVOKED, None): _Row("the certificate of {} was revoked", "ask its owner for a new one"),
    (errno.EKEYREJECTED, None): _Row("the certificate of {} cannot be used", _RENEW),
    (errno.ENOENT, None): _Row(
        "no certificate is configured",
        "name x509.certificate and x509.private_key in the agent's configuration",
        "name x509.certificate and x509.private_key in the agent's configuration",
    ),
    (errno.ETIMEDOUT, None): _Row(
        "no answer in time", "check the address, that the server runs, and that nothing on the way blocks UDP"
    ),
    (errno.ESRCH, None): _Row("no TLS handshake agent is running", _START, _START),
    (errno.ECONNRESET, None): _Row(
        "the TLS handshake agent stopped in the middle", "try again", "see what the agent logged"
    ),
    (errno.EPROTONOSUPPORT, None): _Row(
        "no application protocol (ALPN) in common", "check that this port serves what you ask for"
    ),
    (errno.EPROTO, None): _Row("the TLS handshake failed", "check that the other end speaks TLS 1.3 on QUIC"),
    (errno.EAGAIN, None): _Row("too many handshakes are under way", "try again later"),
    (errno.ECANCELED, None): _Row("the handshake was broken off"),
    (errno.EINVAL, None): _Row(
        "the handshake asked for makes no sense", "give the host's name or IP address"
    ),
    (errno.EOPNOTSUPP, None): _Row("the agent cannot do this kind of handshake"),
}

# What the peer's alert says about us: errno, reason, remedy for the side that connects.
_OUR_CERTIFICATE: Final = (errno.EKEYREJECTED, "{} refused our certificate", _CLIENT_CERTIFICATE)
_PEER_ALERTS: Final[dict[int, tuple[int, str, str]]] = {
    **dict.fromkeys(_CERTIFICATE_ALERTS, _OUR_CERTIFICATE),
    _CERTIFICATE_REQUIRED: (errno.EACCES, "{} wants a client certificate", _CLIENT_CERTIFICATE),
    _NO_APPLICATION_PROTOCOL: (
        errno.EPROTONOSUPPORT,
        "{} does not serve this protocol on this port",
        "check the address and the port",
    ),
    _UNRECOGNIZED_NAME: (errno.EACCES, "{} does not know itself by this name", "connect by another name"),
}


def handshake_error(
    code: int,
    peername: str,
    message_type: int = MessageType.CLIENTHELLO,
    close: ConnectionClose | None = None,
    *,
    why: str = "",
) -> HandshakeError:
    """The error for the errno `code`. `close` is what the agent said before DONE, `why` what we know better."""
    server = message_type == MessageType.SERVERHELLO
    peer = "the client" if server else peername or "the server"
    alert = close.errcode - CRYPTO_ERROR if close is not None else None
    row = _ROWS.get((code, alert)) or _ROWS.get((code, None)) or _Row(os.strerror(code))
    reason = why or _printable(close.phrase if close is not None else b"") or row.reason.format(peer)
    return HandshakeError(code, _sentence(peer, reason, row.server_remedy if server else row.remedy))


def peer_alert_error(
    close: ConnectionClose, peername: str, message_type: int = MessageType.CLIENTHELLO
) -> HandshakeError:
    """The error when the peer closed during the handshake with CRYPTO_ERROR + alert (RFC 9001 §4.8)."""
    server = message_type == MessageType.SERVERHELLO
    peer = "the client" if server else peername or "the server"
    alert = close.errcode - CRYPTO_ERROR
    code, reason, remedy = _PEER_ALERTS.get(alert, (errno.EPROTO, f"{{}} ended TLS with alert {alert}", ""))
    said = _printable(close.phrase)
    reason = reason.format(peer) + (f' ("{said}")' if said else "")
    return HandshakeError(code, _sentence(peer, reason, "" if server else remedy))


def _sentence(peer: str, reason: str, remedy: str) -> str:
    peer = _printable(peer.encode(errors="replace"))
    text = reason if peer in reason else f"{peer}: {reason}"
    return f"{text}; {remedy}" if remedy else text


def _printable(phrase: bytes) -> str:
    """A phrase may come from a peer: nothing of it must move a terminal's cursor."""
    return "".join(c if c.isprintable() else "?" for c in phrase.decode(errors="replace"))
