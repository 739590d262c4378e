"""Loss detection (RFC 9002 §6): thresholds, timers, persistent congestion, over sent runs."""

from __future__ import annotations

import pytest

from quicfs.transport.cong_newreno import NewReno
from quicfs.transport.crypto import initial_keys
from quicfs.transport.frame_ack import AckFrame
from quicfs.transport.pacer import Pacer
from quicfs.transport.packet import VERSION_1, PacketType
from quicfs.transport.path import CongestionState
from quicfs.transport.pnspace import PacketNumberSpace
from quicfs.transport.recovery import UNBLOCKING_MIN, Recovery
from quicfs.transport.rtt import RttEstimator
from quicfs.transport.sent import SentRun
from quicfs.transport.uapi import CryptoLevel

SIZE = 1200


class Sender:
    """A recovery with its three spaces; packets are sent and acknowledged by number."""

    def __init__(self, *, is_server: bool = False, confirmed: bool = True) -> None:
        self.initial = PacketNumberSpace(PacketType.INITIAL, CryptoLevel.INITIAL, 0.0)
        self.handshake = PacketNumberSpace(PacketType.HANDSHAKE, CryptoLevel.HANDSHAKE, 0.0)
        self.app = PacketNumberSpace(PacketType.ONE_RTT, CryptoLevel.APP, 0.025)
        self.recovery = Recovery(
            (self.initial, self.handshake, self.app),
            CongestionState(NewReno(SIZE), Pacer(SIZE), RttEstimator()),
            peer_validated=is_server or confirmed,
        )
        self.recovery.handshake_confirmed = confirmed

    def send(
        self,
        first: int,
        last: int,
        time: float,
        *,
        space: PacketNumberSpace | None = None,
        eliciting: bool = True,
        probe: bool = False,
    ) -> None:
        run = SentRun(
            first, last, time, SIZE, SIZE, eliciting=eliciting, in_flight=eliciting, mtu_probe=probe
        )
        self.recovery.on_sent(space or self.app, run)

    def ack(
        self, now: float, *ranges: tuple[int, int], delay: float = 0.0, space: PacketNumberSpace | None = None
    ) -> tuple[list[int], list[int]]:
        """Packet numbers newly acknowledged, and lost."""
        frame = AckFrame(list(ranges), 0, None)
        outcome = self.recovery.on_ack(space or self.app, frame, delay, now, app_limited=False)
        return numbers(outcome.acked), numbers(outcome.lost)


def numbers(runs: object) -> list[int]:
    return sorted(pn for run in runs for pn in range(run.first, run.last + 1))  # type: ignore[attr-defined]


def test_round_trip_and_bytes_in_flight() -> None:
    sender = Sender()
    sender.send(0, 9, 1.0)
    assert sender.recovery.bytes_in_flight == 10 * SIZE
    assert sender.ack(1.1, (0, 9)) == (list(range(10)), [])
    assert sender.recovery.bytes_in_flight == 0
    assert sender.recovery.rtt.smoothed == pytest.approx(0.1)


def test_three_later_packets_mean_lost() -> None:
    sender = Sender()
    sender.send(0, 9, 1.0)
    assert sender.ack(1.05, (2, 2)) == ([2], [])
    assert sender.ack(1.06, (2, 4)) == ([3, 4], [0, 1])
    assert sender.recovery.cong.in_recovery
    assert sender.recovery.bytes_in_flight == 5 * SIZE


def test_time_means_lost() -> None:
    """9/8 of a round trip after something later was acknowledged."""
    sender = Sender()
    sender.send(0, 0, 1.0)
    sender.send(1, 1, 1.001)
    sender.ack(1.101, (1, 1))
    deadline = sender.recovery.loss_deadline(at_amplification_limit=False)
    assert deadline == pytest.approx(1.0 + 0.1 * 9 / 8)
    assert deadline is not None
    outcome = sender.recovery.on_timeout(deadline)
    assert numbers(run for _, run in outcome.lost) == [0]
    assert outcome.probe is None


def test_acknowledged_without_eliciting_gives_no_sample() -> None:
    sender = Sender()
    sender.send(0, 0, 1.0, eliciting=False)
    sender.ack(5.0, (0, 0))
    assert sender.recovery.rtt.first_sample_at is None


def test_only_the_newest_packet_gives_a_sample() -> None:
    sender = Sender()
    sender.send(0, 0, 1.0)
    sender.send(1, 1, 1.1)
    sender.ack(1.2, (1, 1))
    sender.ack(3.0, (0, 1))
    assert sender.recovery.rtt.latest == pytest.approx(0.1)


def test_the_peers_delay_counts_up_to_its_promise() -> None:
    sender = Sender()
    sender.send(0, 0, 1.0)
    sender.ack(1.1, (0, 0))
    sender.send(1, 1, 2.0)
    sender.ack(2.3, (0, 1), delay=10.0)
    expected = 0.1 * 7 / 8 + (0.3 - sender.recovery.max_ack_delay) / 8
    assert sender.recovery.rtt.smoothed == pytest.approx(expected)


def test_probe_timeout_doubles_until_an_ack() -> None:
    sender = Sender()
    sender.send(0, 0, 1.0)
    sender.ack(1.1, (0, 0))
    sender.send(1, 1, 2.0)
    base = sender.recovery.rtt.pto_base(sender.recovery.max_ack_delay)
    for factor in (1, 2, 4):
        deadline = sender.recovery.loss_deadline(at_amplification_limit=False)
        assert deadline == pytest.approx(2.0 + factor * base)
        assert deadline is not None
        assert sender.recovery.on_timeout(deadline).probe is sender.app
    sender.ack(9.0, (1, 1))
    assert sender.recovery.pto_count == 0
    assert sender.recovery.loss_deadline(at_amplification_limit=False) is None


def test_no_probe_for_application_data_before_confirmation() -> None:
    sender = Sender(is_server=True, confirmed=False)
    sender.send(0, 0, 1.0)
    assert sender.recovery.loss_deadline(at_amplification_limit=False) is None
    sender.send(0, 0, 1.0, space=sender.handshake)
    assert sender.recovery.loss_deadline(at_amplification_limit=False) is not None


def test_no_timer_at_the_amplification_limit() -> None:
    sender = Sender(is_server=True, confirmed=False)
    sender.send(0, 0, 1.0, space=sender.initial)
    assert sender.recovery.loss_deadline(at_amplification_limit=True) is None
    assert sender.recovery.loss_deadline(at_amplification_limit=False) == pytest.approx(1.999)


def test_spaces_do_not_mix() -> None:
    sender = Sender(confirmed=False)
    sender.send(0, 5, 1.0, space=sender.initial)
    sender.send(0, 5, 1.0, space=sender.handshake)
    acked, lost = sender.ack(1.1, (5, 5), space=sender.handshake)
    assert (acked, lost) == ([5], [0, 1, 2])
    assert sender.recovery.bytes_in_flight == 8 * SIZE
    sender.recovery.discard(sender.initial)
    assert sender.recovery.bytes_in_flight == 2 * SIZE


def test_lost_mtu_probe_is_no_congestion() -> None:
    sender = Sender()
    sender.send(0, 0, 1.0, probe=True)
    sender.send(1, 5, 1.0)
    acked, lost = sender.ack(1.1, (1, 5))
    assert (acked, lost) == ([1, 2, 3, 4, 5], [0])
    assert not sender.recovery.cong.in_recovery
    assert sender.recovery.stats.packets_lost == 0
    assert sender.recovery.bytes_in_flight == 0


def test_persistent_congestion() -> None:
    """Everything of a second and a half is lost, at a round trip of 50 ms."""
    sender = Sender()
    sender.send(0, 0, 1.0)
    sender.ack(1.05, (0, 0))
    for number in range(1, 17):
        sender.send(number, number, 2.0 + number / 10)
    sender.send(17, 17, 5.0)
    sender.ack(5.05, (17, 17))
    assert sender.recovery.cong.in_slow_start
    assert sender.recovery.cong.cwnd == sender.recovery.cong.minimum_window + SIZE


def test_losses_with_something_between_are_not_persistent() -> None:
    sender = Sender()
    sender.send(0, 0, 1.0)
    sender.ack(1.05, (0, 0))
    for number in range(1, 17):
        sender.send(number, number, 2.0 + number / 10)
    sender.ack(3.0, (8, 8))
    sender.send(17, 17, 5.0)
    sender.ack(5.05, (17, 17))
    assert not sender.recovery.cong.in_slow_start


def test_the_same_ack_twice() -> None:
    sender = Sender()
    sender.send(0, 9, 1.0)
    sender.ack(1.1, (0, 9))
    window = sender.recovery.cong.cwnd
    assert sender.ack(1.2, (0, 9)) == ([], [])
    assert sender.recovery.cong.cwnd == window
    assert sender.recovery.bytes_in_flight == 0


def test_a_window_that_is_not_used_does_not_grow() -> None:
    sender = Sender()
    window = sender.recovery.cong.cwnd
    sender.send(0, 3, 1.0)
    sender.ack(1.1, (0, 3))
    assert sender.recovery.cong.cwnd == window
    sender.send(4, 13, 2.0)
    sender.ack(2.1, (4, 13))
    assert sender.recovery.cong.cwnd == 2 * window


@pytest.mark.parametrize(("round_trip", "due_after"), [(0.001, UNBLOCKING_MIN), (0.1, 0.3)])
def test_a_client_with_nothing_in_flight_gives_the_servers_tls_its_time(
    round_trip: float, due_after: float
) -> None:
    sender = Sender(confirmed=False)
    sender.initial.keys_out = initial_keys(VERSION_1, bytes(8), is_server=False)[1]
    sender.send(0, 0, 1.0, space=sender.initial)
    sender.ack(1.0 + round_trip, (0, 0), space=sender.initial)
    deadline = sender.recovery.loss_deadline(at_amplification_limit=False)
    assert deadline == pytest.approx(1.0 + due_after)
