"""Byte-range locks against a model that knows the owner of each single byte."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quicfs.nfs.server.lock_table import END, LockRange, LockTable

SIZE = 24
OWNERS = ("a", "b", "c")

steps = st.lists(
    st.tuples(
        st.sampled_from(("lock", "unlock", "remove")),
        st.sampled_from(OWNERS),
        st.integers(0, SIZE - 1),
        st.integers(1, SIZE),
        st.booleans(),
    ),
    max_size=40,
)


class Model:
    """Each byte: who holds it, and whether exclusively."""

    def __init__(self) -> None:
        self.bytes: list[dict[str, bool]] = [{} for _ in range(SIZE)]

    def conflicts(self, owner: str, span: range, *, exclusive: bool) -> bool:
        return any(
            exclusive or held for at in span for other, held in self.bytes[at].items() if other != owner
        )

    def ranges(self, owner: str) -> list[LockRange]:
        found: list[LockRange] = []
        for at, held in enumerate(self.bytes):
            if owner not in held:
                continue
            if found and found[-1].end == at and found[-1].exclusive == held[owner]:
                found[-1] = found[-1]._replace(end=at + 1)
            else:
                found.append(LockRange(at, at + 1, held[owner]))
        return found


@given(steps)
def test_as_the_model(steps: list[tuple[str, str, int, int, bool]]) -> None:
    table, model = LockTable(), Model()
    for what, owner, start, length, exclusive in steps:
        end = min(start + length, SIZE)
        span = range(start, end)
        if what == "lock":
            conflict = table.conflict(owner, start, end, exclusive=exclusive)
            assert (conflict is not None) == model.conflicts(owner, span, exclusive=exclusive)
            if conflict is not None:
                held = conflict.range
                assert conflict.owner != owner and held.start < end and start < held.end
                assert exclusive or held.exclusive
                assert held in model.ranges(str(conflict.owner))
                continue
            table.lock(owner, start, end, exclusive=exclusive)
            for at in span:
                model.bytes[at][owner] = exclusive
        elif what == "unlock":
            assert table.unlock(owner, start, end) == any(owner in model.bytes[at] for at in span)
            for at in span:
                model.bytes[at].pop(owner, None)
        else:
            assert table.remove(owner) == bool(model.ranges(owner))
            for held_here in model.bytes:
                held_here.pop(owner, None)
        for one in OWNERS:
            assert table.ranges(one) == model.ranges(one)
            assert table.count(one) == len(model.ranges(one))
            assert table.overlaps(one, start, end) == any(one in model.bytes[at] for at in span)
    assert bool(table) == any(model.bytes)


def test_up_to_the_end_of_all_files() -> None:
    table = LockTable()
    table.lock("a", END - 1, END, exclusive=True)
    assert table.conflict("b", 0, END, exclusive=False) == ("a", (END - 1, END, True))
    assert table.conflict("b", 0, END - 1, exclusive=True) is None


@pytest.mark.parametrize("exclusive", [True, False])
def test_a_range_changes_its_kind_in_the_middle(exclusive: bool) -> None:
    table = LockTable()
    table.lock("a", 0, 30, exclusive=exclusive)
    table.lock("a", 10, 20, exclusive=not exclusive)
    assert table.ranges("a") == [(0, 10, exclusive), (10, 20, not exclusive), (20, 30, exclusive)]
    table.lock("a", 10, 20, exclusive=exclusive)
    assert table.ranges("a") == [(0, 30, exclusive)]


def test_what_is_handed_out_is_a_copy() -> None:
    table = LockTable()
    table.lock("a", 0, 10, exclusive=True)
    table.ranges("a").clear()
    assert table.count("a") == 1
