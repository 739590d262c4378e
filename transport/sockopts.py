"""Socket options, one row each way: what reading and setting them means (draft-lxin-quic-socket-apis §6).

A getter gets the structure that says what is asked for, empty where nothing has to be said.
"""

from __future__ import annotations

import errno
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from quicfs.transport import limits, param_option, rotation, sockaddr, uapi
from quicfs.transport.crypto import CipherSuite
from quicfs.transport.messages import check_flags
from quicfs.transport.state import State
from quicfs.transport.streams import BIDI, UNI
from quicfs.transport.uapi import SockOpt, StreamFlags, TlsCipher

if TYPE_CHECKING:
    from quicfs.transport.socket import QuicSocket

CIPHER_SUITES: Final[dict[int, CipherSuite]] = {
    TlsCipher.AES_GCM_128: CipherSuite.AES_128_GCM,
    TlsCipher.AES_GCM_256: CipherSuite.AES_256_GCM,
    TlsCipher.CHACHA20_POLY1305: CipherSuite.CHACHA20_POLY1305,
}


def _get_alpn(sock: QuicSocket, value: bytes) -> bytes:
    """What is offered or asked for; after the handshake, what was chosen."""
    return b",".join(sock.alpn)


def _set_alpn(sock: QuicSocket, value: bytes) -> None:
    names = tuple(name.strip() for name in value.rstrip(b"\0").split(b",") if name.strip())
    if not names or len(value) > uapi.ALPN_MAX_LEN:
        raise ValueError("ALPN is a comma separated list of at most 128 bytes")
    if sock.listening or (sock.connected and sock.connection.state is not State.HANDSHAKE):
        raise OSError(errno.EISCONN, "ALPN is set before connect or listen")
    sock.alpn = names
    if sock.connected:  # the agent says which one TLS has chosen
        sock.connection.alpn = names[0]


def _get_config(sock: QuicSocket, value: bytes) -> bytes:
    return replace(sock.options, stream_data_nodelay=1).pack()


_CHOICES: Final[dict[str, tuple[int, ...]]] = {
    "payload_cipher_type": (0, *CIPHER_SUITES),
    "congestion_control_algo": tuple(uapi.CongestionAlgo),
    "validate_peer_address": (0, 1),
    # What is written leaves at once, as with Linux's 1: nothing is held back until a packet is full (Nagle), since
    # what is written in one turn of the event loop shares packets already.
    "stream_data_nodelay": (0, 1),
    "certificate_request": tuple(uapi.CertificateRequest),
    "no_session_ticket": (0, 1),
}
_FOR_THE_AGENT: Final = (
    "payload_cipher_type",
    "certificate_request",
    "receive_session_ticket",
    "no_session_ticket",
)


def _set_config(sock: QuicSocket, value: bytes) -> None:
    """Before connect or listen; what the agent looks at also on an accepted socket, before its handshake."""
    options = uapi.Config.unpack(value)
    if options.version not in (0, *sock.config.versions):
        raise ValueError(f"QUIC version {options.version:#x} is not spoken")
    for name, choices in _CHOICES.items():
        if getattr(options, name) not in choices:
            raise ValueError(f"{name} is one of {', '.join(map(str, map(int, choices)))}")
    interval = options.plpmtud_probe_interval
    if interval and interval < limits.MIN_MTU_RAISE_INTERVAL * 1e6:
        raise ValueError(f"plpmtud_probe_interval is at least {limits.MIN_MTU_RAISE_INTERVAL:.0f} s")
    if sock.listening or sock.connected:
        same = {name: getattr(options, name) for name in _FOR_THE_AGENT}
        if sock.listening or sock.handshaking or replace(sock.options, **same) != options:
            raise OSError(errno.EISCONN, "CONFIG is set before connect or listen")
    sock.options = options


def _get_parameters(sock: QuicSocket, value: bytes) -> bytes:
    return sock.connection.local_parameters()


def _set_parameters(sock: QuicSocket, value: bytes) -> None:
    sock.connection.set_peer_parameters(value)


def _get_token(sock: QuicSocket, value: bytes) -> bytes:
    return sock.connection.new_token


def _set_token(sock: QuicSocket, value: bytes) -> None:
    if sock.connected:
        raise OSError(errno.EISCONN, "a token is set before connect")
    sock.resume.set_token(value)


def _get_session_ticket(sock: QuicSocket, value: bytes) -> bytes:
    version = sock.connection.version if sock.connected else uapi.QUIC_VERSION_1
    return sock.resume.secret or sock.resume.ticket(version)


def _set_session_ticket(sock: QuicSocket, value: bytes) -> None:
    sock.set_ticket(value)


def _set_secret(sock: QuicSocket, value: bytes) -> None:
    sock.install_secret(uapi.CryptoSecret.unpack(value))


def _get_close(sock: QuicSocket, value: bytes) -> bytes:
    """How the connection ended; while it is open, what was set."""
    closed = sock.connection.closed if sock.connected else None
    if closed is None:
        return (sock.phrase or uapi.ConnectionClose(0)).pack()
    phrase = closed.reason.encode()[: uapi.PHRASE_MAX_LEN]
    return uapi.ConnectionClose(closed.code & 0xFFFFFFFF, closed.frame_type & 0xFF, phrase).pack()


def _set_close(sock: QuicSocket, value: bytes) -> None:
    """What CONNECTION_CLOSE will say when the socket is closed or its handshake fails."""
    sock.phrase = uapi.ConnectionClose.unpack(value)


def _reset(sock: QuicSocket, value: bytes) -> None:
    info = uapi.ErrInfo.unpack(value)
    sock.reset(sock.stream(info.stream_id), info.errcode)


def _stop_sending(sock: QuicSocket, value: bytes) -> None:
    info = uapi.ErrInfo.unpack(value)
    sock.stop_sending(sock.stream(info.stream_id), info.errcode)


def _get_event(sock: QuicSocket, value: bytes) -> bytes:
    """Whether the event of the EventOption given is on."""
    event = _event(uapi.EventOption.unpack(value).type)
    return uapi.EventOption(event, sock.event_mask >> event & 1).pack()


def _set_event(sock: QuicSocket, value: bytes) -> None:
    option = uapi.EventOption.unpack(value)
    sock.subscribe(_event(option.type), on=bool(option.on))


def _event(number: int) -> uapi.Event:
    if number == uapi.Event.NONE:
        raise ValueError("event 0 is none")
    return uapi.Event(number)


def _update_keys(sock: QuicSocket, value: bytes) -> None:
    """The value does not matter, as in Linux; EINVAL while RFC 9001 §6 does not permit an update."""
    sock.update_keys()


def _get_connection_id(sock: QuicSocket, value: bytes) -> bytes:
    """Of the peer's IDs if the ConnectionIdInfo given says so, of ours otherwise."""
    dest = bool(value) and bool(uapi.ConnectionIdInfo.unpack(value).dest)
    return rotation.info(sock.connection, dest=dest).pack()


def _set_connection_id(sock: QuicSocket, value: bytes) -> None:
    sock.rotate_connection_ids(uapi.ConnectionIdInfo.unpack(value))


def _migrate(sock: QuicSocket, value: bytes) -> None:
    """A struct sockaddr: where a connected client moves to; the preferred address of a server that will listen."""
    sock.migrate(sockaddr.unpack(value))


def _open_stream(sock: QuicSocket, value: bytes) -> bytes:
    """The StreamInfo of a stream that is opened now: EAGAIN at the limit of streams, which waiting is for `send`."""
    info = uapi.StreamInfo.unpack(value) if value else uapi.StreamInfo(-1)
    check_flags(info.flags, StreamFlags.UNI | StreamFlags.DONTWAIT | StreamFlags.SNDBLOCK)
    unidirectional = bool(info.flags & StreamFlags.UNI)
    following = sock.connection.streams.next_id(UNI if unidirectional else BIDI)
    if info.stream_id not in (-1, following):
        raise ValueError(f"the next stream is {following}")
    stream = sock.open_stream(unidirectional=unidirectional, report=bool(info.flags & StreamFlags.SNDBLOCK))
    return uapi.StreamInfo(stream.stream_id, info.flags).pack()


def _get_binding(sock: QuicSocket, value: bytes) -> bytes:
    return sock.channel_binding


def _set_binding(sock: QuicSocket, value: bytes) -> None:
    sock.channel_binding = value


def _get_certificate(sock: QuicSocket, value: bytes) -> bytes:
    return sock.peer_certificate


def _set_certificate(sock: QuicSocket, value: bytes) -> None:
    sock.peer_certificate = value


GETTERS: Final[dict[SockOpt, Callable[[QuicSocket, bytes], bytes]]] = {
    SockOpt.ALPN: _get_alpn,
    SockOpt.CHANNEL_BINDING: _get_binding,
    SockOpt.CONFIG: _get_config,
    SockOpt.CONNECTION_CLOSE: _get_close,
    SockOpt.CONNECTION_ID: _get_connection_id,
    SockOpt.EVENT: _get_event,
    SockOpt.PEER_CERTIFICATE: _get_certificate,
    SockOpt.SESSION_TICKET: _get_session_ticket,
    SockOpt.STREAM_OPEN: _open_stream,
    SockOpt.TOKEN: _get_token,
    SockOpt.TRANSPORT_PARAM: param_option.read,
    SockOpt.TRANSPORT_PARAM_EXT: _get_parameters,
}

SETTERS: Final[dict[SockOpt, Callable[[QuicSocket, bytes], None]]] = {
    SockOpt.ALPN: _set_alpn,
    SockOpt.CHANNEL_BINDING: _set_binding,
    SockOpt.CONFIG: _set_config,
    SockOpt.CONNECTION_CLOSE: _set_close,
    SockOpt.CONNECTION_ID: _set_connection_id,
    SockOpt.CONNECTION_MIGRATION: _migrate,
    SockOpt.CRYPTO_SECRET: _set_secret,
    SockOpt.EVENT: _set_event,
    SockOpt.KEY_UPDATE: _update_keys,
    SockOpt.PEER_CERTIFICATE: _set_certificate,
    SockOpt.SESSION_TICKET: _set_session_ticket,
    SockOpt.STREAM_RESET: _reset,
    SockOpt.STREAM_STOP_SENDING: _stop_sending,
    SockOpt.TOKEN: _set_token,
    SockOpt.TRANSPORT_PARAM: param_option.write,
    SockOpt.TRANSPORT_PARAM_EXT: _set_parameters,
}
