"""What the owner of a connection decides about it."""

from __future__ import annotations

from dataclasses import dataclass, field

from quicfs.transport import limits
from quicfs.transport.packet import SUPPORTED_VERSIONS
from quicfs.transport.trace import TracerFactory
from quicfs.transport.transport_param import TransportParameters
from quicfs.transport.uapi import CongestionAlgo


def default_parameters() -> TransportParameters:
    return TransportParameters(
        max_idle_timeout_ms=int(limits.MAX_IDLE_TIMEOUT * 1000),
        max_udp_payload_size=limits.MAX_UDP_PAYLOAD,
        initial_max_data=limits.CONNECTION_WINDOW,
        initial_max_stream_data_bidi_local=limits.STREAM_WINDOW,
        initial_max_stream_data_bidi_remote=limits.STREAM_WINDOW,
        initial_max_stream_data_uni=limits.STREAM_WINDOW,
        initial_max_streams_bidi=limits.MAX_STREAMS_BIDI,
        initial_max_streams_uni=limits.MAX_STREAMS_UNI,
        ack_delay_exponent=limits.ACK_DELAY_EXPONENT,
        max_ack_delay_ms=int(limits.MAX_ACK_DELAY * 1000),
        active_connection_id_limit=limits.MAX_ACTIVE_PEER_CIDS,
        grease_quic_bit=True,
    )


@dataclass(slots=True)
class ConnectionConfig:
    """What the owner of a connection decides. Times in seconds, sizes in bytes."""

    parameters: TransportParameters = field(default_factory=default_parameters)
    congestion: int = CongestionAlgo.CUBIC
    initial_rtt: float = 0.333  # RFC 9002 §6.2.2
    keep_alive: float = 0.0  # 0: no PING to keep the connection alive
    handshake_timeout: float = limits.HANDSHAKE_TIMEOUT
    probe_mtu: bool = True
    mtu_raise_interval: float = limits.MTU_RAISE_INTERVAL  # until a wider path is looked for again
    ecn: bool = True
    preferred_ipv4: tuple[str, int] | None = None  # where a server wants its clients to go (RFC 9000 §9.6)
    preferred_ipv6: tuple[str, int] | None = None
    reset_key: bytes | None = None  # see `Endpoint`; of the first listener on a UDP port
    versions: tuple[int, ...] = SUPPORTED_VERSIONS  # of QUIC that are spoken, best first
    version: int = 0  # a client's first one (0: the best); a server changes to it (0: to none; RFC 9368)
    compatible_versions: bool = True  # let a server change the version (RFC 9368 §2.3)
    update_keys_after: int = limits.KEY_UPDATE_AFTER  # packets sent under one key (RFC 9001 §6.6)
    ack_frequency: bool = True  # let a peer ask for fewer ACKs, and ask it (draft-ietf-quic-ack-frequency)
    trace: TracerFactory | None = None  # who watches each connection; None: nobody
