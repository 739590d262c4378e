"""Flow control credit (RFC 9000 §4)."""

from __future__ import annotations

from quicfs.transport.flow import ReceiveWindow, SendCredit


def test_renewed_when_half_is_used() -> None:
    window = ReceiveWindow(1000, 8000)
    assert window.limit == 1000
    assert not window.consume(499)
    assert window.consume(1)
    assert window.renew(10.0, 0.1) == 1500
    assert not window.consume(100)


def test_a_fast_reader_gets_a_larger_window() -> None:
    window = ReceiveWindow(1000, 3000)
    now = 10.0
    for expected in (1000, 2000, 3000, 3000):
        window.consume(window.window // 2)
        window.renew(now, 0.1)
        assert window.window == expected
        assert window.limit == window.consumed + expected
        now += 0.05


def test_a_slow_reader_does_not() -> None:
    window = ReceiveWindow(1000, 8000)
    for step in range(5):
        window.consume(500)
        window.renew(step * 0.3, 0.1)
    assert window.window == 1000


def test_limits_never_shrink() -> None:
    window = ReceiveWindow(1000, 8000)
    first = window.renew(0.0, 0.1)
    assert window.renew(5.0, 0.1) >= first


def test_send_credit() -> None:
    credit = SendCredit(100)
    credit.used = 60
    assert credit.available == 40
    assert not credit.raise_to(100)
    assert not credit.raise_to(50)
    assert credit.limit == 100
    assert credit.raise_to(200)
    assert credit.available == 140
