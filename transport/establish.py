"""Establishing a connection: keys and transport parameters as TLS delivers them, Retry, and the two moments at which a
handshake is complete and confirmed (RFC 9001 §4.1).
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from quicfs.transport import early_data, limits, transport_param, versions
from quicfs.transport.ack_frequency import own_min_ack_delay_us
from quicfs.transport.crypto import initial_keys
from quicfs.transport.errors import ProtocolViolation, TransportErrorCode
from quicfs.transport.frame_type import FrameType
from quicfs.transport.pnspace import PacketNumberSpace
from quicfs.transport.state import State
from quicfs.transport.timer import Timer
from quicfs.transport.transport_param import TransportParameters

if TYPE_CHECKING:
    from quicfs.transport.conn import Connection


def own_parameters(
    conn: Connection, parameters: TransportParameters, local_cid: tuple[bytes, bytes]
) -> TransportParameters:
    own = replace(parameters, initial_source_connection_id=local_cid[0])
    if conn.config.ack_frequency:
        own.min_ack_delay_us = own_min_ack_delay_us(own.max_ack_delay_ms)
    own.version_information = versions.own_information(conn)
    if conn.is_server:
        own.original_destination_connection_id = conn.original_dcid
        own.retry_source_connection_id = conn.retry_scid
        own.stateless_reset_token = local_cid[1]
        config = conn.config
        if config.preferred_ipv4 or config.preferred_ipv6:
            issued = conn.issue_cid()  # §5.1.1: its sequence number is 1
            conn.local_cids.on_sent(issued.sequence)
            own.preferred_address = transport_param.PreferredAddress(
                config.preferred_ipv4, config.preferred_ipv6, issued.cid, issued.reset_token
            )
    return own


def install_initial_keys(conn: Connection, dcid: bytes) -> None:
    keys = initial_keys(conn.version, dcid, is_server=conn.is_server)
    conn.initial.keys_in, conn.initial.keys_out = keys


def set_peer_parameters(conn: Connection, data: bytes) -> None:
    """The peer's transport parameters as TLS delivered them; raises ProtocolViolation."""
    peer = transport_param.decode(data, from_server=not conn.is_server)
    # RFC 9000 §7.3: connection IDs of the handshake -> TRANSPORT_PARAMETER_ERROR
    expected: list[tuple[str, bytes | None, bytes | None]] = [
        ("initial_source_connection_id", peer.initial_source_connection_id, conn.peer_cids.first)
    ]
    if not conn.is_server:
        expected += [
            (
                "original_destination_connection_id",
                peer.original_destination_connection_id,
                conn.original_dcid,
            ),
            ("retry_source_connection_id", peer.retry_source_connection_id, conn.retry_scid),
        ]
    for name, value, wanted in expected:
        if value != wanted:
            raise ProtocolViolation(TransportErrorCode.TRANSPORT_PARAMETER_ERROR, f"{name} does not match")
    versions.check(conn, peer)
    early_data.settle(conn, peer)
    conn.peer = peer
    conn.grease.allowed = peer.grease_quic_bit
    conn.streams.apply_peer_parameters(peer)
    conn.recovery.max_ack_delay = peer.max_ack_delay_ms / 1000
    conn.ack_frequency.supported = conn.config.ack_frequency and peer.min_ack_delay_us is not None
    conn.datagrams.limit = peer.max_datagram_frame_size
    conn.path.pmtud.set_bound(peer.max_udp_payload_size)
    if peer.preferred_address is not None:
        conn.peer_cids.add_preferred(
            peer.preferred_address.connection_id, peer.preferred_address.stateless_reset_token
        )
    if peer.stateless_reset_token:
        conn.peer_cids.set_reset_token(peer.stateless_reset_token)
    if peer.max_idle_timeout_ms:
        theirs = peer.max_idle_timeout_ms / 1000
        conn.idle_timeout = min(conn.idle_timeout, theirs) if conn.idle_timeout else theirs


def send_crypto(conn: Connection, level: int, data: bytes) -> None:
    """TLS messages at a level. Those after the handshake are rare and short: they leave as control frames, piece by
    piece, so that packets full of stream data need not look for them."""
    space = conn.space_of(level)
    if space.discarded:
        return
    start = space.crypto_out.end
    space.crypto_out.write(data)
    if space is conn.application:
        stop = space.crypto_out.end
        for at in range(start, stop, limits.CRYPTO_PIECE):
            conn.queue_control(FrameType.CRYPTO, (at, min(at + limits.CRYPTO_PIECE, stop)))


def handshake_complete(conn: Connection, now: float) -> None:
    """TLS is done on our side."""
    if conn.state is not State.HANDSHAKE:
        return
    if conn.peer is None or conn.application.keys_in is None or conn.application.keys_out is None:
        conn.close(now, TransportErrorCode.INTERNAL_ERROR, "handshake ended without secrets or parameters")
        return
    conn.move(State.CONNECTED)
    conn.established_at = now
    conn.timers.set(Timer.HANDSHAKE, None)
    early_data.on_handshake_complete(conn, now)
    conn.touch(now)
    conn.offer_cids()
    if conn.is_server:
        conn.queue_control(FrameType.HANDSHAKE_DONE, None)
        confirm_handshake(conn, now)  # RFC 9001 §4.1.2


def confirm_handshake(conn: Connection, now: float) -> None:
    if conn.recovery.handshake_confirmed:
        return
    conn.recovery.handshake_confirmed = True
    conn.recovery.peer_validated = True
    conn.path.validated = True
    if not conn.is_server and conn.peer is not None:
        conn.invitation = conn.peer.preferred_address
    for space in (conn.initial, conn.handshake):  # RFC 9001 §4.9
        discard_space(conn, space)


def discard_space(conn: Connection, space: PacketNumberSpace) -> None:
    if not space.discarded:
        space.discard()
        conn.recovery.discard(space)
        if space is conn.initial:
            conn.versions.initial_keys_in.clear()
