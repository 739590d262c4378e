"""Which version of QUIC a connection speaks (RFC 9368; RFC 9369 §4 for versions 1 and 2, which are compatible).

A client begins in one version and names all that it speaks. The server stays with it or changes to another one at
once: its first CRYPTO frame comes in the negotiated version, and the client follows. A server that does not know
the client's version answers with Version Negotiation; then a new connection begins, in another version. The
version_information parameter, which TLS authenticates, tells whether somebody meddled with any of this.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING

from quicfs.transport import transport_param
from quicfs.transport.config import ConnectionConfig
from quicfs.transport.crypto import Keys, initial_keys
from quicfs.transport.errors import ProtocolViolation, TransportErrorCode
from quicfs.transport.frame_type import FrameType
from quicfs.transport.packet import VERSION_1, LongHeader, PacketType
from quicfs.transport.transport_param import TransportParameters, VersionInformation

if TYPE_CHECKING:
    from quicfs.transport.conn import Connection


class Versions:
    """What is known of the versions of one connection; the one in use is the connection's `version`."""

    __slots__ = ("available", "initial_keys_in", "next", "original", "reacted", "settled")

    def __init__(self, original: int, available: Sequence[int], *, reacted: bool) -> None:
        self.original = original  # of the client's first packet
        self.available = tuple(available)  # that we speak, best first
        self.reacted = reacted  # this connection is our answer to a Version Negotiation packet
        self.settled = False  # the server has changed the version
        self.next: int | None = None  # a new connection is to begin in this version
        self.initial_keys_in: dict[int, Keys] = {}  # of Initial packets that are not in the version in use


def select(ours: Sequence[int], theirs: Collection[int]) -> int | None:
    """The best version that both speak."""
    return next((version for version in ours if version in theirs), None)


def own_information(conn: Connection) -> VersionInformation:
    available = conn.versions.available
    if not conn.is_server and not conn.config.compatible_versions:
        available = (conn.version,)  # RFC 9368 §2.3
    return VersionInformation(conn.version, available)


# --- packets in another version than the one in use


def admits(conn: Connection, header: LongHeader) -> bool:
    """Whether a packet in another version may belong to the connection all the same (RFC 9369 §4.1)."""
    versions = conn.versions
    if header.version == versions.original:
        # Until a Handshake packet comes, either end may still send Initials in the version that it began with; 0-RTT
        # packets always come in it.
        return header.packet_type in (PacketType.INITIAL, PacketType.ZERO_RTT)
    return (
        not conn.is_server
        and not versions.settled
        and conn.config.compatible_versions
        and header.version in versions.available
        and header.packet_type in (PacketType.INITIAL, PacketType.HANDSHAKE)
        # §4.1: CRYPTO frames in the original version mean that the server stays with it
        and not conn.initial.crypto_in.highest
    )


def keys_in(conn: Connection, header: LongHeader) -> Keys | None:
    """The keys for a packet that `admits` has admitted; None while there are none."""
    if header.packet_type is not PacketType.INITIAL:
        return None
    known = conn.versions.initial_keys_in
    keys = known.get(header.version)
    if keys is None:
        keys, _ = initial_keys(header.version, _dcid(conn), is_server=conn.is_server)
        known[header.version] = keys
    return keys


def on_opened(conn: Connection, header: LongHeader) -> None:
    """An authentic packet came in another version: a client follows its server (RFC 9369 §4.1)."""
    if not conn.is_server and header.version != conn.versions.original:
        _change(conn, header.version)


def _change(conn: Connection, version: int) -> None:
    versions, initial = conn.versions, conn.initial
    assert initial.keys_in is not None
    versions.initial_keys_in = {conn.version: initial.keys_in}
    versions.settled = True
    conn.version = version
    initial.keys_in, initial.keys_out = initial_keys(version, _dcid(conn), is_server=conn.is_server)


def _dcid(conn: Connection) -> bytes:
    """What Initial keys are made of (RFC 9001 §5.2)."""
    return conn.retry_scid or conn.original_dcid


# --- version_information


def choose(conn: Connection, config: ConnectionConfig, parameters: bytes) -> None:
    """A server reads what the client speaks, in its ClientHello, and changes to the version that `config` prefers."""
    conn.versions.available = config.versions
    try:
        theirs = transport_param.decode(parameters, from_server=False).version_information
    except ProtocolViolation:
        theirs = None  # TLS will deliver the same bytes, and then they are refused
    wanted = config.version
    if (
        wanted not in (0, conn.version)
        and config.compatible_versions
        and theirs is not None
        and theirs.chosen == conn.version
        and wanted in theirs.available
    ):
        _change(conn, wanted)
    conn.ours.version_information = own_information(conn)


def check(conn: Connection, peer: TransportParameters) -> None:
    """Did both ends see the same negotiation (RFC 9368 §4)? Raises ProtocolViolation."""
    versions, theirs = conn.versions, peer.version_information
    if conn.is_server:
        if theirs is None:
            return
        if theirs.chosen not in theirs.available:
            raise ProtocolViolation(
                TransportErrorCode.TRANSPORT_PARAMETER_ERROR,
                "the chosen version is not an available one",
                FrameType.CRYPTO,
            )
        if theirs.chosen != versions.original:
            _refuse("the client did not choose the version of its first packet")
        return
    if theirs is None:
        if conn.version == versions.original and not versions.reacted:
            return
        # RFC 9368 §8: a server of version 1 may not know about any of this
        if conn.version != VERSION_1 or not versions.reacted:
            _refuse("the server does not say which version it chose")
        theirs = VersionInformation(VERSION_1, (VERSION_1,))
    if theirs.chosen != conn.version:
        _refuse("the server chose another version than the one in use")
    # RFC 9368 §4: would we have begun with the same version, had we known what the server speaks?
    if versions.reacted and (
        not theirs.available
        or select(versions.available, (*theirs.available, conn.version)) != versions.original
    ):
        _refuse("the server speaks a better version than its Version Negotiation said")


def _refuse(reason: str) -> None:
    raise ProtocolViolation(TransportErrorCode.VERSION_NEGOTIATION_ERROR, reason, FrameType.CRYPTO)


# --- Version Negotiation


def handle_version_negotiation(conn: Connection, header: LongHeader) -> None:
    """A Version Negotiation packet came: the connection ends, and may begin anew (RFC 9368 §2.1)."""
    versions = conn.versions
    # RFC 9000 §6.2: only a client that has processed no other packet, and not if our version is in the list;
    # RFC 9368 §4: and only once
    if conn.is_server or conn.peer_cid_fixed or conn.retry_scid is not None or versions.reacted:
        return
    if versions.original in header.supported_versions:
        return
    if header.dcid != conn.local_cid or header.scid != conn.original_dcid:
        return
    versions.next = select(versions.available, header.supported_versions)
    offered = ", ".join(f"{version:#010x}" for version in header.supported_versions[:8])
    conn.refuse_version(f"the server speaks other versions of QUIC only: {offered}")
