"""Opens against a real server, in memory and in virtual time (RFC 8881 §9, §18.2, §18.16, §18.18)."""

from __future__ import annotations

from pathlib import Path

from quicfs.nfs.v4.const import Op, StableHow, Stat
from quicfs.nfs.v4.operations_open import CloseArgs
from tests.sim.nfs_files import (
    BOTH,
    READ,
    WRITE,
    close,
    commit,
    made,
    open_named,
    opened,
    read,
    read_op,
    refused,
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

    run(main())
