"""CUBIC's curve (RFC 9438) and HyStart++'s exit (RFC 9406)."""

from __future__ import annotations

import pytest

from quicfs.transport.cong import UNLIMITED
from quicfs.transport.cong_cubic import BETA, Cubic
from quicfs.transport.rtt import RttEstimator

MDS = 1200
C = 0.4


def rtt_of(seconds: float) -> RttEstimator:
    rtt = RttEstimator()
    for step in range(200):
        rtt.update(seconds, 0.0, float(step))
    return rtt


def grown(window: int) -> Cubic:
    cong = Cubic(MDS)
    cong.on_ack(0.0, window - cong.cwnd, -1.0, rtt_of(0.05), False)
    assert cong.cwnd == window
    return cong


def run(
    cong: Cubic, start: float, seconds: float, rtt_seconds: float, batches: int
) -> list[tuple[float, int]]:
    """A saturated path: a window acknowledged in each round trip, in `batches` ACKs."""
    rtt = rtt_of(rtt_seconds)
    now = start
    curve = []
    while now < start + seconds:
        for _ in range(batches):
            now += rtt_seconds / batches
            cong.on_ack(now, cong.cwnd // batches, now - rtt_seconds, rtt, False)
            curve.append((now, cong.cwnd))
    return curve


@pytest.mark.parametrize("batches", [1, 4, 50])
def test_follows_the_cubic_function(batches: int) -> None:
    window = 1000 * MDS
    cong = grown(window)
    cong.on_congestion_event(10.0, 9.9)
    assert cong.cwnd == cong.ssthresh == int(window * BETA)
    k = (1000 * (1 - BETA) / C) ** (1 / 3)  # 9.09 s
    curve = run(cong, 10.2, 15.0, 0.1, batches)
    epoch = curve[0][0]
    for now, cwnd in curve:
        expected = C * (now - epoch - k) ** 3 + 1000
        if now - epoch > 1:
            assert cwnd / MDS == pytest.approx(expected, rel=0.03)
    plateau = [cwnd for now, cwnd in curve if abs(now - epoch - k) < 0.2]
    assert plateau[0] / MDS == pytest.approx(1000, rel=0.01)


def test_reno_friendly_on_a_short_path() -> None:
    window = 40 * MDS
    cong = grown(window)
    cong.on_congestion_event(10.0, 9.9)
    curve = run(cong, 10.2, 0.5, 0.005, 4)
    # 100 round trips of Reno with alpha 0.53 (1 beyond the old window): far above the cubic curve
    cubic = C * (0.5 - (40 * 0.3 / C) ** (1 / 3)) ** 3 + 40
    assert curve[-1][1] / MDS > cubic + 20
    rises = [b - a for (_, a), (_, b) in zip(curve[::4], curve[4::4], strict=False)]
    assert max(rises) <= MDS + 4


def test_fast_convergence() -> None:
    cong = grown(1000 * MDS)
    cong.on_congestion_event(10.0, 9.9)
    run(cong, 10.2, 1.0, 0.1, 4)
    second = cong.cwnd
    assert second < 1000 * MDS
    cong.on_congestion_event(12.0, 11.9)
    curve = run(cong, 12.2, 8.0, 0.1, 4)
    # lost below the last maximum: the plateau is lower than where the loss was
    expected = second * (1 + BETA) / 2
    k = ((expected - second * BETA) / MDS / C) ** (1 / 3)
    plateau = [cwnd for now, cwnd in curve if abs(now - curve[0][0] - k) < 0.2]
    assert plateau[0] == pytest.approx(expected, rel=0.02)


def test_idle_time_is_not_growth() -> None:
    cong = grown(1000 * MDS)
    cong.on_congestion_event(10.0, 9.9)
    run(cong, 10.2, 1.0, 0.1, 4)
    before = cong.cwnd
    rtt = rtt_of(0.1)
    for step in range(600):
        cong.on_ack(12.0 + step / 10, MDS, 11.9 + step / 10, rtt, True)
    assert cong.cwnd == before
    curve = run(cong, 72.1, 0.5, 0.1, 4)
    assert curve[-1][1] < 1.2 * before


def test_growth_is_the_same_in_small_and_in_large_batches() -> None:
    ends = []
    for batches in (1, 10, 100):
        cong = grown(500 * MDS)
        cong.on_congestion_event(10.0, 9.9)
        ends.append(run(cong, 10.2, 5.0, 0.05, batches)[-1][1])
    assert max(ends) / min(ends) < 1.02


# --- HyStart++ ---------------------------------------------------------------------------------------


def slow_start_round(cong: Cubic, now: float, rtt_seconds: float, acks: int = 10) -> float:
    rtt = RttEstimator()
    step = rtt_seconds / acks
    sent = now
    for number in range(acks):
        rtt.update(rtt_seconds, 0.0, now)
        cong.on_ack(now + rtt_seconds + number * step, 10 * MDS, sent + number * step, rtt, False)
    return now + rtt_seconds


def test_steady_delay_keeps_slow_start() -> None:
    cong = Cubic(MDS)
    now = 0.0
    for _ in range(20):
        now = slow_start_round(cong, now, 0.05)
    assert cong.ssthresh == UNLIMITED
    assert cong.cwnd == 10 * MDS + 20 * 100 * MDS


def test_growing_delay_ends_slow_start_without_loss() -> None:
    cong = Cubic(MDS)
    now = 0.0
    delay = 0.05
    for _ in range(20):
        now = slow_start_round(cong, now, delay)
        delay += 0.008
    assert cong.ssthresh < UNLIMITED
    assert not cong.in_slow_start


def test_a_passing_delay_resumes_slow_start() -> None:
    cong = Cubic(MDS)
    now = 0.0
    for delay in (0.05, 0.05, 0.07, 0.07, 0.05, 0.05, 0.05, 0.05, 0.05, 0.05):
        now = slow_start_round(cong, now, delay)
    assert cong.ssthresh == UNLIMITED
