"""Pacing: the long-term rate, the burst, and no cost on short paths."""

from __future__ import annotations

import pytest

from quicfs.transport.cong import initial_window
from quicfs.transport.pacer import BURST_TIME, GAIN, SLOW_START_GAIN, Pacer


def drain(
    pacer: Pacer, start: float, seconds: float, cwnd: int, rtt: float, slow_start: bool
) -> tuple[int, int]:
    """Send whatever the pacer lets out, waking when it says; bytes and wake-ups."""
    now = start
    sent = wakeups = 0
    while now < start + seconds:
        size = pacer.budget(now, cwnd, rtt, slow_start)
        assert size > 0
        pacer.on_sent(now, size)
        sent += size
        wakeups += 1
        wake = pacer.next_send_time(now, cwnd, rtt, slow_start)
        assert wake > now
        now = wake
    return sent, wakeups


@pytest.mark.parametrize(("slow_start", "gain"), [(False, GAIN), (True, SLOW_START_GAIN)])
@pytest.mark.parametrize("rtt", [0.01, 0.05, 0.3])
def test_rate(rtt: float, slow_start: bool, gain: float) -> None:
    cwnd = 2_000_000
    pacer = Pacer(1200)
    sent, wakeups = drain(pacer, 5.0, 10.0, cwnd, rtt, slow_start)
    assert sent == pytest.approx(gain * cwnd / rtt * 10, rel=0.02)
    assert wakeups < 10_100 + sent / 65_000  # about one per millisecond, or per train


def test_first_burst_is_the_initial_window() -> None:
    pacer = Pacer(1200)
    assert pacer.budget(0.0, 12_000, 0.333, True) == initial_window(1200)
    pacer.on_sent(0.0, 12_000)
    assert pacer.budget(0.0, 12_000, 0.333, True) == 0


def test_idleness_is_not_saved_up() -> None:
    pacer = Pacer(1200)
    pacer.budget(0.0, 1_000_000, 0.1, False)
    assert pacer.budget(1000.0, 1_000_000, 0.1, False) == max(12_000, int(1_250_000 / 0.1 * BURST_TIME))


def test_a_late_timer_costs_nothing() -> None:
    pacer = Pacer(1200)
    cwnd, rtt = 10_000_000, 0.02
    now = 0.0
    sent = 0
    while now < 1.0:
        size = pacer.budget(now, cwnd, rtt, False)
        pacer.on_sent(now, size)
        sent += size
        now = max(pacer.next_send_time(now, cwnd, rtt, False), now) + 0.001
    assert sent == pytest.approx(GAIN * cwnd / rtt, rel=0.02)


@pytest.mark.parametrize("rtt", [0.00005, 0.0005, 0.001, 0.002])
def test_out_of_the_way_on_short_paths(rtt: float) -> None:
    """A whole window is always there after one round trip with the timer's lateness."""
    pacer = Pacer(1472)
    cwnd = 1_000_000
    now = 1.0
    for _ in range(100):
        assert pacer.budget(now, cwnd, rtt, False) >= cwnd
        pacer.on_sent(now, cwnd)
        now += max(rtt, 0.001)


def test_debt_is_paid_back() -> None:
    pacer = Pacer(1200)
    pacer.budget(0.0, 120_000, 0.1, False)
    pacer.on_sent(0.0, 72_000)
    assert pacer.next_send_time(0.0, 120_000, 0.1, False) == pytest.approx(
        (72_000 - 12_000 + 1500) / 1_500_000, rel=0.02
    )


def test_a_slow_path_gets_its_datagram() -> None:
    pacer = Pacer(1200)
    drain(pacer, 0.0, 60.0, 2400, 0.5, False)
    now = pacer.next_send_time(60.0, 2400, 0.5, False)
    assert pacer.budget(now, 2400, 0.5, False) >= 1199
