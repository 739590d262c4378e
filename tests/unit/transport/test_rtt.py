"""Round-trip estimation (RFC 9002 §5) and the timeouts made of it."""

from __future__ import annotations

import pytest

from quicfs.transport.rtt import RttEstimator


def test_initial_guess() -> None:
    rtt = RttEstimator()
    assert (rtt.smoothed, rtt.variance, rtt.first_sample_at) == (0.333, 0.1665, None)
    assert rtt.pto_base(0.0) == pytest.approx(0.999)


def test_first_sample_replaces_the_guess() -> None:
    rtt = RttEstimator()
    rtt.update(0.1, 0.025, 7.0)
    assert (rtt.latest, rtt.minimum, rtt.smoothed, rtt.variance) == (0.1, 0.1, 0.1, 0.05)
    assert rtt.first_sample_at == 7.0


def test_later_samples_are_smoothed_without_the_peers_delay() -> None:
    rtt = RttEstimator()
    rtt.update(0.1, 0.0, 1.0)
    rtt.update(0.14, 0.02, 2.0)
    # adjusted 0.12: variance 3/4 * 0.05 + 1/4 * 0.02, smoothed 7/8 * 0.1 + 1/8 * 0.12
    assert rtt.variance == pytest.approx(0.0425)
    assert rtt.smoothed == pytest.approx(0.1025)
    assert rtt.minimum == 0.1
    assert rtt.first_sample_at == 1.0


def test_delay_never_brings_a_sample_below_the_minimum() -> None:
    rtt = RttEstimator()
    rtt.update(0.1, 0.0, 1.0)
    rtt.update(0.11, 0.02, 2.0)
    assert rtt.smoothed == pytest.approx(0.1 * 7 / 8 + 0.11 / 8)


def test_timeouts() -> None:
    rtt = RttEstimator()
    rtt.update(0.1, 0.0, 1.0)
    assert rtt.pto_base(0.025) == pytest.approx(0.1 + 0.2 + 0.025)
    assert rtt.persistent_congestion_duration(0.025) == pytest.approx(3 * 0.325)
    assert rtt.loss_delay() == pytest.approx(0.1125)


def test_granularity_is_the_least_on_a_fast_path() -> None:
    rtt = RttEstimator()
    for step in range(50):
        rtt.update(0.0001, 0.0, float(step))
    assert rtt.loss_delay() == 0.001
    assert rtt.pto_base(0.0) == pytest.approx(0.0011, abs=1e-5)


def test_minimum_starts_again_after_persistent_congestion() -> None:
    rtt = RttEstimator()
    rtt.update(0.1, 0.0, 1.0)
    rtt.update(0.3, 0.0, 2.0)
    rtt.reset_minimum()
    assert rtt.minimum == 0.3
