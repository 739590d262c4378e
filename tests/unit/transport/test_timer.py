"""The table of timers."""

from __future__ import annotations

from quicfs.transport.timer import Timer, Timers


def test_earliest_deadline_counts() -> None:
    timers = Timers()
    assert timers.next() is None
    timers.set(Timer.IDLE, 30.0)
    timers.set(Timer.LOSS, 2.0)
    timers.set(Timer.PACING, 5.0)
    assert timers.next() == 2.0
    timers.set(Timer.LOSS, None)
    assert timers.next() == 5.0


def test_expired_ones_are_off() -> None:
    timers = Timers()
    timers.set(Timer.LOSS, 2.0)
    timers.set(Timer.ACK_DELAY, 2.0)
    timers.set(Timer.IDLE, 30.0)
    assert timers.expired(1.9) == []
    assert timers.expired(2.0) == [Timer.LOSS, Timer.ACK_DELAY]
    assert timers.expired(2.0) == []
    assert timers.next() == 30.0
    timers.clear()
    assert timers.next() is None
