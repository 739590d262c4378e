"""Extended attributes, and ranges of files inside the server."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from quicfs.nfs.v4.const import DataContent, Op, SetxattrOption, StableHow, Stat
from quicfs.nfs.v4.operations_directories import LookupArgs
from quicfs.nfs.v4.operations_io import (
    AllocateArgs,
    CloneArgs,
    CopyArgs,
    Data,
    DeallocateArgs,
    Hole,
    IoAdviseArgs,
    ReadPlusArgs,
    SeekArgs,
)
from quicfs.nfs.v4.operations_xattr import (
    GetxattrArgs,
    ListxattrsArgs,
    RemovexattrArgs,
    SetxattrArgs,
)
from quicfs.nfs.v4.types import ANONYMOUS, INVALID, NetAddr, NetlocAddr
from tests.sim import virtual_loop
from tests.sim.nfs_rig import Operation, RawClient, Rig

MIB = 1 << 20
SAVEFH: Operation = (Op.SAVEFH, None)


def file(name: str) -> list[Operation]:
    return [(Op.PUTROOTFH, None), (Op.LOOKUP, LookupArgs("export")), (Op.LOOKUP, LookupArgs(name))]


def run(scenario: Any, tmp_path: Path, **options: Any) -> None:
    async def main() -> None:
        async with Rig(tmp_path, **options) as rig:
            await scenario(rig, await rig.client())

    virtual_loop.run(main())


async def result(client: RawClient, *operations: Operation) -> Any:
    return (await client.do(*operations))[-1].value


async def status(client: RawClient, *operations: Operation) -> Stat:
    return (await client.call(*operations)).status


def test_extended_attributes(tmp_path: Path) -> None:
    async def scenario(rig: Rig, client: RawClient) -> None:
        path = rig.tree / "f"
        path.touch()

        def put(name: str, value: bytes, option: SetxattrOption = SetxattrOption.EITHER) -> list[Operation]:
            return [*file("f"), (Op.SETXATTR, SetxattrArgs(option, name, value))]

        info = (await result(client, *put("colour", b"green"))).info
        assert info.before != info.after
        assert os.getxattr(path, "user.colour") == b"green"
        assert (await result(client, *file("f"), (Op.GETXATTR, GetxattrArgs("colour")))).value == b"green"
        assert await status(client, *put("colour", b"", SetxattrOption.CREATE)) is Stat.EXIST
        assert await status(client, *put("other", b"", SetxattrOption.REPLACE)) is Stat.NOXATTR
        assert await status(client, *file("f"), (Op.GETXATTR, GetxattrArgs("other"))) is Stat.NOXATTR
        assert await status(client, *file("f"), (Op.REMOVEXATTR, RemovexattrArgs("other"))) is Stat.NOXATTR
        assert await status(client, *put("large", bytes(100_000))) in (Stat.XATTR2BIG, Stat.NOSPC)
        for name, outcome in (("", Stat.INVAL), ("a\0", Stat.INVAL), ("x" * 251, Stat.NAMETOOLONG)):
            assert await status(client, *put(name, b"x")) is outcome
            assert await status(client, *file("f"), (Op.GETXATTR, GetxattrArgs(name))) is outcome
        await client.do(*file("f"), (Op.REMOVEXATTR, RemovexattrArgs("colour")))
        assert os.listxattr(path) == []

    run(scenario, tmp_path)


def test_listing_extended_attributes(tmp_path: Path) -> None:
    async def scenario(rig: Rig, client: RawClient) -> None:
        path = rig.tree / "f"
        path.touch()
        names = {f"attribute-{number:02}" for number in range(20)}
        for name in names:
            os.setxattr(path, f"user.{name}", b"1")
        found: list[str] = []
        cookie, eof = 0, False
        while not eof:
            page = await result(client, *file("f"), (Op.LISTXATTRS, ListxattrsArgs(cookie, 100)))
            assert len(page.names) == 5
            found += page.names
            cookie, eof = page.cookie, page.eof
        assert set(found) == names and len(found) == len(names)
        beyond = ListxattrsArgs(21, 100)
        assert await status(client, *file("f"), (Op.LISTXATTRS, beyond)) is Stat.BAD_COOKIE
        for size in (0, 16, 31):
            args = ListxattrsArgs(0, size)
            assert await status(client, *file("f"), (Op.LISTXATTRS, args)) is Stat.TOOSMALL

    run(scenario, tmp_path)


def test_copying(tmp_path: Path) -> None:
    async def scenario(rig: Rig, client: RawClient) -> None:
        content = os.urandom(3 * MIB)
        (rig.tree / "a").write_bytes(content)
        (rig.tree / "b").write_bytes(b"xyz")

        def copy(source: int, target: int, count: int, to: str = "b") -> list[Operation]:
            args = CopyArgs(ANONYMOUS, ANONYMOUS, source, target, count, True, True, [])
            return [*file("a"), SAVEFH, *file(to), (Op.COPY, args)]

        done = await result(client, *copy(0, 0, 0))
        assert done.response.count == 3 * MIB and done.response.committed is StableHow.UNSTABLE
        assert done.requirements.consecutive and done.requirements.synchronous
        assert (rig.tree / "b").read_bytes() == content
        assert (await result(client, *copy(3 * MIB - 5, 0, 100))).response.count == 5
        assert (rig.tree / "b").read_bytes()[:5] == content[-5:]
        assert (await result(client, *copy(3 * MIB, 0, 0))).response.count == 0
        assert (await result(client, *copy(0, MIB, MIB, "a"))).response.count == MIB
        for args, outcome in (
            ((3 * MIB + 1, 0, 1), Stat.INVAL),
            (((1 << 64) - 1, 0, 1), Stat.INVAL),
            ((0, (1 << 64) - 1, 1), Stat.FBIG),
            ((0, 5, MIB, "a"), Stat.INVAL),
        ):
            assert await status(client, *copy(*args)) is outcome, args
        other = CopyArgs(
            ANONYMOUS, ANONYMOUS, 0, 0, 0, True, True, [NetlocAddr(NetAddr("tcp", "192.0.2.1.8.1"))]
        )
        assert await status(client, *file("a"), SAVEFH, *file("b"), (Op.COPY, other)) is Stat.NOTSUPP
        invalid = CopyArgs(INVALID, ANONYMOUS, 0, 0, 0, True, True, [])
        assert await status(client, *file("a"), SAVEFH, *file("b"), (Op.COPY, invalid)) is Stat.BAD_STATEID

    run(scenario, tmp_path)


def test_a_copy_is_done_in_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("quicfs.nfs.server.ranges.MAX_COPY", MIB)

    async def scenario(rig: Rig, client: RawClient) -> None:
        (rig.tree / "a").write_bytes(bytes(3 * MIB))
        (rig.tree / "b").touch()
        for count, copied in ((0, 3 * MIB), (2 * MIB, MIB)):
            args = CopyArgs(ANONYMOUS, ANONYMOUS, 0, 0, count, True, True, [])
            done = await result(client, *file("a"), SAVEFH, *file("b"), (Op.COPY, args))
            assert done.response.count == copied

    run(scenario, tmp_path)


def test_cloning_is_for_disks_that_can(tmp_path: Path) -> None:
    async def scenario(rig: Rig, client: RawClient) -> None:
        (rig.tree / "a").write_bytes(b"a" * 4096)
        (rig.tree / "b").touch()
        clone = (Op.CLONE, CloneArgs(ANONYMOUS, ANONYMOUS, 0, 0, 0))
        outcome = await status(client, *file("a"), SAVEFH, *file("b"), clone)
        assert outcome in (Stat.OK, Stat.NOTSUPP)
        assert (rig.tree / "b").read_bytes() == (b"a" * 4096 if outcome is Stat.OK else b"")
        far = (Op.CLONE, CloneArgs(ANONYMOUS, ANONYMOUS, 0, 1 << 63, 0))
        assert await status(client, *file("a"), SAVEFH, *file("b"), far) is Stat.INVAL

    run(scenario, tmp_path)


def test_holes(tmp_path: Path) -> None:
    async def scenario(rig: Rig, client: RawClient) -> None:
        path = rig.tree / "f"
        with path.open("wb") as made:
            made.seek(2 * MIB)
            made.write(b"d" * MIB)
            made.truncate(4 * MIB)
        if os.stat(path).st_blocks * 512 >= 4 * MIB:
            pytest.skip("the file system has no holes")

        async def seek(offset: int, what: DataContent) -> tuple[bool, int]:
            found = await result(client, *file("f"), (Op.SEEK, SeekArgs(ANONYMOUS, offset, what)))
            return found.eof, found.offset

        assert await seek(0, DataContent.DATA) == (False, 2 * MIB)
        assert await seek(0, DataContent.HOLE) == (False, 0)
        assert await seek(2 * MIB, DataContent.HOLE) == (False, 3 * MIB)
        assert await seek(3 * MIB, DataContent.DATA) == (True, 4 * MIB)
        for offset in (4 * MIB, 1 << 63, (1 << 64) - 1):
            args = SeekArgs(ANONYMOUS, offset, DataContent.DATA)
            assert await status(client, *file("f"), (Op.SEEK, args)) is Stat.NXIO
        plus = ReadPlusArgs(ANONYMOUS, 2 * MIB - 4096, 8192)
        found = await result(client, *file("f"), (Op.READ_PLUS, plus))
        assert found.contents == [Hole(2 * MIB - 4096, 4096), Data(2 * MIB, b"d" * 4096)] and not found.eof
        end = await result(client, *file("f"), (Op.READ_PLUS, ReadPlusArgs(ANONYMOUS, 3 * MIB - 1, 2 * MIB)))
        assert end.contents[0] == Data(3 * MIB - 1, b"d") and end.contents[1] == Hole(3 * MIB, MIB - 1)
        for offset in (4 * MIB, 1 << 63, (1 << 64) - 1):
            past = await result(client, *file("f"), (Op.READ_PLUS, ReadPlusArgs(ANONYMOUS, offset, 10)))
            assert past.eof and past.contents == []

    run(scenario, tmp_path)


def test_reserving_and_giving_back(tmp_path: Path) -> None:
    async def scenario(rig: Rig, client: RawClient) -> None:
        path = rig.tree / "f"
        path.write_bytes(b"a" * MIB)
        await client.do(*file("f"), (Op.DEALLOCATE, DeallocateArgs(ANONYMOUS, 0, 8192)))
        assert path.read_bytes()[:8193] == bytes(8192) + b"a"
        await client.do(*file("f"), (Op.ALLOCATE, AllocateArgs(ANONYMOUS, MIB, MIB)))
        assert path.stat().st_size == 2 * MIB
        for args, outcome in (
            ((0, 0), Stat.INVAL),
            ((1 << 63, 1), Stat.FBIG),
            ((1, (1 << 64) - 1), Stat.FBIG),
        ):
            assert await status(client, *file("f"), (Op.ALLOCATE, AllocateArgs(ANONYMOUS, *args))) is outcome
            assert (
                await status(client, *file("f"), (Op.DEALLOCATE, DeallocateArgs(ANONYMOUS, *args))) is outcome
            )
        advice = await result(client, *file("f"), (Op.IO_ADVISE, IoAdviseArgs(ANONYMOUS, 0, 0, 1)))
        assert advice.hints == 0

    run(scenario, tmp_path)
