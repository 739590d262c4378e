"""Opens against a real server, in memory and in virtual time (RFC 8881 §8.2, §9, §18.2, §18.16, §18.18)."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from quicfs.nfs.server.exports import Export
from quicfs.nfs.v4.attributes import Attribute, bitmap
from quicfs.nfs.v4.const import CreateMode, DelegationType, Op, ShareAccess, StableHow, Stat
from quicfs.nfs.v4.operations_files import PutfhArgs
from quicfs.nfs.v4.operations_io import ReadArgs
from quicfs.nfs.v4.operations_open import (
    ClaimDelegatePrev,
    ClaimFh,
    ClaimNull,
    ClaimPrevious,
    CloseArgs,
    CreateHow,
)
from quicfs.nfs.v4.operations_sessions import FreeStateidArgs
from quicfs.nfs.v4.operations_sessions import TestStateidArgs as ProbeArgs
from quicfs.nfs.v4.types import ANONYMOUS, CURRENT, INVALID, READ_BYPASS, StateId
from quicfs.vfs.local import LocalTree
from tests.sim.nfs_files import (
    BOTH,
    READ,
    ROOT,
    WRITE,
    close,
    commit,
    downgrade_op,
    guarded,
    made,
    named,
    open_args,
    open_named,
    opened,
    read,
    read_op,
    refused,
    remove_op,
    reopened,
    unchecked,
    write,
    write_op,
)
from tests.sim.nfs_rig import Rig
from tests.sim.virtual_loop import run


def test_a_file_is_made_written_and_read(tmp_path: Path) -> None:
    async def main() -> None:
        async with Rig(tmp_path) as rig:
            client = await rig.client()
            file = await made(client, "a")
            first = await write(client, file, b"hello ")
            second = await write(client, file, b"world", 6, StableHow.FILE_SYNC)
            assert (first.count, second.count, second.committed) == (6, 5, StableHow.FILE_SYNC)
            assert first.writeverf == second.writeverf == await commit(client, file)
            assert await read(client, file) == (True, b"hello world")
            assert await read(client, file, 0, 5) == (False, b"hello")
            assert await read(client, file, 6, 5) == (True, b"world")
            assert await read(client, file, 1 << 63) == (True, b"")
            assert await read(client, file, 3, 0) == (False, b"")
            assert await refused(client, file.put, write_op(file.stateid, b"x", (1 << 63) - 1)) is Stat.FBIG
            await close(client, file)
            assert await refused(client, file.put, read_op(file.stateid)) is Stat.BAD_STATEID
            assert await refused(client, file.put, (Op.CLOSE, CloseArgs(0, file.stateid))) is Stat.BAD_STATEID
            assert rig.server is not None and len(rig.server.files) == 0
        assert (rig.tree / "a").read_bytes() == b"hello world"

    run(main())


def test_share_reservations_hold_between_owners(tmp_path: Path) -> None:
    async def main() -> None:
        async with Rig(tmp_path) as rig:
            one, two = await rig.client(b"one"), await rig.client(b"two")
            file = await made(one, "a", WRITE, deny=READ)
            assert await refused(two, *open_named("a", READ)) is Stat.SHARE_DENIED
            assert await refused(one, *open_named("a", READ, owner=b"other")) is Stat.SHARE_DENIED
            other = await opened(two, "a", WRITE)
            assert await refused(two, *open_named("a", READ)) is Stat.SHARE_DENIED
            assert await refused(two, *open_named("a", WRITE, deny=WRITE, owner=b"x")) is Stat.SHARE_DENIED
            await close(one, file)
            await opened(two, "a", READ)
            await close(two, other)

    run(main())


def test_a_second_open_adds_to_the_first(tmp_path: Path) -> None:
    async def main() -> None:
        async with Rig(tmp_path) as rig:
            client = await rig.client()
            (rig.tree / "a").write_bytes(b"old")
            first = await opened(client, "a", READ)
            assert await refused(client, first.put, write_op(first.stateid, b"x")) is Stat.OPENMODE
            second = await opened(client, "a", WRITE)
            assert second.stateid.other == first.stateid.other
            assert second.stateid.seqid == first.stateid.seqid + 1
            assert await refused(client, first.put, write_op(first.stateid, b"x")) is Stat.OLD_STATEID
            await write(client, second, b"new")
            assert await read(client, second) == (True, b"new")
            again = await opened(client, "a", BOTH)
            assert again.stateid.seqid == 3
            result = (await client.do(again.put, downgrade_op(again.stateid, READ)))[1]
            assert result.value.stateid.seqid == 4
            assert await refused(client, again.put, write_op(result.value.stateid, b"x")) is Stat.OPENMODE
            # What READ alone is the union of was there; WRITE is not any more.
            assert await refused(client, again.put, downgrade_op(result.value.stateid, WRITE)) is Stat.INVAL

    run(main())


def test_stateids_are_refused_as_the_rfc_says(tmp_path: Path) -> None:
    async def main() -> None:
        async with Rig(tmp_path) as rig:
            one, two = await rig.client(b"one"), await rig.client(b"two")
            file, other = await made(one, "a"), await made(one, "b")
            theirs = await made(two, "c")
            seqid, name = file.stateid.seqid, file.stateid.other
            cases = {
                StateId(seqid + 1, name): Stat.BAD_STATEID,  # §8.2.4: from the future
                StateId(seqid, b"\1" * 12): Stat.BAD_STATEID,
                StateId(seqid, name[:4] + b"\xff" * 8): Stat.BAD_STATEID,
                theirs.stateid: Stat.BAD_STATEID,  # another client's
                other.stateid: Stat.BAD_STATEID,  # another file's
                INVALID: Stat.BAD_STATEID,
                CURRENT: Stat.BAD_STATEID,  # PUTFH leaves none
                StateId(7, bytes(12)): Stat.BAD_STATEID,
                StateId(7, b"\xff" * 12): Stat.BAD_STATEID,
            }
            for stateid, status in cases.items():
                assert await refused(one, file.put, read_op(stateid)) is status, stateid
                assert await refused(one, file.put, (Op.CLOSE, CloseArgs(0, stateid))) is status, stateid
            await one.do(file.put, read_op(StateId(0, name)))  # whatever is current
            probes = [file.stateid, StateId(seqid + 1, name), theirs.stateid, ANONYMOUS, StateId(0, name)]
            (result,) = await one.do((Op.TEST_STATEID, ProbeArgs(probes)))
            assert result.value.status_codes == [
                Stat.OK, Stat.BAD_STATEID, Stat.BAD_STATEID, Stat.BAD_STATEID, Stat.OK,
            ]  # fmt: skip
            assert await refused(one, (Op.FREE_STATEID, FreeStateidArgs(file.stateid))) is Stat.LOCKS_HELD
            assert await refused(one, (Op.FREE_STATEID, FreeStateidArgs(theirs.stateid))) is Stat.BAD_STATEID

    run(main())


def test_the_current_stateid(tmp_path: Path) -> None:
    async def main() -> None:
        async with Rig(tmp_path) as rig:
            client = await rig.client()
            results = await client.do(
                *ROOT,
                open_args(ClaimNull("a"), how=unchecked(mode=0o600)),
                write_op(CURRENT, b"data", 0, StableHow.FILE_SYNC),
                (Op.READ, ReadArgs(CURRENT, 0, 100)),
                (Op.CLOSE, CloseArgs(0, CURRENT)),
            )
            assert bytes(results[-2].value.data) == b"data"
            assert results[-1].value.stateid == INVALID
            assert rig.server is not None and len(rig.server.files) == 0

    run(main())


def test_special_stateids_and_what_opens_deny(tmp_path: Path) -> None:
    async def main() -> None:
        async with Rig(tmp_path) as rig:
            one, two = await rig.client(b"one"), await rig.client(b"two")
            file = await made(one, "a")
            await write(one, file, b"data")
            results = await two.do(file.put, read_op(ANONYMOUS), write_op(ANONYMOUS, b"D"))
            assert bytes(results[1].value.data) == b"data"
            await close(one, file)
            file = await opened(one, "a", READ, deny=BOTH)
            assert await refused(two, file.put, read_op(ANONYMOUS)) is Stat.LOCKED
            assert await refused(two, file.put, write_op(ANONYMOUS, b"x")) is Stat.LOCKED
            assert await refused(two, file.put, write_op(READ_BYPASS, b"x")) is Stat.LOCKED
            results = await two.do(file.put, read_op(READ_BYPASS))
            assert bytes(results[1].value.data) == b"Data"

    run(main())


def test_ways_to_make_a_file(tmp_path: Path) -> None:
    async def main() -> None:
        async with Rig(tmp_path) as rig:
            client = await rig.client()
            file = await made(client, "a")
            assert file.result.attrset == 1 << Attribute.MODE
            assert file.result.cinfo.before != file.result.cinfo.after
            await write(client, file, b"data")
            again = await opened(client, "a", how=unchecked(mode=0o600))
            assert again.result.attrset == 0 and (await read(client, again))[1] == b"data"
            emptied = await opened(client, "a", how=unchecked(size=0, mode=0o600))
            assert emptied.result.attrset == 1 << Attribute.SIZE and (await read(client, emptied))[1] == b""
            assert (rig.tree / "a").stat().st_mode & 0o7777 == 0o644
            assert await refused(client, *open_named("a", READ, how=unchecked(size=0))) is Stat.INVAL
            assert await refused(client, *open_named("a", how=guarded(mode=0o600))) is Stat.EXIST
            sized = await opened(client, "b", how=guarded(size=100, mode=0o400))
            assert (rig.tree / "b").stat().st_size == 100
            await write(client, sized, b"by the one who made it")

    run(main())


@pytest.mark.parametrize("mode", [CreateMode.EXCLUSIVE, CreateMode.EXCLUSIVE4_1])
def test_an_exclusive_create_is_recognised_after_a_restart(tmp_path: Path, mode: CreateMode) -> None:
    times = bitmap((Attribute.TIME_ACCESS_SET, Attribute.TIME_MODIFY_SET))

    def how(verifier: bytes) -> CreateHow:
        attrs = named({"mode": 0o640}) if mode is CreateMode.EXCLUSIVE4_1 else {}
        return CreateHow(mode, attrs, verifier)

    async def main() -> None:
        async with Rig(tmp_path) as rig:
            client = await rig.client()
            file = await opened(client, "a", how=how(b"\xffonce up"))
            assert file.result.attrset & times == times
            assert bool(file.result.attrset & 1 << Attribute.MODE) == (mode is CreateMode.EXCLUSIVE4_1)
            await rig.kill()
            await rig.restart()
            client = await rig.client()
            again = await opened(client, "a", how=how(b"\xffonce up"))
            assert again.fh == file.fh
            assert await refused(client, *open_named("a", how=how(b"on a ti."))) is Stat.EXIST
            await write(client, again, b"x")
            assert await refused(client, *open_named("a", how=how(b"\xffonce up"))) is Stat.EXIST
            expected = 0o640 if mode is CreateMode.EXCLUSIVE4_1 else 0o600
            assert (rig.tree / "a").stat().st_mode & 0o7777 == expected

    run(main())


def test_attributes_that_an_exclusive_create_cannot_have(tmp_path: Path) -> None:
    async def main() -> None:
        async with Rig(tmp_path) as rig:
            client = await rig.client()
            how = CreateHow(CreateMode.EXCLUSIVE4_1, named({"time_modify_set": 5}), b"verifier")
            assert await refused(client, *open_named("a", how=how)) is Stat.INVAL
            assert os.listdir(rig.tree) == []

    run(main())


def test_a_file_that_cannot_be_given_its_attributes_is_not_left_behind(tmp_path: Path) -> None:
    async def main() -> None:
        async with Rig(tmp_path) as rig:
            (rig.tree).chmod(0o777)
            client = await rig.client(uid=1000)
            assert await refused(client, *open_named("a", how=guarded(owner="0"))) is Stat.PERM
            assert os.listdir(rig.tree) == []
            assert rig.server is not None and len(rig.server.files) == 0

    run(main())


def test_only_regular_files_are_opened(tmp_path: Path) -> None:
    async def main() -> None:
        async with Rig(tmp_path) as rig:
            client = await rig.client()
            (rig.tree / "dir").mkdir()
            (rig.tree / "link").symlink_to("dir")
            os.mkfifo(rig.tree / "fifo")
            (rig.tree / "file").touch()
            assert await refused(client, *open_named("dir")) is Stat.ISDIR
            assert await refused(client, *open_named("link")) is Stat.SYMLINK
            assert await refused(client, *open_named("fifo")) is Stat.WRONG_TYPE
            assert await refused(client, *open_named("dir", how=unchecked())) is Stat.ISDIR
            assert await refused(client, *open_named("dir", how=guarded())) is Stat.EXIST
            assert await refused(client, *open_named("missing")) is Stat.NOENT
            assert await refused(client, *open_named("..")) is Stat.BADNAME
            assert await refused(client, *open_named("")) is Stat.INVAL
            file = await opened(client, "file")
            assert await refused(client, file.put, open_args(ClaimNull("x"))) is Stat.NOTDIR
            assert await refused(client, (Op.PUTROOTFH, None), open_args(ClaimNull("export"))) is Stat.ISDIR
            how = unchecked()
            assert (
                await refused(client, (Op.PUTROOTFH, None), open_args(ClaimNull("new"), how=how)) is Stat.ROFS
            )

    run(main())


def test_what_makes_no_sense(tmp_path: Path) -> None:
    async def main() -> None:
        async with Rig(tmp_path) as rig:
            client = await rig.client()
            file = await made(client, "a")
            assert await refused(client, *open_named("a", 0)) is Stat.INVAL
            assert await refused(client, *open_named("a", READ, deny=4)) is Stat.INVAL
            assert await refused(client, *open_named("a", READ | 0x8000000)) is Stat.INVAL
            assert await refused(client, *open_named("a", READ, want=0x0600)) is Stat.INVAL
            assert await refused(client, file.put, open_args(ClaimFh(), how=unchecked())) is Stat.INVAL
            assert await refused(client, *ROOT, open_args(ClaimDelegatePrev("a"))) is Stat.NOTSUPP
            claim = ClaimPrevious(DelegationType.NONE)
            assert await refused(client, file.put, open_args(claim)) is Stat.NO_GRACE
            assert await refused(client, open_args(ClaimFh())) is Stat.NOFILEHANDLE
            assert await refused(client, *ROOT, open_args(ClaimFh())) is Stat.ISDIR
            assert await refused(client, *open_named("a", how=unchecked(size=1 << 63))) is Stat.FBIG
            assert await refused(client, *open_named("a", how=guarded(type=1))) is Stat.INVAL

    run(main())


def test_rights_are_the_callers_when_it_opens(tmp_path: Path) -> None:
    async def main() -> None:
        async with Rig(tmp_path) as rig:
            rig.tree.chmod(0o777)
            user, other = await rig.client(b"user", uid=1000), await rig.client(b"other", uid=1001)
            file = await made(user, "a")
            (rig.tree / "a").chmod(0o400)
            # What is open stays so; and its owner may open it again by its handle (§18.16.3).
            await write(user, file, b"data")
            assert await refused(user, *open_named("a", WRITE)) is Stat.ACCESS
            again = await reopened(user, file, ClaimFh(), WRITE, owner=b"again")
            await write(user, again, b"DATA")
            assert await refused(other, file.put, open_args(ClaimFh(), READ)) is Stat.ACCESS
            assert await refused(other, file.put, read_op(ANONYMOUS)) is Stat.ACCESS
            (rig.tree / "a").chmod(0o222)
            # For writing alone: reading would need the right to.
            mine = await opened(other, "a", WRITE)
            await write(other, mine, b"!")
            assert await refused(other, mine.put, read_op(mine.stateid)) is Stat.OPENMODE

    run(main())


def test_a_read_only_export(tmp_path: Path) -> None:
    async def main() -> None:
        (tmp_path / "tree").mkdir()
        (tmp_path / "tree" / "a").write_bytes(b"data")
        tree = LocalTree(tmp_path / "tree", read_only=True)
        async with Rig(tmp_path, exports=[Export("/export", tree, read_only=True)]) as rig:
            client = await rig.client()
            file = await opened(client, "a", READ)
            assert (await read(client, file))[1] == b"data"
            assert await refused(client, *open_named("a", WRITE)) is Stat.ROFS
            assert await refused(client, *open_named("b", how=unchecked())) is Stat.ROFS
            assert await refused(client, file.put, write_op(ANONYMOUS, b"x")) is Stat.ROFS
        await tree.close()

    run(main())


def test_an_open_file_outlives_its_name(tmp_path: Path) -> None:
    async def main() -> None:
        async with Rig(tmp_path) as rig:
            one, two = await rig.client(b"one"), await rig.client(b"two")
            file = await made(one, "a")
            await write(one, file, b"data")
            await two.do(*ROOT, remove_op("a"))
            assert (await read(one, file))[1] == b"data"
            await write(one, file, b"more", 4)
            await commit(one, file)
            await close(one, file)
            assert await refused(one, (Op.PUTFH, PutfhArgs(file.fh))) is Stat.STALE

    run(main())


def test_nothing_stays_open_when_a_client_ends(tmp_path: Path) -> None:
    async def main() -> None:
        async with Rig(tmp_path) as rig:
            before = len(os.listdir("/proc/self/fd"))
            client = await rig.client()
            for number in range(20):
                await made(client, f"file-{number}", owner=b"%d" % (number % 3))
            assert rig.server is not None and len(rig.server.files) == 20
            # The same client, started anew (§18.35.4, case 5).
            await rig.client(verifier=b"another!")
            assert len(rig.server.files) == 0
            assert len(os.listdir("/proc/self/fd")) <= before + 2

    run(main())


def test_a_client_that_has_not_said_that_it_is_done_reclaiming_gets_nothing_new(tmp_path: Path) -> None:
    async def main() -> None:
        async with Rig(tmp_path) as rig:
            (rig.tree / "a").touch()
            from tests.sim.nfs_rig import RawClient

            client = RawClient(rig, b"hasty")
            await client.establish(reclaim_complete=False)
            assert await refused(client, *open_named("a")) is Stat.GRACE
            await client.reclaim_complete()
            await opened(client, "a")

    run(main())


def test_wishes_about_delegations_are_no_access_bits(tmp_path: Path) -> None:
    async def main() -> None:
        async with Rig(tmp_path) as rig:
            client = await rig.client()
            want = ShareAccess.WANT_NO_DELEG | ShareAccess.WANT_PUSH_DELEG_WHEN_UNCONTENDED
            file = await made(client, "a", want=want)
            assert await refused(client, file.put, downgrade_op(file.stateid, BOTH, deny=READ)) is Stat.INVAL

    run(main())
