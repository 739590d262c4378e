"""ECN validation (RFC 9000 §13.4.2, §A.4)."""

from __future__ import annotations

import pytest

from quicfs.transport.ecn import CE, ECT_0, NOT_ECT, Ecn, EcnState


def test_marks_a_few_packets_and_waits_for_the_verdict() -> None:
    ecn = Ecn()
    assert ecn.codepoint == ECT_0
    ecn.on_sent(10)
    assert (ecn.state, ecn.codepoint) == (EcnState.UNKNOWN, NOT_ECT)
    assert not ecn.on_ack(5, (5, 0, 0))
    assert (ecn.state, ecn.codepoint) == (EcnState.CAPABLE, ECT_0)


def test_switched_off() -> None:
    ecn = Ecn(enabled=False)
    assert ecn.codepoint == NOT_ECT
    assert not ecn.on_ack(0, None)


def test_new_marks_are_congestion() -> None:
    ecn = Ecn()
    ecn.on_sent(100)
    assert not ecn.on_ack(10, (10, 0, 0))
    assert ecn.on_ack(10, (15, 0, 5))
    assert not ecn.on_ack(10, (25, 0, 5))
    assert ecn.state is EcnState.CAPABLE
    assert CE == 3


@pytest.mark.parametrize(
    "counts",
    [None, (9, 0, 0), (10, 1, 0), (0, 10, 0), (0, 0, 0), (101, 0, 0)],
    ids=["no counts", "too few", "ECT(1) appeared", "became ECT(1)", "cleared", "more than were sent"],
)
def test_counts_that_cannot_be_right(counts: tuple[int, int, int] | None) -> None:
    ecn = Ecn()
    ecn.on_sent(100)
    assert not ecn.on_ack(10, counts)
    assert (ecn.state, ecn.codepoint) == (EcnState.FAILED, NOT_ECT)
    assert not ecn.on_ack(10, (20, 0, 0))


def test_counts_that_go_back() -> None:
    ecn = Ecn()
    ecn.on_sent(100)
    ecn.on_ack(10, (8, 0, 2))
    assert not ecn.on_ack(0, (8, 0, 1))
    assert ecn.state is EcnState.FAILED


def test_nothing_acknowledged_of_what_was_marked() -> None:
    ecn = Ecn()
    ecn.on_sent(5)
    assert not ecn.on_ack(0, None)
    assert ecn.state is EcnState.TESTING


def test_a_path_that_swallows_marked_packets() -> None:
    ecn = Ecn()
    ecn.on_sent(10)
    ecn.on_all_lost()
    assert ecn.state is EcnState.FAILED
    capable = Ecn()
    capable.on_sent(10)
    capable.on_ack(10, (10, 0, 0))
    capable.on_all_lost()
    assert capable.state is EcnState.CAPABLE
