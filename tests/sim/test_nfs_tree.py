"""The tree that NFSv4 clients see: handles, names, attributes, listings."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from quicfs.nfs.rpc.identity import Squash
from quicfs.nfs.server.exports import Export
from quicfs.nfs.v4 import const
from quicfs.nfs.v4.attributes import Attribute, bitmap
from quicfs.nfs.v4.compound import Result
from quicfs.nfs.v4.const import FileType, Op, SecFlavor, SecinfoStyle, Stat
from quicfs.nfs.v4.operations_directories import (
    CreateArgs,
    CreateType,
    LinkArgs,
    LookupArgs,
    ReaddirArgs,
    RemoveArgs,
    RenameArgs,
)
from quicfs.nfs.v4.operations_files import (
    AccessArgs,
    GetattrArgs,
    PutfhArgs,
    SecinfoArgs,
    SecinfoNoNameArgs,
    SetattrArgs,
    VerifyArgs,
)
from quicfs.nfs.v4.types import ANONYMOUS, ModeMasked, ModeUmask, SpecData
from quicfs.vfs import Attr, LocalTree, Node
from quicfs.vfs.local_node import LocalNode
from tests.sim import virtual_loop
from tests.sim.nfs_rig import Operation, RawClient, Rig

A = Attribute
NO_VERIFIER = bytes(8)


def at(*names: str) -> list[Operation]:
    """From the root down."""
    return [(Op.PUTROOTFH, None), *((Op.LOOKUP, LookupArgs(name)) for name in names)]


def put(raw: bytes) -> Operation:
    return Op.PUTFH, PutfhArgs(raw)


def get(*attributes: Attribute) -> Operation:
    return Op.GETATTR, GetattrArgs(bitmap(attributes))


GETFH: Operation = (Op.GETFH, None)
SAVEFH: Operation = (Op.SAVEFH, None)


async def handle(client: RawClient, *names: str) -> bytes:
    raw: bytes = (await client.do(*at(*names), GETFH))[-1].value.object
    return raw


async def attributes(client: RawClient, where: list[Operation], *wanted: Attribute) -> dict[Attribute, Any]:
    found: dict[Attribute, Any] = (await client.do(*where, get(*wanted)))[-1].value.attributes
    return found


async def status(client: RawClient, *operations: Operation) -> Stat:
    return (await client.call(*operations)).status


async def listing(
    client: RawClient, where: list[Operation], *wanted: Attribute, maxcount: int = 8192, dircount: int = 0
) -> list[Any]:
    """All entries, page by page."""
    entries: list[Any] = []
    cookie, verifier, eof = 0, NO_VERIFIER, False
    while not eof:
        args = ReaddirArgs(cookie, verifier, dircount, maxcount, bitmap(wanted))
        page = (await client.do(*where, (Op.READDIR, args)))[-1].value
        entries += page.entries
        eof, verifier = page.eof, page.cookieverf
        cookie = entries[-1].cookie if entries else 0
    return entries


def run(scenario: Any, tmp_path: Path, **options: Any) -> None:
    async def main() -> None:
        async with Rig(tmp_path, **options) as rig:
            await scenario(rig, await rig.client())

    virtual_loop.run(main())


def test_the_way_down_and_up(tmp_path: Path) -> None:
    async def scenario(rig: Rig, client: RawClient) -> None:
        (rig.tree / "d").mkdir()
        (rig.tree / "d" / "f").write_bytes(b"hello")
        (rig.tree / "link").symlink_to("d/f")
        root = await handle(client)
        assert await handle(client, "export", "d", "f") != await handle(client, "export", "d")
        up = await client.do(*at("export", "d"), (Op.LOOKUPP, None), GETFH, (Op.LOOKUPP, None), GETFH)
        assert up[-3].value.object == await handle(client, "export") and up[-1].value.object == root
        assert await status(client, *at(), (Op.LOOKUPP, None)) is Stat.NOENT
        assert await status(client, *at("export", "d", "f"), (Op.LOOKUPP, None)) is Stat.NOTDIR
        assert await status(client, *at("export", "d", "f", "g")) is Stat.NOTDIR
        assert await status(client, *at("export", "link", "g")) is Stat.SYMLINK
        assert await status(client, *at("nothing")) is Stat.NOENT
        link = await client.do(*at("export", "link"), (Op.READLINK, None))
        assert link[-1].value.link == "d/f"
        assert await status(client, *at("export", "d"), (Op.READLINK, None)) is Stat.WRONG_TYPE
        assert await status(client, GETFH) is Stat.NOFILEHANDLE
        assert await status(client, (Op.RESTOREFH, None)) is Stat.NOFILEHANDLE
        saved = await client.do(
            *at("export"), SAVEFH, (Op.LOOKUP, LookupArgs("d")), (Op.RESTOREFH, None), GETFH
        )
        assert saved[-1].value.object == await handle(client, "export")

    run(scenario, tmp_path)


@pytest.mark.parametrize(
    ("name", "outcome"),
    [
        ("", Stat.INVAL),
        (".", Stat.BADNAME),
        ("..", Stat.BADNAME),
        ("a/b", Stat.BADCHAR),
        ("a\0b", Stat.BADCHAR),
        ("x" * 256, Stat.NAMETOOLONG),
    ],
)
def test_names_that_cannot_be(tmp_path: Path, name: str, outcome: Stat) -> None:
    async def scenario(rig: Rig, client: RawClient) -> None:
        (rig.tree / "f").touch()
        export = at("export")
        made = CreateArgs(CreateType(FileType.DIR), name, {})
        for operation in (
            (Op.LOOKUP, LookupArgs(name)),
            (Op.CREATE, made),
            (Op.REMOVE, RemoveArgs(name)),
            (Op.SECINFO, SecinfoArgs(name)),
        ):
            assert await status(client, *export, operation) is outcome, operation
        assert await status(client, *export, SAVEFH, (Op.RENAME, RenameArgs(name, "x"))) is outcome
        assert await status(client, *export, SAVEFH, (Op.RENAME, RenameArgs("f", name))) is outcome
        assert await status(client, *at("export", "f"), SAVEFH, *export, (Op.LINK, LinkArgs(name))) is outcome
        assert os.listdir(rig.tree) == ["f"]

    run(scenario, tmp_path)


# --- handles


def test_a_handle_outlives_the_server_and_moves_with_its_object(tmp_path: Path) -> None:
    async def scenario(rig: Rig, client: RawClient) -> None:
        (rig.tree / "f").write_bytes(b"1")
        raw = await handle(client, "export", "f")
        assert len(raw) <= 64
        await rig.kill()
        await rig.restart()
        (rig.tree / "f").rename(rig.tree / "g")
        (rig.tree / "f").write_bytes(b"22")
        other = await rig.client(b"other")
        assert (await attributes(other, [put(raw)], A.SIZE))[A.SIZE] == 1
        assert await handle(other, "export", "g") == raw
        (rig.tree / "g").unlink()
        assert await status(other, put(raw)) is Stat.STALE

    run(scenario, tmp_path)


def test_no_handle_can_be_made_up(tmp_path: Path) -> None:
    async def scenario(rig: Rig, client: RawClient) -> None:
        (rig.tree / "f").touch()
        for raw in (await handle(client), await handle(client, "export", "f")):
            for bit in range(8 * len(raw)):
                forged = bytearray(raw)
                forged[bit // 8] ^= 1 << bit % 8
                assert await status(client, put(bytes(forged))) is Stat.BADHANDLE
            for forged_raw in (b"", raw[:-1], raw + b"\0", bytes(len(raw)), raw * 2, b"\xff" * 128):
                assert await status(client, put(forged_raw)) is Stat.BADHANDLE

    run(scenario, tmp_path)


def test_the_handles_of_another_server_are_worth_nothing(tmp_path: Path) -> None:
    async def main() -> None:
        (tmp_path / "a").mkdir()
        (tmp_path / "b").mkdir()
        async with Rig(tmp_path / "a") as one, Rig(tmp_path / "b") as other:
            raw = await handle(await one.client(), "export")
            assert await status(await other.client(), put(raw)) is Stat.BADHANDLE

    virtual_loop.run(main())


def test_the_handle_of_an_export_that_is_gone_is_stale(tmp_path: Path) -> None:
    async def main() -> None:
        tree = LocalTree(tmp_path)
        async with Rig(tmp_path, exports=[Export("/a", tree), Export("/b", tree)]) as rig:
            client = await rig.client()
            raw, pseudo = await handle(client, "a"), await handle(client)
            await rig.kill()
            rig.exports = rig._given = [Export("/b", tree)]
            await rig.restart()
            client = await rig.client()
            assert await status(client, put(raw)) is Stat.STALE
            assert await status(client, put(pseudo)) is Stat.OK
        await tree.close()

    virtual_loop.run(main())


# --- attributes


def test_what_a_file_is_like(tmp_path: Path) -> None:
    async def scenario(rig: Rig, client: RawClient) -> None:
        path = rig.tree / "f"
        path.write_bytes(b"hello")
        os.chmod(path, 0o640)
        os.utime(path, ns=(5, 1_700_000_000_000_000_007))
        found = await attributes(
            client, at("export", "f"), A.TYPE, A.SIZE, A.MODE, A.NUMLINKS, A.OWNER, A.TIME_ACCESS, A.TIME_MODIFY,
            A.FILEHANDLE, A.FSID, A.FILEID, A.SUPPORTED_ATTRS, A.LEASE_TIME, A.ACL,
        )  # fmt: skip
        assert A.ACL not in found  # what is not there is left out
        assert (found[A.TYPE], found[A.SIZE], found[A.MODE]) == (FileType.REG, 5, 0o640)
        assert (found[A.NUMLINKS], found[A.OWNER]) == (1, str(os.getuid()))
        assert (found[A.TIME_ACCESS], found[A.TIME_MODIFY]) == (5, 1_700_000_000_000_000_007)
        assert found[A.FILEHANDLE] == await handle(client, "export", "f")
        assert found[A.FILEID] == path.stat().st_ino and found[A.LEASE_TIME] == 90
        assert await status(client, *at("export"), get(A.TIME_MODIFY_SET)) is Stat.INVAL

    run(scenario, tmp_path)


def test_setting_attributes(tmp_path: Path) -> None:
    async def scenario(rig: Rig, client: RawClient) -> None:
        path = rig.tree / "f"
        path.write_bytes(b"hello")

        async def setting(values: dict[Attribute, Any]) -> Result:
            args = SetattrArgs(ANONYMOUS, values)
            return (await client.call(*at("export", "f"), (Op.SETATTR, args))).results[-1]

        wanted = {
            A.SIZE: 2, A.MODE: 0o604, A.OWNER: "4711", A.OWNER_GROUP: "4712", A.TIME_ACCESS_SET: 77,
            A.TIME_MODIFY_SET: 1_000_000_001,
        }  # fmt: skip
        done = await setting(wanted)
        assert done.status is Stat.OK and done.value.attrsset == bitmap(wanted)
        found = path.stat()
        assert path.read_bytes() == b"he"
        assert (found.st_mode & 0o7777, found.st_uid, found.st_gid) == (0o604, 4711, 4712)
        assert found.st_mtime_ns == 1_000_000_001
        assert (await setting({A.TIME_MODIFY_SET: None})).status is Stat.OK
        assert path.stat().st_mtime_ns > 1_600_000_000_000_000_000
        assert (await setting({A.MODE_SET_MASKED: ModeMasked(0o020, 0o070)})).status is Stat.OK
        assert path.stat().st_mode & 0o7777 == 0o624
        for values, outcome in (
            ({A.SIZE: 1 << 63}, Stat.FBIG),
            ({A.TYPE: FileType.DIR}, Stat.INVAL),
            ({A.ARCHIVE: True}, Stat.ATTRNOTSUPP),
            ({A.OWNER: "nobody in particular"}, Stat.BADOWNER),
            ({A.MODE: 0o10000}, Stat.INVAL),
            ({A.MODE: 0, A.MODE_SET_MASKED: ModeMasked(0, 0)}, Stat.INVAL),
            ({A.MODE_SET_MASKED: ModeMasked(0o2, 0o1)}, Stat.INVAL),
            ({A.MODE_UMASK: ModeUmask(0o777, 0o022)}, Stat.INVAL),
        ):
            refused = await setting(values)
            assert refused.status is outcome, values
            assert refused.value.attrsset == 0
        assert (
            await status(client, *at("export"), (Op.SETATTR, SetattrArgs(ANONYMOUS, {A.SIZE: 0})))
            is Stat.ISDIR
        )

    run(scenario, tmp_path)


def test_a_compound_sees_what_it_has_changed(tmp_path: Path) -> None:
    async def scenario(rig: Rig, client: RawClient) -> None:
        (rig.tree / "f").write_bytes(b"hello")
        results = await client.do(
            *at("export", "f"), get(A.SIZE, A.CHANGE), (Op.SETATTR, SetattrArgs(ANONYMOUS, {A.SIZE: 1})),
            get(A.SIZE, A.CHANGE),
        )  # fmt: skip
        before, after = results[-3].value.attributes, results[-1].value.attributes
        assert (before[A.SIZE], after[A.SIZE]) == (5, 1) and before[A.CHANGE] != after[A.CHANGE]

    run(scenario, tmp_path)


def test_verify(tmp_path: Path) -> None:
    async def scenario(rig: Rig, client: RawClient) -> None:
        (rig.tree / "f").write_bytes(b"hello")
        file = at("export", "f")
        for values, same in (({A.SIZE: 5, A.TYPE: FileType.REG}, True), ({A.SIZE: 4}, False)):
            verify, nverify = (Op.VERIFY, VerifyArgs(values)), (Op.NVERIFY, VerifyArgs(values))
            assert await status(client, *file, verify) is (Stat.OK if same else Stat.NOT_SAME)
            assert await status(client, *file, nverify) is (Stat.SAME if same else Stat.OK)
        assert await status(client, *file, (Op.VERIFY, VerifyArgs({A.HIDDEN: True}))) is Stat.ATTRNOTSUPP
        for values in ({A.TIME_ACCESS_SET: None}, {A.RDATTR_ERROR: Stat.OK}):
            assert await status(client, *file, (Op.VERIFY, VerifyArgs(values))) is Stat.INVAL

    run(scenario, tmp_path)


# --- changing directories


def test_objects_of_every_kind(tmp_path: Path) -> None:
    async def scenario(rig: Rig, client: RawClient) -> None:
        for kind, name, found in (
            (CreateType(FileType.DIR), "dir", FileType.DIR),
            (CreateType(FileType.LNK, linkdata="to/where"), "link", FileType.LNK),
            (CreateType(FileType.FIFO), "fifo", FileType.FIFO),
            (CreateType(FileType.SOCK), "sock", FileType.SOCK),
            (CreateType(FileType.CHR, devdata=SpecData(1, 3)), "null", FileType.CHR),
            (CreateType(FileType.BLK, devdata=SpecData(7, 300)), "disk", FileType.BLK),
        ):
            values = {A.MODE: 0o2750 if found is FileType.DIR else 0o600, A.OWNER: "12"}
            results = await client.do(
                *at("export"),
                (Op.CREATE, CreateArgs(kind, name, values)),
                get(A.TYPE, A.OWNER, A.RAWDEV, A.MODE),
            )
            seen = results[-1].value.attributes
            assert seen[A.TYPE] is found and seen[A.OWNER] == "12"
            if found is not FileType.LNK:
                assert seen[A.MODE] == values[A.MODE]
                assert results[-2].value.attrset == bitmap(values)
            if kind.devdata:
                assert seen[A.RAWDEV] == kind.devdata
            assert results[-2].value.cinfo.before != results[-2].value.cinfo.after
        assert (rig.tree / "link").readlink() == Path("to/where")
        again = CreateArgs(CreateType(FileType.DIR), "dir", {})
        assert await status(client, *at("export"), (Op.CREATE, again)) is Stat.EXIST
        for number in (FileType.REG, FileType.ATTRDIR, 99):
            args = CreateArgs(CreateType(number), "x", {})
            assert await status(client, *at("export"), (Op.CREATE, args)) is Stat.BADTYPE
        umask = CreateArgs(CreateType(FileType.DIR), "umask", {A.MODE_UMASK: ModeUmask(0o777, 0o027)})
        await client.do(*at("export"), (Op.CREATE, umask))
        assert (rig.tree / "umask").stat().st_mode & 0o777 == 0o750

    run(scenario, tmp_path)


def test_removing_and_renaming(tmp_path: Path) -> None:
    async def scenario(rig: Rig, client: RawClient) -> None:
        tree = rig.tree
        (tree / "a").mkdir()
        (tree / "b").mkdir()
        (tree / "a" / "f").write_bytes(b"f")
        (tree / "b" / "g").write_bytes(b"g")
        move = [*at("export", "a"), SAVEFH, *at("export", "b")]
        assert await status(client, *at("export"), (Op.REMOVE, RemoveArgs("a"))) is Stat.NOTEMPTY
        assert await status(client, *at("export"), (Op.REMOVE, RemoveArgs("none"))) is Stat.NOENT
        assert await status(client, *move, (Op.RENAME, RenameArgs("none", "x"))) is Stat.NOENT
        await client.do(*move, (Op.RENAME, RenameArgs("f", "g")))
        assert (tree / "b" / "g").read_bytes() == b"f" and not (tree / "a" / "f").exists()
        os.link(tree / "b" / "g", tree / "a" / "same")
        same = await client.do(*move, (Op.RENAME, RenameArgs("same", "g")))
        assert (tree / "a" / "same").exists() and (tree / "b" / "g").exists()
        assert same[-1].value.source_cinfo.before == same[-1].value.source_cinfo.after
        root = [*at("export"), SAVEFH]
        assert (
            await status(client, *root, *at("export", "a"), (Op.RENAME, RenameArgs("a", "in"))) is Stat.INVAL
        )
        await client.do(*at("export", "a"), (Op.REMOVE, RemoveArgs("same")))
        await client.do(*at("export"), (Op.REMOVE, RemoveArgs("a")))
        assert os.listdir(tree) == ["b"]

    run(scenario, tmp_path)


def test_links(tmp_path: Path) -> None:
    async def scenario(rig: Rig, client: RawClient) -> None:
        (rig.tree / "f").write_bytes(b"f")
        (rig.tree / "d").mkdir()
        export = at("export")
        made = await client.do(*at("export", "f"), SAVEFH, *export, (Op.LINK, LinkArgs("g")), get(A.TYPE))
        assert made[-1].value.attributes[A.TYPE] is FileType.DIR
        assert (rig.tree / "g").stat().st_nlink == 2
        assert (
            await status(client, *at("export", "f"), SAVEFH, *export, (Op.LINK, LinkArgs("g"))) is Stat.EXIST
        )
        assert (
            await status(client, *at("export", "d"), SAVEFH, *export, (Op.LINK, LinkArgs("h"))) is Stat.ISDIR
        )
        assert await status(client, *export, (Op.LINK, LinkArgs("h"))) is Stat.NOFILEHANDLE

    run(scenario, tmp_path)


class Busy(LocalTree):
    """Another program works in every directory in which something is done."""

    async def mkdir(self, directory: Node, path: str, mode: int = 0o755) -> tuple[LocalNode, Attr]:
        made = await super().mkdir(directory, path, mode)
        await super().mkdir(directory, f"{path} of theirs")
        return made


def test_it_is_told_whether_others_changed_a_directory(tmp_path: Path) -> None:
    """RFC 8881 §10.8: a client that hears "atomic" believes the names that it knows."""

    async def main(tree: LocalTree) -> tuple[bool, bool]:
        async with Rig(
            tmp_path, exports=[Export("/export", tree, squash=Squash(no_root_squash=True))]
        ) as rig:
            client = await rig.client()
            make = (Op.CREATE, CreateArgs(CreateType(FileType.DIR), "d", {}))
            made = (await client.do(*at("export"), make))[-1].value.cinfo
            move = [*at("export"), SAVEFH, (Op.RENAME, RenameArgs("d", "e"))]
            moved = (await client.do(*move))[-1].value
            assert made.before < made.after <= moved.source_cinfo.before < moved.source_cinfo.after
            assert moved.source_cinfo == moved.target_cinfo
            removed = (await client.do(*at("export"), (Op.REMOVE, RemoveArgs("e"))))[-1].value.cinfo
        await tree.close()
        return made.atomic, removed.atomic and moved.source_cinfo.atomic

    folder = tmp_path / "folder"
    folder.mkdir()
    with_us = LocalTree(folder)
    if with_us.name_changes(with_us.root) is None:
        pytest.skip("changes cannot be seen on this file system")
    assert virtual_loop.run(main(with_us)) == (True, True)
    assert virtual_loop.run(main(Busy(folder))) == (False, True)


# --- listings


def test_a_listing_is_complete_whatever_the_size_of_its_pages(tmp_path: Path) -> None:
    async def scenario(rig: Rig, client: RawClient) -> None:
        names = {f"file-{number:04}" for number in range(300)}
        for name in names:
            (rig.tree / name).write_bytes(name.encode())
        for maxcount, dircount in ((512, 0), (4096, 100), (1 << 20, 0), (0xFFFFFFFF, 0xFFFFFFFF)):
            found = await listing(
                client, at("export"), A.SIZE, A.FILEHANDLE, A.FILEID, maxcount=maxcount, dircount=dircount
            )
            assert {entry.name for entry in found} == names and len(found) == len(names)
            assert {entry.attrs[A.SIZE] for entry in found} == {9}
        one = found[0]
        assert one.attrs[A.FILEHANDLE] == await handle(client, "export", one.name)
        for cookie in (1, 2, 1 << 63, (1 << 64) - 1):
            args = ReaddirArgs(cookie, NO_VERIFIER, 0, 4096, 0)
            assert await status(client, *at("export"), (Op.READDIR, args)) is Stat.BAD_COOKIE
        wrong = ReaddirArgs(one.cookie, b"verifier", 0, 4096, 0)
        assert await status(client, *at("export"), (Op.READDIR, wrong)) is Stat.NOT_SAME
        for maxcount in (0, 15, 16, 40):
            args = ReaddirArgs(0, NO_VERIFIER, 0, maxcount, bitmap((A.FILEHANDLE,)))
            assert await status(client, *at("export"), (Op.READDIR, args)) is Stat.TOOSMALL
        assert await status(client, *at("export", one.name), (Op.READDIR, args)) is Stat.NOTDIR
        wrong = ReaddirArgs(0, NO_VERIFIER, 0, 4096, bitmap((A.TIME_MODIFY_SET,)))
        assert await status(client, *at("export"), (Op.READDIR, wrong)) is Stat.INVAL

    run(scenario, tmp_path)


def test_the_pseudo_root_shows_the_roots_of_exports(tmp_path: Path) -> None:
    async def main() -> None:
        (tmp_path / "a").mkdir()
        (tmp_path / "b").mkdir()
        trees = [LocalTree(tmp_path / "a"), LocalTree(tmp_path / "b")]
        exports = [Export("/one", trees[0]), Export("/deep/two", trees[1], read_only=True)]
        async with Rig(tmp_path, exports=exports) as rig:
            client = await rig.client()
            wanted = (A.FSID, A.FILEID, A.MOUNTED_ON_FILEID, A.FILEHANDLE, A.TYPE)
            found = {entry.name: entry.attrs for entry in await listing(client, at(), *wanted)}
            assert set(found) == {"one", "deep"}
            assert found["one"] == await attributes(client, at("one"), *wanted)
            assert found["one"][A.FSID] != found["deep"][A.FSID]
            assert found["one"][A.FILEID] != found["one"][A.MOUNTED_ON_FILEID]
            assert found["deep"][A.FILEID] == found["deep"][A.MOUNTED_ON_FILEID]
            two = await attributes(client, at("deep", "two"), *wanted)
            assert two[A.FSID] not in (found["one"][A.FSID], found["deep"][A.FSID])
            make = (Op.CREATE, CreateArgs(CreateType(FileType.DIR), "x", {}))
            for where in (at(), at("deep"), at("deep", "two")):
                assert await status(client, *where, make) is Stat.ROFS
                assert (
                    await status(client, *where, (Op.SETATTR, SetattrArgs(ANONYMOUS, {A.MODE: 0})))
                    is Stat.ROFS
                )
                allowed = (await client.do(*where, (Op.ACCESS, AccessArgs(0x3F))))[-1].value.access
                assert allowed == const.Access.READ | const.Access.LOOKUP
            cross = [*at("one"), SAVEFH, *at("deep", "two")]
            assert await status(client, *cross, (Op.RENAME, RenameArgs("x", "y"))) is Stat.XDEV
            assert await status(client, *cross, (Op.LINK, LinkArgs("y"))) is Stat.XDEV
            up = await client.do(*at("deep", "two"), (Op.LOOKUPP, None), GETFH)
            assert up[-1].value.object == await handle(client, "deep")
        for tree in trees:
            await tree.close()

    virtual_loop.run(main())


# --- who may


def test_rights_are_those_of_the_caller(tmp_path: Path) -> None:
    async def main() -> None:
        (tmp_path / "t").mkdir()
        (tmp_path / "t" / "secret").write_bytes(b"s")
        os.chmod(tmp_path / "t" / "secret", 0o600)
        os.chmod(tmp_path / "t", 0o755)
        tree = LocalTree(tmp_path / "t")
        exports = [Export("/squashed", tree), Export("/trusted", tree, squash=Squash(no_root_squash=True))]
        async with Rig(tmp_path, exports=exports) as rig:
            client = await rig.client(uid=0)
            everything = AccessArgs(0x3F)
            make = (Op.CREATE, CreateArgs(CreateType(FileType.DIR), "d", {}))
            assert await status(client, *at("squashed"), make) is Stat.ACCESS
            assert await status(client, *at("trusted"), make) is Stat.OK
            squashed = (await client.do(*at("squashed", "secret"), (Op.ACCESS, everything)))[-1].value
            assert squashed.access == 0
            trusted = (await client.do(*at("trusted", "secret"), (Op.ACCESS, everything)))[-1].value
            assert trusted.access & const.Access.READ and trusted.access & const.Access.MODIFY
        await tree.close()

    virtual_loop.run(main())


def test_which_credentials_are_let_in(tmp_path: Path) -> None:
    async def scenario(rig: Rig, client: RawClient) -> None:
        for where, asked in (
            (at(), (Op.SECINFO, SecinfoArgs("export"))),
            (at("export"), (Op.SECINFO_NO_NAME, SecinfoNoNameArgs(SecinfoStyle.CURRENT_FH))),
            (at("export"), (Op.SECINFO_NO_NAME, SecinfoNoNameArgs(SecinfoStyle.PARENT))),
        ):
            reply = await client.call(*where, asked, GETFH)
            assert [one.flavor for one in reply.results[-2].value.flavors] == [SecFlavor.SYS, SecFlavor.NONE]
            assert reply.status is Stat.NOFILEHANDLE  # §2.6.3.1.1.8: it is used up
        assert await status(client, *at(), (Op.SECINFO, SecinfoArgs("none"))) is Stat.NOENT
        parent = (Op.SECINFO_NO_NAME, SecinfoNoNameArgs(SecinfoStyle.PARENT))
        assert await status(client, *at(), parent) is Stat.NOENT

    run(scenario, tmp_path)
