"""A bounded part of the soak: each seed is a connection's whole life on a bad network (see `soak`)."""

from __future__ import annotations

import pytest

from . import soak
from .wire import Wire, WireError

BLOCK = 20


@pytest.mark.parametrize("first", range(0, 160, BLOCK))
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
