"""What a connection has done so far, in numbers: one frozen snapshot, taken when it is asked for."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from quicfs.transport.cong import UNLIMITED

if TYPE_CHECKING:
    from quicfs.transport.conn import Connection


@dataclass(frozen=True, slots=True)
class ConnectionStats:
    """Times in seconds, sizes in bytes, all of this end. Bytes are of UDP payloads unless said otherwise."""

    handshake_time: float | None
    """From the first packet until TLS was complete on this end; None before."""
    rtt_latest: float | None
    """The RTTs are None before the first sample (RFC 9002 §5)."""
    rtt_min: float | None
    rtt_smoothed: float | None
    rtt_variance: float | None

    congestion_window: int
    slow_start_threshold: int | None
    """None before the first congestion event."""
    bytes_in_flight: int
    pacing_rate: float
    """Bytes a second; the pacer lets bursts go on top of it."""
    congestion_events: int
    mtu: int
    """The largest datagram sent now."""

    packets_sent: int
    bytes_sent: int
    packets_received: int
    bytes_received: int
    packets_lost: int
    bytes_lost: int
    bytes_retransmitted: int
    """Of streams, due again after a loss or for a probe."""
    probe_timeouts: int

    ecn: str
    """What this end sends: testing, unknown, capable or failed (RFC 9000 §A.4)."""
    ecn_received: tuple[int, int, int]
    """1-RTT packets that came with ECT(0), ECT(1), CE."""
    ecn_reported: tuple[int, int]
    """Packets of ours that the peer reports to have come with ECT(0), CE."""

    tls_bytes_received: int
    """TLS messages of the peer; on a client a session that is resumed shows here, since it needs no certificate."""
    key_updates: int
    """Begun by either end."""
    migrations: int
    """Changes of the active path; RTT, window, MTU and ECN are those of the path that is active now."""
    streams_opened: int
    """By this end."""
    streams_accepted: int
    """Opened by the peer."""
    streams_open: int
    datagrams_sent: int
    datagrams_received: int
    datagrams_dropped: int
    """Of ours, never sent; of the peer's, never fetched."""

    @property
    def loss(self) -> float:
        """Share of our packets that was declared lost, 0 to 1."""
        return self.packets_lost / self.packets_sent if self.packets_sent else 0.0

    def as_dict(self) -> dict[str, Any]:
        """For JSON; times and rates rounded to microseconds and bytes."""
        return {
            name: round(value, 6) if isinstance(value, float) else value
            for name, value in asdict(self).items()
        }

    def __str__(self) -> str:
        """One line for a log."""
        rtt = "unknown" if self.rtt_smoothed is None else f"{self.rtt_smoothed * 1000:.3f} ms"
        return (
            f"sent {self.bytes_sent} bytes, received {self.bytes_received}, lost {self.loss:.2%}, "
            f"RTT {rtt}, congestion window {self.congestion_window}, MTU {self.mtu}"
        )


def collect(conn: Connection) -> ConnectionStats:
    recovery, path = conn.recovery, conn.path
    rtt, cong, counts = recovery.rtt, recovery.cong, recovery.stats
    measured = rtt.first_sample_at is not None
    received = conn.application.received
    opened, accepted = conn.streams.counts
    return ConnectionStats(
        handshake_time=None if conn.established_at is None else conn.established_at - conn.created_at,
        rtt_latest=rtt.latest if measured else None,
        rtt_min=rtt.minimum if measured else None,
        rtt_smoothed=rtt.smoothed if measured else None,
        rtt_variance=rtt.variance if measured else None,
        congestion_window=cong.cwnd,
        slow_start_threshold=None if cong.ssthresh == UNLIMITED else cong.ssthresh,
        bytes_in_flight=recovery.bytes_in_flight,
        pacing_rate=recovery.pacing_rate,
        congestion_events=cong.events,
        mtu=path.pmtud.current,
        packets_sent=counts.packets_sent,
        bytes_sent=counts.bytes_sent,
        packets_received=sum(space.received.packets for space in conn.spaces),
        bytes_received=conn.bytes_received,
        packets_lost=counts.packets_lost,
        bytes_lost=counts.bytes_lost,
        bytes_retransmitted=counts.bytes_retransmitted,
        probe_timeouts=counts.ptos,
        ecn=path.ecn.state.name.lower(),
        ecn_received=(received.ect0, received.ect1, received.ce),
        ecn_reported=path.ecn.reported,
        tls_bytes_received=sum(space.crypto_in.read for space in conn.spaces),
        key_updates=conn.key_phases.updates,
        migrations=conn.paths.migrations,
        streams_opened=opened,
        streams_accepted=accepted,
        streams_open=len(conn.streams),
        datagrams_sent=conn.datagrams.sent,
        datagrams_received=conn.datagrams.came,
        datagrams_dropped=conn.datagrams.dropped + conn.datagrams.discarded,
    )
