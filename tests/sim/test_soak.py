"""A bounded part of the soak: each seed is a connection's whole life on a bad network (see `soak`)."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import pytest

from quicfs.transport import limits
from quicfs.transport.acks import ReceivedPackets
from quicfs.transport.flow import SendCredit
from quicfs.transport.recovery import Recovery
from quicfs.transport.stream import SendPart
from quicfs.transport.timer import Timer, Timers

from . import soak
from .wire import Wire, WireError

BLOCK = 20


@pytest.mark.parametrize("first", range(0, 240, BLOCK))
def test_seeds(first: int) -> None:
    for seed in range(first, first + BLOCK):
        try:
            soak.run_seed(seed)
        except AssertionError as error:
            error.add_note(f"again, with every packet: python -m tests.sim.soak --seed {seed} -v")
            raise


def test_a_seed_repeats_itself() -> None:
    told: list[list[str]] = [[], []]
    for lines in told:
        soak.run_seed(7, lines.append)
    assert told[0] == told[1]
    assert any("STREAM" in line for line in told[0])


def test_a_failing_seed_is_named(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def refuse(wire: Wire, side: int, data: bytes) -> None:
        raise WireError("this must not be")

    assert soak.main(["--seeds", "3-4"]) == 0
    assert "2 passed, 0 failed" in capsys.readouterr().err
    monkeypatch.setattr(Wire, "sent", refuse)
    assert soak.main(["--seed", "3"]) == 1
    assert "seed 3 failed: WireError: this must not be" in capsys.readouterr().err


# --- the soak finds what it is there for


def _amplify(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(limits, "AMPLIFICATION_FACTOR", 6)


def _overdraw(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(SendCredit, "available", property(lambda credit: credit.limit - credit.used + 3000))


def _overshoot(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(
        Recovery, "window", property(lambda recovery: recovery.cong.cwnd - recovery.bytes_in_flight + 3000)
    )


def _forget_pacing(patch: pytest.MonkeyPatch) -> None:
    _forget(patch, Timer.PACING)


def _forget_loss(patch: pytest.MonkeyPatch) -> None:
    _forget(patch, Timer.LOSS)


def _forget(patch: pytest.MonkeyPatch, forgotten: Timer) -> None:
    set_timer = Timers.set

    def change(timers: Timers, timer: Timer, deadline: float | None) -> None:
        set_timer(timers, timer, None if timer is forgotten else deadline)

    patch.setattr(Timers, "set", change)


def _forget_losses(patch: pytest.MonkeyPatch) -> None:
    """One in five."""
    on_lost = SendPart.on_lost
    count = itertools.count(1)

    def change(part: SendPart, start: int, stop: int, fin: bool) -> None:
        if next(count) % 5:
            on_lost(part, start, stop, fin)

    patch.setattr(SendPart, "on_lost", change)


def _acknowledge_too_much(patch: pytest.MonkeyPatch) -> None:
    descending = ReceivedPackets.descending

    def change(received: ReceivedPackets) -> list[tuple[int, int]]:
        ranges = descending(received)
        return [*ranges[:-1], (0, ranges[-1][1])] if ranges else ranges

    patch.setattr(ReceivedPackets, "descending", change)


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (_amplify, "the server sent"),
        (_overdraw, "the limit is"),
        (_overshoot, "the window is"),
        (_forget_pacing, "has data and sleeps"),
        (_forget_loss, "should act at"),
        (_forget_losses, "nothing is going to happen|not done after|idle timeout"),
        (_acknowledge_too_much, "of which not all arrived"),
    ],
)
def test_damage_is_found(
    damage: Callable[[pytest.MonkeyPatch], None], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    damage(monkeypatch)
    with pytest.raises(AssertionError, match=said):
        for seed in range(60):
            soak.run_seed(seed)
