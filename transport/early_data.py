"""0-RTT (RFC 9001 §4.6): a client's data beside its ClientHello, under the limits that it remembers of the server.

    client  NONE -> READY -> OFFERED -> ACCEPTED      READY: limits are remembered, streams may be opened
                      |         |
                      +---------+-----> REFUSED       everything goes out again in 1-RTT packets
    server  NONE -> ACCEPTED

TLS says what becomes of it: a secret of level EARLY means that the client may offer or that the server accepts, and a
client is told of the refusal before the server's parameters come. Packets are of the application's number space.
"""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING, Final

from quicfs.transport import delivery
from quicfs.transport.crypto import CipherSuite, Keys
from quicfs.transport.errors import MisuseError, ProtocolViolation, TransportErrorCode
from quicfs.transport.state import State
from quicfs.transport.timer import Timer
from quicfs.transport.transport_param import TransportParameters

if TYPE_CHECKING:
    from quicfs.transport.conn import Connection

# RFC 9000 §7.4.1, RFC 9221 §3: what a server that accepts must not make smaller
_REMEMBERED: Final = (
    "active_connection_id_limit",
    "initial_max_data",
    "initial_max_stream_data_bidi_local",
    "initial_max_stream_data_bidi_remote",
    "initial_max_stream_data_uni",
    "initial_max_streams_bidi",
    "initial_max_streams_uni",
    "max_datagram_frame_size",
)


class EarlyState(enum.Enum):
    NONE = enum.auto()
    READY = enum.auto()
    OFFERED = enum.auto()
    ACCEPTED = enum.auto()
    REFUSED = enum.auto()


class EarlyData:
    """The keys of 0-RTT packets, and what a client remembers."""

    __slots__ = ("keys_in", "keys_out", "remembered", "state")

    def __init__(self) -> None:
        self.state = EarlyState.NONE
        self.keys_out: Keys | None = None
        self.keys_in: Keys | None = None
        self.remembered = TransportParameters()


def prepare(conn: Connection, remembered: TransportParameters) -> None:
    """Client, before its handshake: streams may be opened and written at once, within the limits that the server had.
    Without a secret of TLS nothing of it leaves before the handshake is complete."""
    early = conn.early
    if conn.is_server or early.state is not EarlyState.NONE or conn.peer is not None:
        raise MisuseError("early data are for clients, before the handshake")
    early.state = EarlyState.READY
    early.remembered = remembered
    conn.streams.apply_peer_parameters(remembered)
    conn.datagrams.limit = remembered.max_datagram_frame_size


def install(conn: Connection, suite: CipherSuite, secret: bytes, *, send: bool) -> None:
    """TLS has the secret of the 0-RTT packets."""
    early = conn.early
    if send is conn.is_server:
        raise MisuseError("only clients send early data")
    keys = Keys(suite, secret, conn.versions.original)  # RFC 9369 §4.1
    if conn.is_server:
        early.keys_in = keys
        early.state = EarlyState.ACCEPTED
    elif early.state is EarlyState.READY:
        early.keys_out = keys
        early.state = EarlyState.OFFERED
    else:
        raise MisuseError("early data were not asked for")


def refuse(conn: Connection) -> None:
    """Client: the server does not take the early data."""
    early = conn.early
    if early.state is EarlyState.OFFERED:
        early.state = EarlyState.REFUSED
        early.keys_out = None
        _unsend(conn)


def settle(conn: Connection, peer: TransportParameters) -> None:
    """Client: the server's real parameters are here. Raises ProtocolViolation."""
    early = conn.early
    if early.state is EarlyState.OFFERED:
        for name in _REMEMBERED:
            # RFC 9000 §7.4.1: a smaller limit than the remembered one -> PROTOCOL_VIOLATION
            if getattr(peer, name) < getattr(early.remembered, name):
                raise ProtocolViolation(
                    TransportErrorCode.PROTOCOL_VIOLATION, f"early data accepted with a smaller {name}"
                )
        early.state = EarlyState.ACCEPTED
        conn.streams.raise_limits(peer)
    elif early.state in (EarlyState.READY, EarlyState.REFUSED):
        # What was remembered does not count (RFC 9001 §4.6.2).
        early.state = EarlyState.REFUSED
        for stream in conn.streams.start_again(peer):
            conn.readable[stream] = None
            conn.writable[stream] = None


def send_again(conn: Connection) -> None:
    """After a Retry: the server has seen none of it (RFC 9000 §17.2.5.3)."""
    if conn.early.state is EarlyState.OFFERED:
        _unsend(conn)


def _unsend(conn: Connection) -> None:
    space = conn.application
    for run in space.sent:
        delivery.requeue(conn, space, run)
    conn.recovery.discard(space)


def waits_for_keys(conn: Connection) -> bool:
    """Server: whether a 0-RTT packet without keys may still become readable: TLS has not looked at the ClientHello."""
    return conn.is_server and conn.state is State.HANDSHAKE and conn.handshake.keys_out is None


def on_handshake_complete(conn: Connection, now: float) -> None:
    """RFC 9001 §4.9.3: a client drops its keys at once, a server keeps them for packets that were overtaken."""
    conn.early.keys_out = None
    if conn.early.keys_in is not None:
        conn.timers.set(Timer.EARLY_KEYS, now + 3 * conn.recovery.rtt.pto_base(conn.recovery.max_ack_delay))


def on_keys_timer(conn: Connection, now: float) -> None:
    conn.early.keys_in = None
