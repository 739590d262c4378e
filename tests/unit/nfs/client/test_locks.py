"""Ranges that an owner holds."""

from __future__ import annotations

import random

import pytest

from quicfs.nfs.client.locks import END, LockOwnerState, LockTable, check_range, length_of
from quicfs.nfs.v4.const import UINT64_MAX
from quicfs.vfs.api import LockKind
from quicfs.vfs.status import FsError, Status

S, X, U = LockKind.SHARED, LockKind.EXCLUSIVE, LockKind.UNLOCK


def test_ranges_split_and_change() -> None:
    state = LockOwnerState(b"o")
    state.remember(0, 100, X)
    state.remember(20, 30, S)
    state.remember(50, 60, U)
    assert sorted(state.ranges, key=lambda r: r[0]) == [
        (0, 20, X),
        (20, 30, S),
        (30, 50, X),
        (60, 100, X),
    ]
    state.remember(0, END, U)
    assert state.ranges == []


@pytest.mark.parametrize("seed", range(10))
def test_ranges_as_a_map_of_bytes(seed: int) -> None:
    dice = random.Random(seed)
    state, model = LockOwnerState(b"o"), dict.fromkeys(range(64), U)
    for _ in range(200):
        start = dice.randrange(60)
        end = dice.randrange(start + 1, 64)
        kind = dice.choice((S, X, U))
        state.remember(start, end, kind)
        model |= dict.fromkeys(range(start, end), kind)
        held = dict.fromkeys(range(64), U)
        for first, last, what in state.ranges:
            for place in range(first, last):
                assert held[place] is U
                held[place] = what
        assert held == model


def test_ranges_on_the_wire() -> None:
    assert check_range(5, 10) == 15 and length_of(5, 15) == 10
    for offset, length in ((5, 0), (5, (1 << 63) - 5), (5, 1 << 63)):
        assert length_of(offset, check_range(offset, length)) == UINT64_MAX
    for offset, length in ((-1, 1), (0, -1), (1 << 63, 1)):
        with pytest.raises(FsError) as caught:
            check_range(offset, length)
        assert caught.value.status is Status.INVALID


def test_lost_locks_are_known_until_their_owner_gives_them_back() -> None:
    table = LockTable(b"f")
    one, two = table.owner(1), table.owner(2)
    one.remember(0, 10, X)
    assert not table.lost and table.held == [one]
    table.lose()
    assert table.lost and one.lost and not two.lost and table.held == []
    assert one.name != two.name
