"""Outcomes and names."""

from __future__ import annotations

import pytest

from quicfs.nfs.server.names import component
from quicfs.nfs.server.status import STATUS
from quicfs.nfs.v4.const import Nfs4Error, Stat
from quicfs.vfs.status import Status


def test_every_outcome_has_a_code() -> None:
    assert set(STATUS) == set(Status)


@pytest.mark.parametrize(
    ("name", "status"),
    [
        ("", Stat.INVAL),
        (".", Stat.BADNAME),
        ("..", Stat.BADNAME),
        ("a/b", Stat.BADCHAR),
        ("/", Stat.BADCHAR),
        ("a\0", Stat.BADCHAR),
        ("x" * 256, Stat.NAMETOOLONG),
        ("\u00e9" * 128, Stat.NAMETOOLONG),
    ],
)
def test_names_that_no_directory_has(name: str, status: Stat) -> None:
    with pytest.raises(Nfs4Error) as refused:
        component(name)
    assert refused.value.status is status


@pytest.mark.parametrize("name", ["a", "...", "x" * 255, "\u00e9" * 127, "\udcff", " "])
def test_names_that_may_be(name: str) -> None:
    assert component(name) == name
