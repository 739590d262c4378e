"""Loss detection (RFC 9002 §6) over the three packet number spaces, and the window they share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

from quicfs.transport import limits
from quicfs.transport.frame_ack import AckFrame
from quicfs.transport.path import CongestionState
from quicfs.transport.pnspace import PacketNumberSpace
from quicfs.transport.sent import SentRun
from quicfs.transport.uapi import CryptoLevel

PACKET_THRESHOLD: Final = 3
UNBLOCKING_MIN: Final = 0.025
"""Seconds before a client that has nothing in flight asks a silent server whether it waits for us (RFC 9002
§6.2.2.1). A server acknowledges the ClientHello at once, but its TLS answers only milliseconds later: on a short path
the usual time would send full-sized datagrams for nothing in every handshake."""


@dataclass(slots=True)
class AckOutcome:
    acked: Sequence[SentRun] = ()
    lost: Sequence[SentRun] = ()
    largest: SentRun | None = None  # the newest one that this ACK newly acknowledged
    size: int = 0  # bytes in flight on the active path that it did


@dataclass(slots=True)
class TimeoutOutcome:
    lost: Sequence[tuple[PacketNumberSpace, SentRun]] = ()
    probe: PacketNumberSpace | None = None  # send probes in it (RFC 9002 §6.2.4)


@dataclass(slots=True)
class RecoveryStats:
    packets_sent: int = 0
    packets_lost: int = 0
    bytes_sent: int = 0
    bytes_lost: int = 0
    bytes_retransmitted: int = 0  # of streams
    ptos: int = 0


class Recovery:
    """Owns the timers of loss and probe; RTT, congestion window and pacing are those of the active path."""

    __slots__ = (
        "_forgiven_below",
        "_loss_times",
        "_spaces",
        "cong",
        "congestion",
        "handshake_confirmed",
        "max_ack_delay",
        "pacer",
        "peer_validated",
        "pto_count",
        "rtt",
        "stats",
    )

    def __init__(
        self,
        spaces: Sequence[PacketNumberSpace],
        congestion: CongestionState,
        *,
        peer_validated: bool,
    ) -> None:
        self._spaces = spaces
        self._loss_times: dict[PacketNumberSpace, float | None] = dict.fromkeys(spaces)
        self._forgiven_below = -1
        self._use(congestion)
        self.pto_count = 0
        self.max_ack_delay = limits.MAX_ACK_DELAY  # the peer's
        self.handshake_confirmed = False
        # RFC 9002 §6.2.2.1: whether the peer has validated our address, as far as we know
        self.peer_validated = peer_validated
        self.stats = RecoveryStats()

    # --- paths

    def _use(self, congestion: CongestionState) -> None:
        self.congestion = congestion
        self.cong = congestion.cong
        self.pacer = congestion.pacer
        self.rtt = congestion.rtt

    def switch_path(self, congestion: CongestionState, next_pn: int) -> None:
        """Packets from `next_pn` on take another path. What was sent before says nothing of its congestion and RTT
        (RFC 9000 §9.4); where the state stays the same, what was lost on the way to the old address does not."""
        self._use(congestion)
        self._forgiven_below = next_pn
        self.pto_count = 0

    @property
    def bytes_in_flight(self) -> int:
        """On the active path."""
        return self.congestion.bytes_in_flight

    # --- sending

    def on_sent(self, space: PacketNumberSpace, run: SentRun) -> None:
        space.sent.add(run)
        run.congestion = self.congestion
        size = run.size
        self.stats.packets_sent += run.last - run.first + 1
        self.stats.bytes_sent += size
        if run.in_flight:
            self.congestion.bytes_in_flight += size
            self.cong.on_sent(run.time, size)
            self.pacer.on_sent(run.time, size)

    @property
    def window(self) -> int:
        """Bytes that congestion control lets out."""
        return self.cong.cwnd - self.congestion.bytes_in_flight

    def paced(self, now: float) -> int:
        """Bytes that the pacer lets out now."""
        return self.pacer.budget(now, self.cong.cwnd, self.rtt.smoothed, self.cong.in_slow_start)

    @property
    def pacing_rate(self) -> float:
        """Bytes a second."""
        return self.pacer.rate(self.cong.cwnd, self.rtt.smoothed, self.cong.in_slow_start)

    def paced_at(self, now: float) -> float:
        """When the pacer lets the next train out."""
        return self.pacer.next_send_time(now, self.cong.cwnd, self.rtt.smoothed, self.cong.in_slow_start)

    # --- acknowledgements

    def on_ack(
        self, space: PacketNumberSpace, frame: AckFrame, ack_delay: float, now: float, *, app_limited: bool
    ) -> AckOutcome:
        acked = space.sent.take_acked(frame.ranges)
        outcome = AckOutcome(acked)
        if not acked:
            return outcome
        largest = acked[0]
        outcome.largest = largest
        eliciting = False
        size = 0
        active = self.congestion
        for run in acked:
            eliciting = eliciting or run.eliciting
            if run.in_flight:
                if run.congestion is active:
                    size += run.size
                elif run.congestion is not None:
                    run.congestion.bytes_in_flight -= run.size
        # RFC 9002 §7.8: a window of which not even half is used is not tested, whatever held the sender back
        app_limited = app_limited or 2 * active.bytes_in_flight < self.cong.cwnd
        active.bytes_in_flight -= size
        outcome.size = size
        # RFC 9002 §5.1: a sample only when the largest acknowledged is new and something was ack-eliciting
        if largest.last == frame.ranges[0][1] and eliciting and largest.congestion is active:
            if self.handshake_confirmed:
                ack_delay = min(ack_delay, self.max_ack_delay)
            self.rtt.update(max(now - largest.time, 1e-6), ack_delay, now)
        outcome.lost = self._detect_losses(space, now)
        if size:
            self.cong.on_ack(now, size, largest.time, self.rtt, app_limited)
        # RFC 9002 §6.2.1: a client keeps its backoff until the server has surely validated its address
        if self.peer_validated:
            self.pto_count = 0
        return outcome

    def _detect_losses(self, space: PacketNumberSpace, now: float) -> list[SentRun]:
        sent = space.sent
        if sent.largest_acked < 0 or not sent:
            self._loss_times[space] = None
            return []
        rtt = self.rtt
        delay = rtt.loss_delay()
        # A microsecond's tolerance: rounding must not let the timer go off for nothing, for ever.
        lost, pending = sent.take_lost(sent.largest_acked - PACKET_THRESHOLD, now - delay + 1e-6)
        self._loss_times[space] = None if pending is None else pending + delay
        if lost:
            self._on_lost(lost, now)
        return lost

    def _on_lost(self, lost: Sequence[SentRun], now: float) -> None:
        newest = -1.0
        for run in lost:
            if not run.in_flight or run.congestion is None:
                continue
            size = run.size
            run.congestion.bytes_in_flight -= size
            if run.mtu_probe:
                continue  # RFC 9000 §14.4: the loss of a probe says nothing of congestion
            self.stats.packets_lost += run.count
            self.stats.bytes_lost += size
            if self.on_active_path(run):
                newest = max(newest, run.time)
        if newest < 0:
            return
        self.cong.on_congestion_event(now, newest)
        if self._is_persistent(lost):
            self.cong.on_persistent_congestion(now)
            self.rtt.reset_minimum()

    def on_active_path(self, run: SentRun) -> bool:
        """Whether the fate of `run` tells of the path that is used now (RFC 9000 §9.4)."""
        return run.congestion is self.congestion and run.first >= self._forgiven_below

    def _is_persistent(self, lost: Sequence[SentRun]) -> bool:
        """RFC 9002 §7.6: everything was lost for three probe timeouts."""
        first = self.rtt.first_sample_at
        if first is None:
            return False
        period = self.rtt.persistent_congestion_duration(self.max_ack_delay)
        times = [
            run.time
            for run in lost
            if run.eliciting and not run.mtu_probe and run.time > first and self.on_active_path(run)
        ]
        if len(times) < 2 or max(times) - min(times) <= period:
            return False
        numbers = sorted((run.first, run.last) for run in lost)
        return all(b[0] <= a[1] + 2 for a, b in pairwise(numbers))

    def on_ecn_ce(self, now: float, sent_time: float) -> None:
        self.cong.on_ecn_ce(now, sent_time)

    # --- timers (RFC 9002 §6.2, §A.8)

    def loss_deadline(self, *, at_amplification_limit: bool) -> float | None:
        deadline = self._earliest_loss()
        if deadline is not None:
            return deadline
        if at_amplification_limit:
            return None
        return self._pto()[0]

    def _earliest_loss(self) -> float | None:
        times = [time for time in self._loss_times.values() if time is not None]
        return min(times) if times else None

    def _pto(self) -> tuple[float | None, PacketNumberSpace | None]:
        """When the next probe is due and in which space (RFC 9002 §A.8)."""
        backoff = 1 << min(self.pto_count, 16)
        earliest: float | None = None
        which: PacketNumberSpace | None = None
        for space in self._spaces:
            if not space.sent.eliciting_in_flight:
                continue
            application = space.level == CryptoLevel.APP
            # RFC 9002 §6.2.1: not for application data before the handshake is confirmed
            if application and not self.handshake_confirmed:
                continue
            duration = self.rtt.pto_base(self.max_ack_delay if application else 0.0)
            time = space.sent.last_eliciting_at + duration * backoff
            if earliest is None or time < earliest:
                earliest, which = time, space
        if which is None and not self.peer_validated and any(space.sent.next_pn for space in self._spaces):
            # RFC 9002 §6.2.2.1: the server may wait for us to lift its amplification limit. Before TLS has
            # spoken nobody waits, and the first packet must carry the ClientHello (RFC 9000 §17.2.2).
            which = next((s for s in reversed(self._spaces[:2]) if s.keys_out is not None), None)
            if which is not None:
                since = max(space.sent.last_eliciting_at for space in self._spaces)
                earliest = since + max(self.rtt.pto_base(0.0), UNBLOCKING_MIN) * backoff
        return earliest, which

    def on_timeout(self, now: float) -> TimeoutOutcome:
        """The loss timer went off."""
        deadline = self._earliest_loss()
        if deadline is not None:
            lost: list[tuple[PacketNumberSpace, SentRun]] = []
            for space, time in self._loss_times.items():
                if time is not None and time <= now:
                    lost += [(space, run) for run in self._detect_losses(space, now)]
            return TimeoutOutcome(lost)
        _, space_to_probe = self._pto()
        self.pto_count += 1
        self.stats.ptos += 1
        return TimeoutOutcome(probe=space_to_probe)

    def discard(self, space: PacketNumberSpace) -> None:
        """Forget a space whose keys are gone (RFC 9002 §6.4)."""
        for run in space.sent.drain():
            if run.in_flight and run.congestion is not None:
                run.congestion.bytes_in_flight -= run.size
        self._loss_times[space] = None
        self.pto_count = 0
