"""What holds for every congestion control (RFC 9002 §7)."""

from __future__ import annotations

import pytest

from quicfs.transport.cong import CongestionControl, initial_window, make_congestion_control
from quicfs.transport.cong_cubic import Cubic
from quicfs.transport.cong_newreno import NewReno
from quicfs.transport.rtt import RttEstimator
from quicfs.transport.uapi import CongestionAlgo

MDS = 1200


@pytest.fixture(params=[NewReno, Cubic])
def cong(request: pytest.FixtureRequest) -> CongestionControl:
    algorithm: type[CongestionControl] = request.param
    return algorithm(MDS)


def make_rtt(seconds: float = 0.05) -> RttEstimator:
    rtt = RttEstimator()
    rtt.update(seconds, 0.0, 0.0)
    return rtt


@pytest.mark.parametrize(
    ("size", "window"), [(1200, 12_000), (1472, 14_720), (9000, 18_000), (65_527, 131_054)]
)
def test_initial_window(size: int, window: int) -> None:
    assert initial_window(size) == window


def test_made_by_the_option_of_the_socket() -> None:
    assert isinstance(make_congestion_control(CongestionAlgo.RENO, MDS), NewReno)
    assert isinstance(make_congestion_control(CongestionAlgo.CUBIC, MDS), Cubic)
    with pytest.raises(ValueError, match="9"):
        make_congestion_control(9, MDS)


def test_slow_start_doubles_the_window_whatever_the_batch(cong: CongestionControl) -> None:
    rtt = make_rtt()
    window = cong.cwnd
    cong.on_ack(1.0, window, 0.9, rtt, False)
    assert cong.cwnd == 2 * window
    assert cong.in_slow_start


def test_no_growth_when_the_application_is_the_limit(cong: CongestionControl) -> None:
    window = cong.cwnd
    cong.on_ack(1.0, window, 0.9, make_rtt(), True)
    assert cong.cwnd == window


def test_one_reduction_per_round_trip(cong: CongestionControl) -> None:
    cong.on_ack(1.0, 100_000, 0.9, make_rtt(), False)
    cong.on_congestion_event(1.1, 1.05)
    window = cong.cwnd
    assert cong.in_recovery
    assert window == cong.ssthresh < 112_000
    for sent in (1.0, 1.08, 1.1):
        cong.on_congestion_event(1.2, sent)
        cong.on_ecn_ce(1.2, sent)
    assert cong.cwnd == window
    cong.on_congestion_event(1.3, 1.15)
    assert cong.cwnd < window


def test_no_growth_in_recovery(cong: CongestionControl) -> None:
    cong.on_ack(1.0, 100_000, 0.9, make_rtt(), False)
    cong.on_congestion_event(1.1, 1.05)
    window = cong.cwnd
    cong.on_ack(1.15, 50_000, 1.09, make_rtt(), False)
    assert (cong.cwnd, cong.in_recovery) == (window, True)
    cong.on_ack(1.2, 100_000, 1.12, make_rtt(), False)
    assert not cong.in_recovery
    assert cong.cwnd > window


def test_ecn_marks_count_as_loss(cong: CongestionControl) -> None:
    before = cong.cwnd
    cong.on_ecn_ce(1.1, 1.05)
    assert cong.cwnd < before
    assert cong.in_recovery


def test_persistent_congestion_begins_anew(cong: CongestionControl) -> None:
    rtt = make_rtt()
    cong.on_ack(1.0, 100_000, 0.9, rtt, False)
    cong.on_congestion_event(1.1, 1.05)
    threshold = cong.ssthresh
    cong.on_persistent_congestion(1.1)
    assert cong.cwnd == cong.minimum_window == 2 * MDS
    assert cong.in_slow_start
    assert cong.ssthresh <= threshold
    cong.on_ack(2.0, 2 * MDS, 1.0, rtt, False)
    assert cong.cwnd == 4 * MDS


def test_never_below_the_minimum(cong: CongestionControl) -> None:
    for step in range(1, 60):
        cong.on_congestion_event(float(step), step - 0.5)
        assert cong.cwnd >= 2 * MDS
    assert cong.cwnd == 2 * MDS


def test_slow_start_ends_exactly_at_the_threshold(cong: CongestionControl) -> None:
    rtt = make_rtt()
    cong.on_ack(1.0, 100_000, 0.9, rtt, False)
    cong.on_congestion_event(1.1, 1.05)
    cong.on_persistent_congestion(1.1)
    threshold = cong.ssthresh
    cong.on_ack(2.0, 10 * threshold, 1.5, rtt, False)
    # beyond the threshold the rest of the batch counts as congestion avoidance, not as slow start
    assert threshold <= cong.cwnd < 1.6 * threshold


def test_larger_datagrams(cong: CongestionControl) -> None:
    cong.set_max_datagram_size(65_527)
    assert cong.cwnd == initial_window(65_527)
    assert cong.minimum_window == 2 * 65_527
    cong.on_congestion_event(1.0, 0.5)
    cong.set_max_datagram_size(1200)
    assert cong.minimum_window == 2400
