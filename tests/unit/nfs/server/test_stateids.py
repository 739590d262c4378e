"""Stateids (RFC 8881 §8.2): sequence ids, tables per client, what was taken away."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from quicfs.nfs.server.files import FileState, HeldFile
from quicfs.nfs.server.stateids import ClientState, State, StateIdSource, check_seqid, is_special
from quicfs.nfs.v4.const import Nfs4Error, SeqStatus, Stat
from quicfs.nfs.v4.types import ANONYMOUS, CURRENT, INVALID, READ_BYPASS, StateId

TOP = 0xFFFFFFFF


class Thing(State):
    """A state that remembers that it was released."""

    released = 0

    def io(self, *, write: bool) -> HeldFile:
        raise Nfs4Error(Stat.OPENMODE)

    @property
    def holds(self) -> bool:
        return True

    async def release(self) -> None:
        self.released += 1


class Other(Thing):
    pass


@pytest.fixture
def files() -> Any:
    return SimpleNamespace(stateids=StateIdSource(b"\0\0\0\7"))


def client_of(files: Any) -> ClientState:
    return ClientState(SimpleNamespace(flags=0, name="test"), files)  # type: ignore[arg-type]


def file_of(files: Any, raw: bytes = b"handle") -> FileState:
    return FileState(files, raw)


def status_of(
    client: ClientState, stateid: StateId, kind: type[Thing] = Thing, raw: bytes = b"handle"
) -> Stat:
    try:
        client.find(stateid, kind, raw)
    except Nfs4Error as error:
        return error.status
    return Stat.OK


@pytest.mark.parametrize(
    ("sent", "current", "status"),
    [
        (5, 5, None),
        (0, 5, None),
        (4, 5, Stat.OLD_STATEID),
        (6, 5, Stat.BAD_STATEID),
        (TOP, 1, Stat.OLD_STATEID),  # they go round, leaving out 0
        (1, TOP, Stat.BAD_STATEID),
    ],
)
def test_sequence_ids(sent: int, current: int, status: Stat | None) -> None:
    if status is None:
        check_seqid(sent, current)
        return
    with pytest.raises(Nfs4Error) as caught:
        check_seqid(sent, current)
    assert caught.value.status is status


def test_a_sequence_id_is_never_zero(files: Any) -> None:
    thing = Thing(client_of(files), file_of(files))
    assert thing.stateid.seqid == 1
    thing.seqid = TOP
    assert thing.changed() == StateId(1, thing.other)


def test_each_client_has_a_table_of_its_own(files: Any) -> None:
    one, two = client_of(files), client_of(files)
    thing = Thing(one, file_of(files))
    assert thing.other[:4] == b"\0\0\0\7" and len(thing.other) == 12
    assert status_of(one, thing.stateid) is Stat.OK
    assert status_of(two, thing.stateid) is Stat.BAD_STATEID
    assert status_of(one, thing.stateid, Other) is Stat.BAD_STATEID
    assert status_of(one, thing.stateid, raw=b"another file") is Stat.BAD_STATEID
    assert one.any and not two.any
    one.forget(thing)
    assert status_of(one, thing.stateid) is Stat.BAD_STATEID
    assert not thing.live and not one.any


def test_what_was_taken_away_is_known_until_it_is_freed(files: Any) -> None:
    client = client_of(files)
    first, second = Thing(client, file_of(files)), Thing(client, file_of(files))

    async def main() -> None:
        await client.revoke(first, Stat.DELEG_REVOKED)
        await client.revoke(first, Stat.ADMIN_REVOKED)  # it is gone already
        await client.revoke(second, Stat.DELEG_REVOKED)

    asyncio.run(main())
    assert first.released == 1 and not first.live
    assert status_of(client, first.stateid) is Stat.DELEG_REVOKED
    assert client.test(first.stateid) is Stat.DELEG_REVOKED
    assert client.client.flags == SeqStatus.RECALLABLE_STATE_REVOKED
    client.forget(first)
    assert client.client.flags == SeqStatus.RECALLABLE_STATE_REVOKED
    client.forget(second)
    assert client.client.flags == 0


def test_everything_is_released_when_the_client_goes(files: Any) -> None:
    client = client_of(files)
    things = [Thing(client, file_of(files)) for _ in range(3)]

    async def main() -> None:
        await client.revoke(things[0], Stat.DELEG_REVOKED)
        await client.release_all()

    asyncio.run(main())
    assert [thing.released for thing in things] == [1, 1, 1]
    assert not client.any


def test_special_ones() -> None:
    assert all(map(is_special, (ANONYMOUS, READ_BYPASS, CURRENT, INVALID)))
    assert not is_special(StateId(0, b"\0" * 11 + b"\1"))
