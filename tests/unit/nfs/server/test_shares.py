"""Share reservations (RFC 8881 §9.7, §18.18) against a model that remembers every OPEN."""

from __future__ import annotations

from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quicfs.nfs.server.shares import ShareTable
from quicfs.nfs.v4.const import Nfs4Error, Stat

OWNERS = ("a", "b", "c")
READ, WRITE, BOTH = 1, 2, 3

steps = st.lists(
    st.tuples(
        st.sampled_from(("open", "open", "downgrade", "close")),
        st.sampled_from(OWNERS),
        st.integers(1, 3),
        st.integers(0, 3),
    ),
    max_size=40,
)


def unions(values: list[int]) -> set[int]:
    found = set()
    for count in range(len(values) + 1):
        for some in combinations(values, count):
            union = 0
            for one in some:
                union |= one
            found.add(union)
    return found


@given(steps)
def test_as_the_model(steps: list[tuple[str, str, int, int]]) -> None:
    table = ShareTable()
    opens: dict[str, list[tuple[int, int]]] = {}
    for what, owner, access, deny in steps:
        if what == "open":
            blocking = {
                other
                for other, theirs in opens.items()
                if other != owner and any(d & access or a & deny for a, d in theirs)
            }
            assert set(table.conflicts(owner, access, deny)) == blocking
            if blocking:
                with pytest.raises(Nfs4Error) as caught:
                    table.add(owner, access, deny)
                assert caught.value.status is Stat.SHARE_DENIED
            else:
                table.add(owner, access, deny)
                opens.setdefault(owner, []).append((access, deny))
        elif what == "downgrade" and owner in opens:
            mine = opens[owner]
            below = [(a, d) for a, d in mine if not a & ~access]
            possible = access in unions(list({a for a, _ in mine})) and deny in unions(
                list({d for _, d in mine})
            )
            if possible:
                table.downgrade(owner, access, deny)
                # From here on the OPENs behind it are those that the reservation still covers.
                accesses = {a for a, _ in below}
                denied = {d for _, d in mine if not d & ~deny} | {0}
                opens[owner] = [(a, d) for a in accesses for d in denied]
            else:
                before = table.held(owner)
                with pytest.raises(Nfs4Error) as caught:
                    table.downgrade(owner, access, deny)
                assert caught.value.status is Stat.INVAL
                assert table.held(owner) == before
        elif what == "close":
            table.remove(owner)
            opens.pop(owner, None)
        for one in OWNERS:
            access_held = deny_held = 0
            for a, d in opens.get(one, []):
                access_held |= a
                deny_held |= d
            assert table.held(one) == (access_held, deny_held)
        for bits in (READ, WRITE, BOTH):
            assert set(table.deniers(bits)) == {
                one for one, theirs in opens.items() if any(d & bits for _, d in theirs)
            }
    assert bool(table) == bool(opens)


def test_a_downgrade_to_nothing_is_no_downgrade() -> None:
    table = ShareTable()
    table.add("a", BOTH, 0)
    for access, deny in ((0, 0), (READ, 0), (BOTH, WRITE)):
        with pytest.raises(Nfs4Error):
            table.downgrade("a", access, deny)
    assert table.held("a") == (BOTH, 0)


def test_what_was_denied_is_free_after_a_downgrade() -> None:
    table = ShareTable()
    table.add("a", READ, 0)
    table.add("a", WRITE, READ)
    with pytest.raises(Nfs4Error):
        table.add("b", READ, 0)
    table.downgrade("a", READ, 0)
    table.add("b", READ, WRITE)
    assert table.held("b") == (READ, WRITE)


def test_nonsense_is_the_callers_fault() -> None:
    with pytest.raises(ValueError, match="access"):
        ShareTable().add("a", 0, 0)
