"""Socket options, one row each way: what reading and setting them means (draft-lxin-quic-socket-apis §6).

A getter gets the structure that says what is asked for, empty where nothing has to be said.
"""

from __future__ import annotations

import errno
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from quicfs.transport import rotation, sockaddr, uapi
from quicfs.transport.crypto import CipherSuite
from quicfs.transport.transport_param import TransportParameters
from quicfs.transport.uapi import SockOpt, TlsCipher

if TYPE_CHECKING:
    from quicfs.transport.socket import QuicSocket

CIPHER_SUITES: Final[dict[int, CipherSuite]] = {
    TlsCipher.AES_GCM_128: CipherSuite.AES_128_GCM,
    TlsCipher.AES_GCM_256: CipherSuite.AES_256_GCM,
    TlsCipher.CHACHA20_POLY1305: CipherSuite.CHACHA20_POLY1305,
}


def _get_alpn(sock: QuicSocket, value: bytes) -> bytes:
    return b",".join(sock.alpn)


def _set_alpn(sock: QuicSocket, value: bytes) -> None:
    names = tuple(name.strip() for name in value.rstrip(b"\0").split(b",") if name.strip())
    if not names or len(value) > uapi.ALPN_MAX_LEN:
        raise ValueError("ALPN is a comma separated list of at most 128 bytes")
    sock.alpn = names
    if sock.connected:  # the agent says which one TLS has chosen
        sock.connection.alpn = names[0]


def _get_config(sock: QuicSocket, value: bytes) -> bytes:
    return sock.options.pack()


def _set_config(sock: QuicSocket, value: bytes) -> None:
    options = uapi.Config.unpack(value)
    # Better a clear no than an option that does nothing.
    if options.version not in (0, *sock.config.versions):
        raise ValueError(f"QUIC version {options.version:#x} is not spoken")
    if options.plpmtud_probe_interval or options.stream_data_nodelay:
        raise ValueError("probe interval and nodelay cannot be set")
    sock.options = options


def _get_parameters(sock: QuicSocket, value: bytes) -> bytes:
    conn = sock.connection
    return conn.ours.encode(is_server=conn.is_server)


def _set_parameters(sock: QuicSocket, value: bytes) -> None:
    sock.connection.set_peer_parameters(value)


def _get_transport_param(sock: QuicSocket, value: bytes) -> bytes:
    return _pack_parameters(sock.connection.ours if sock.connected else sock.config.parameters)


def _set_transport_param(sock: QuicSocket, value: bytes) -> None:
    """Before connect or listen; a field of 0 leaves what is there."""
    if sock.connected:
        raise OSError(errno.EISCONN, "transport parameters are set before connect or listen")
    given = uapi.TransportParam.unpack(value)
    own = sock.config.parameters
    sock.config = replace(
        sock.config,
        parameters=replace(
            own,
            max_udp_payload_size=given.max_udp_payload_size or own.max_udp_payload_size,
            max_idle_timeout_ms=given.max_idle_timeout // 1000 or own.max_idle_timeout_ms,
            max_ack_delay_ms=given.max_ack_delay // 1000 or own.max_ack_delay_ms,
            ack_delay_exponent=given.ack_delay_exponent or own.ack_delay_exponent,
            initial_max_streams_bidi=given.max_streams_bidi or own.initial_max_streams_bidi,
            initial_max_streams_uni=given.max_streams_uni or own.initial_max_streams_uni,
            initial_max_data=given.max_data or own.initial_max_data,
            initial_max_stream_data_bidi_local=given.max_stream_data_bidi_local
            or own.initial_max_stream_data_bidi_local,
            initial_max_stream_data_bidi_remote=given.max_stream_data_bidi_remote
            or own.initial_max_stream_data_bidi_remote,
            initial_max_stream_data_uni=given.max_stream_data_uni or own.initial_max_stream_data_uni,
        ),
    )


def _pack_parameters(own: TransportParameters) -> bytes:
    return uapi.TransportParam(
        active_connection_id_limit=own.active_connection_id_limit,
        ack_delay_exponent=own.ack_delay_exponent,
        max_udp_payload_size=own.max_udp_payload_size,
        max_idle_timeout=own.max_idle_timeout_ms * 1000,
        max_ack_delay=own.max_ack_delay_ms * 1000,
        max_streams_bidi=own.initial_max_streams_bidi,
        max_streams_uni=own.initial_max_streams_uni,
        max_data=own.initial_max_data,
        max_stream_data_bidi_local=own.initial_max_stream_data_bidi_local,
        max_stream_data_bidi_remote=own.initial_max_stream_data_bidi_remote,
        max_stream_data_uni=own.initial_max_stream_data_uni,
    ).pack()


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
    closed = sock.connection.closed
    if closed is None:
        raise OSError(errno.EINVAL, "the connection is open")
    return uapi.ConnectionClose(closed.code, 0, closed.reason.encode()[: uapi.PHRASE_MAX_LEN]).pack()


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


GETTERS: Final[dict[SockOpt, Callable[[QuicSocket, bytes], bytes]]] = {
    SockOpt.ALPN: _get_alpn,
    SockOpt.CONFIG: _get_config,
    SockOpt.CONNECTION_CLOSE: _get_close,
    SockOpt.CONNECTION_ID: _get_connection_id,
    SockOpt.EVENT: _get_event,
    SockOpt.SESSION_TICKET: _get_session_ticket,
    SockOpt.TOKEN: _get_token,
    SockOpt.TRANSPORT_PARAM: _get_transport_param,
    SockOpt.TRANSPORT_PARAM_EXT: _get_parameters,
}

SETTERS: Final[dict[SockOpt, Callable[[QuicSocket, bytes], None]]] = {
    SockOpt.ALPN: _set_alpn,
    SockOpt.CONFIG: _set_config,
    SockOpt.CONNECTION_CLOSE: _set_close,
    SockOpt.CONNECTION_ID: _set_connection_id,
    SockOpt.CONNECTION_MIGRATION: _migrate,
    SockOpt.CRYPTO_SECRET: _set_secret,
    SockOpt.EVENT: _set_event,
    SockOpt.KEY_UPDATE: _update_keys,
    SockOpt.SESSION_TICKET: _set_session_ticket,
    SockOpt.STREAM_RESET: _reset,
    SockOpt.STREAM_STOP_SENDING: _stop_sending,
    SockOpt.TOKEN: _set_token,
    SockOpt.TRANSPORT_PARAM: _set_transport_param,
    SockOpt.TRANSPORT_PARAM_EXT: _set_parameters,
}
