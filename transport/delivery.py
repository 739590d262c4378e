"""Delivery: what the acknowledgement and the loss of packets mean to what they carried, and what a probe repeats."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from quicfs.transport.frame_ack import AckFrame
from quicfs.transport.frame_ops import FRAME_OPS
from quicfs.transport.frame_type import FrameType
from quicfs.transport.pnspace import PacketNumberSpace
from quicfs.transport.sent import SentRun
from quicfs.transport.work import FEW_RANGES

if TYPE_CHECKING:
    from quicfs.transport.conn import Connection

_CRYPTO_IN_PACKET: Final = 1_000  # bytes, about: what a handshake packet has room for


def handle_ack(conn: Connection, space: PacketNumberSpace, frame: AckFrame, now: float) -> None:
    delay = 0.0
    if space is conn.application and conn.peer is not None:
        delay = (frame.ack_delay << conn.peer.ack_delay_exponent) / 1e6
    previous = space.sent.largest_acked
    outcome = conn.recovery.on_ack(space, frame, delay, now, app_limited=conn.app_limited)
    if len(frame.ranges) > FEW_RANGES:
        conn.work.ack(len(frame.ranges), outcome.size)
    if space is conn.handshake:
        conn.recovery.peer_validated = True  # RFC 9002 §6.2.2.1
    marked = 0
    for run in outcome.acked:
        if run.marked:
            marked += run.last - run.first + 1
        _run_acked(conn, space, run)
    for run in outcome.lost:
        _run_lost(conn, space, run, now)
    if outcome.largest is not None and conn.recovery.on_active_path(outcome.largest):
        conn.path.pmtud.on_acked(outcome.largest.packet_size)
    if outcome.lost:
        _count_lost_sizes(conn, outcome.lost, now)
    if (
        conn.ack_frequency.supported
        and conn.peer is not None
        and conn.ack_frequency.consider(conn.recovery, conn.path.pmtud.current, conn.peer)
    ):
        conn.queue_control(FrameType.ACK_FREQUENCY, None)
    if (
        outcome.largest is not None
        and space.sent.largest_acked > previous
        and space is conn.application
        and conn.path.ecn.on_ack(marked, frame.ecn, this_path=conn.recovery.on_active_path(outcome.largest))
    ):
        conn.recovery.on_ecn_ce(now, outcome.largest.time)


def on_loss_timer(conn: Connection, now: float) -> None:
    outcome = conn.recovery.on_timeout(now)
    for space in conn.spaces:
        if outcome.probe is space:
            _prepare_probe(conn, space, now)
    for space, run in outcome.lost:
        _run_lost(conn, space, run, now)
    if outcome.lost:
        _count_lost_sizes(conn, [run for _, run in outcome.lost], now)


def _prepare_probe(conn: Connection, space: PacketNumberSpace, now: float) -> None:
    """RFC 9002 §6.2.4: one or two ack-eliciting packets, of new data or else of what is oldest under way."""
    space.probes = 2
    if space is conn.application and conn.ack_frequency.asked:
        conn.queue_control(FrameType.IMMEDIATE_ACK, None)
    if conn.recovery.pto_count >= 3:
        conn.path.ecn.on_all_lost()
    # RFC 8899 §4.3: nothing is acknowledged, and the largest that is under way may be why
    largest = max(
        (
            run.packet_size
            for run in space.sent
            if run.eliciting and not run.mtu_probe and conn.recovery.on_active_path(run)
        ),
        default=0,
    )
    if conn.path.pmtud.on_lost(largest, now):
        _mtu_changed(conn)
    oldest = space.sent.oldest_eliciting()
    if space is not conn.application:
        repeat_flight(conn, space)
        if space is conn.handshake and conn.initial.crypto_out.has_lost:
            # Lost, and kept back by a full window: without it the peer can read nothing of the probes.
            conn.initial.probes = max(conn.initial.probes, 1)
    elif oldest is not None:
        # Only the queue hears of it: the packets themselves stay under way until they are declared lost.
        requeue(conn, space, oldest.part(oldest.first, min(oldest.last, oldest.first + 1)))


def repeat_flight(conn: Connection, space: PacketNumberSpace) -> None:
    """A peer may say nothing until it has all of a flight: all of it is repeated, or, once the window is full, a part
    of it in turn."""
    queue = space.crypto_out
    start, stop = queue.acked, queue.sent
    part = 2 * _CRYPTO_IN_PACKET  # as much as the two probes carry
    if stop - start > max(part, conn.recovery.window):
        parts = -(-(stop - start) // part)
        start += (conn.recovery.pto_count - 1) % parts * part
        stop = min(start + part, stop)
    queue.on_lost(start, stop)


def _run_acked(conn: Connection, space: PacketNumberSpace, run: SentRun) -> None:
    bulk = run.bulk
    if bulk is not None:
        conn.on_stream_acked(bulk.stream, bulk.offset, bulk.stop, bulk.fin)
        return
    if run.mtu_probe and run.congestion is conn.recovery.congestion:
        conn.path.pmtud.on_probe_acked(run.size)
        _mtu_changed(conn)
    for frame_type, argument in run.records:
        on_ack = FRAME_OPS[frame_type].on_ack
        if on_ack is not None:
            on_ack(conn, space, argument)


def _run_lost(conn: Connection, space: PacketNumberSpace, run: SentRun, now: float) -> None:
    if conn.trace is not None:
        conn.trace.packets_lost(now, space.packet_type, run)
    if run.mtu_probe:
        if run.congestion is conn.recovery.congestion:
            conn.path.pmtud.on_probe_lost(run.size)
        return
    requeue(conn, space, run)


def requeue(conn: Connection, space: PacketNumberSpace, run: SentRun) -> None:
    """What the packets carried has to be sent again, as far as it still matters."""
    bulk = run.bulk
    if bulk is not None:
        conn.on_stream_lost(bulk.stream, bulk.offset, bulk.stop, bulk.fin)
        return
    for frame_type, argument in run.records:
        on_lost = FRAME_OPS[frame_type].on_lost
        if on_lost is not None:
            on_lost(conn, space, argument)


def _count_lost_sizes(conn: Connection, lost: Sequence[SentRun], now: float) -> None:
    """Losses of full-sized datagrams alone hint at a black hole (RFC 8899 §4.3)."""
    sizes = [run.packet_size for run in lost if not run.mtu_probe and conn.recovery.on_active_path(run)]
    if sizes and conn.path.pmtud.on_lost(max(sizes), now):
        _mtu_changed(conn)


def _mtu_changed(conn: Connection) -> None:
    size = conn.path.pmtud.current
    conn.recovery.cong.set_max_datagram_size(size)
    conn.recovery.pacer.set_max_datagram_size(size)
