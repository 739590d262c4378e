"""Every status of a server means something."""

from __future__ import annotations

import pytest

from quicfs.nfs.client.status import LOST_STATE, fs_error, status_of
from quicfs.nfs.v4.const import Nfs4Error, Stat
from quicfs.vfs.status import Status


@pytest.mark.parametrize("stat", [stat for stat in Stat if stat is not Stat.OK])
def test_every_status_makes_an_error_of_the_contract(stat: Stat) -> None:
    error = fs_error(Nfs4Error(stat), "/a")
    assert "/a" in str(error)
    if status_of(stat) is Status.IO and stat is not Stat.IO:
        assert stat.name in str(error)  # so that a person can look it up


def test_what_programs_rely_on() -> None:
    for stat, status in (
        (Stat.NOENT, Status.NOT_FOUND),
        (Stat.EXIST, Status.EXISTS),
        (Stat.NOTEMPTY, Status.NOT_EMPTY),
        (Stat.DENIED, Status.LOCKED),
        (Stat.NOXATTR, Status.NO_DATA),
        (Stat.FHEXPIRED, Status.STALE),
    ):
        assert status_of(stat) is status
    assert Stat.STALE not in LOST_STATE
