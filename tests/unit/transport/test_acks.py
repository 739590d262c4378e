"""What was received, when it is acknowledged, and ECN validation."""

from __future__ import annotations

from quicfs.transport import limits
from quicfs.transport.acks import ReceivedPackets
from quicfs.transport.ecn import CE, ECT_0, Ecn, EcnState
from quicfs.transport.timer import Timer, Timers


def test_one_decision_per_train() -> None:
    """RFC 9000 §13.2.1, §13.2.2."""
    received = ReceivedPackets(0.025)
    received.add(1.0, 0, 1)
    received.decide(1.0, 1)
    assert received.ack_at == 1.025
    received.add(1.01, 1, 45)
    received.decide(1.01, 44)
    assert received.ack_at == 1.01
    received.on_ack_sent()
    assert received.ack_at is None
    received.add(2.0, 45, 46)
    received.decide(2.0, 0)  # nothing that asks for an ACK
    assert received.ack_at is None


def test_a_peer_may_ask_for_fewer() -> None:
    """draft-ietf-quic-ack-frequency §4, §6."""
    received = ReceivedPackets(0.025)
    received.obey(10, 0.008, 3)
    received.add(1.0, 0, 10)
    received.decide(1.0, 10)
    assert received.ack_at == 1.008
    received.add(1.001, 10, 11)
    received.decide(1.001, 1)
    assert received.ack_at == 1.001
    received.on_ack_sent()
    received.add(2.0, 11, 12)
    received.ask_now()
    received.decide(2.0, 1)
    assert received.ack_at == 2.0
    received.on_ack_sent()
    assert received.ack_at is None


def test_a_gap_is_told_when_the_reordering_threshold_is_reached() -> None:
    """The example of draft-ietf-quic-ack-frequency §6.2.1, with a threshold of 3."""
    received = ReceivedPackets(0.025)
    received.obey(100, 0.025, 3)
    told = []
    for pn in (0, 1, 3, 4, 5, 8, 9, 10):
        received.add(1.0, pn, pn + 1)
        received.decide(1.0, 1)
        if received.ack_at == 1.0:
            told.append(pn)
            received.on_ack_sent()
    assert told == [5, 9]


def test_reordering_may_be_ignored() -> None:
    received = ReceivedPackets(0.025)
    received.obey(100, 0.025, 0)
    for pn in (0, 9, 4):
        received.add(1.0, pn, pn + 1)
        received.decide(1.0, 1)
    assert received.ack_at == 1.025


def test_gaps_and_congestion_marks_are_told_at_once() -> None:
    received = ReceivedPackets(0.025)
    received.add(1.0, 0, 1)
    received.decide(1.0, 1)
    received.on_ack_sent()
    received.add(2.0, 2, 3)
    received.decide(2.0, 1)
    assert received.ack_at == 2.0
    received.on_ack_sent()
    received.add(3.0, 3, 4)
    received.count_ecn(CE, 1)
    received.decide(3.0, 1)
    assert received.ack_at == 3.0
    assert received.ecn_counts == (0, 0, 1)
    assert received.descending() == [(2, 3), (0, 0)]


def test_duplicates_and_forgotten_ranges() -> None:
    received = ReceivedPackets(0.0)
    for pn in range(0, 4 * limits.MAX_ACK_RANGES, 2):
        assert received.is_new(pn)
        received.add(1.0, pn, pn + 1)
        assert not received.is_new(pn)
    assert len(received.ranges) == limits.MAX_ACK_RANGES
    assert not received.is_new(1)  # older than all that is remembered: cannot be told from a duplicate
    newest = received.largest
    assert received.is_new(newest - 1)
    received.forget_below(newest + 1)
    assert received.descending() == [(newest, newest)]


def test_ecn_capable() -> None:
    ecn = Ecn()
    ecn.on_sent(4)
    assert ecn.codepoint == ECT_0
    assert not ecn.on_ack(4, (4, 0, 0))
    assert ecn.state is EcnState.CAPABLE
    ecn.on_sent(4)
    assert ecn.on_ack(4, (6, 0, 2))  # two of them were marked: congestion
    assert not ecn.on_ack(0, (6, 0, 2))


def test_ecn_fails_on_counts_that_cannot_be() -> None:
    """RFC 9000 §13.4.2.1."""
    for acked, counts in (
        (4, None),  # no counts at all
        (4, (3, 0, 0)),  # less than was acknowledged
        (4, (9, 0, 0)),  # more than was sent
        (4, (4, 1, 0)),  # ECT(1) was never sent
    ):
        ecn = Ecn()
        ecn.on_sent(4)
        assert not ecn.on_ack(acked, counts)
        assert ecn.state is EcnState.FAILED and ecn.codepoint == 0


def test_ecn_stops_when_all_is_lost() -> None:
    ecn = Ecn()
    ecn.on_sent(10)
    assert ecn.state is EcnState.UNKNOWN and ecn.codepoint == 0
    ecn.on_all_lost()
    assert ecn.state is EcnState.FAILED


def test_timers() -> None:
    timers = Timers()
    assert timers.next() is None
    timers.set(Timer.IDLE, 5.0)
    timers.set(Timer.LOSS, 3.0)
    assert timers.next() == 3.0
    assert timers.expired(2.9) == []
    assert timers.expired(5.0) == [Timer.LOSS, Timer.IDLE]
    assert timers.next() is None
