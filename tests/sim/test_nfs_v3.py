"""NFSv3 and MOUNT, beside NFSv4 on the same tree."""

from __future__ import annotations

import asyncio
import os
import stat
from pathlib import Path
from typing import Any

import pytest

from quicfs.nfs.server.exports import Export
from quicfs.nfs.v3 import mount3, nfs3
from quicfs.nfs.v3.mount3 import MountStat, PathArgs
from quicfs.nfs.v3.nfs3 import FileArgs
from quicfs.nfs.v3.types import (
    Access,
    CreateMode,
    DirOpArgs,
    FileType,
    FsProperty,
    Sattr,
    SpecData,
    StableHow,
    Stat,
)
from quicfs.nfs.v4.const import CbOp, ShareAccess, ShareDeny
from quicfs.nfs.v4.operations_open import ReadDelegation
from quicfs.vfs import NOW, LocalTree
from tests.sim import virtual_loop
from tests.sim.nfs3_client import Nfs3Client
from tests.sim.nfs_files import close, delegreturn_op, opened, read, unchecked
from tests.sim.nfs_rig import Rig

NO_VERIFIER = bytes(8)


def run(scenario: Any, tmp_path: Path, **options: Any) -> None:
    async def main() -> None:
        async with Rig(tmp_path, **options) as rig:
            client = Nfs3Client(rig)
            await scenario(rig, client, await client.mount())

    virtual_loop.run(main())


async def find(client: Nfs3Client, directory: bytes, *names: str) -> bytes:
    for name in names:
        directory = (await client.do("LOOKUP", DirOpArgs(directory, name))).object
    return directory


def test_mounting(tmp_path: Path) -> None:
    async def scenario(rig: Rig, client: Nfs3Client, root: bytes) -> None:
        (rig.tree / "d" / "e").mkdir(parents=True)
        (rig.tree / "f").touch()
        (rig.tree / "link").symlink_to("d")
        assert await client.mount("/export/d") == await find(client, root, "d")
        assert await client.mount("//export/d/e/") == await find(client, root, "d", "e")
        assert await find(client, await client.mount("/"), "export") == root
        for path, outcome in (
            ("/none", MountStat.NOENT),
            ("/export/f", MountStat.NOTDIR),
            ("/export/link/e", MountStat.NOTDIR),
            ("/export/..", MountStat.INVAL),
            ("/export/a\0", MountStat.INVAL),
            ("/export/" + "x" * 300, MountStat.NAMETOOLONG),
            ("/x" * 500, MountStat.NAMETOOLONG),
        ):
            assert (await client.call("MNT", PathArgs(path)))[0] is outcome, path
        assert [one.directory for one in (await client.do("EXPORT")).exports] == ["/export"]
        mounted = [(one.hostname, one.directory) for one in (await client.do("DUMP")).mounts]
        assert ("nfs3-0", "/export/d/e") in mounted
        await client.do("UMNT", PathArgs("/export/d/e/"))
        assert ("nfs3-0", "/export/d/e") not in [
            (one.hostname, one.directory) for one in (await client.do("DUMP")).mounts
        ]
        await client.do("UMNTALL")
        assert (await client.do("DUMP")).mounts == []

    run(scenario, tmp_path)


def test_a_file_from_its_making_to_its_end(tmp_path: Path) -> None:
    async def scenario(rig: Rig, client: Nfs3Client, root: bytes) -> None:
        how = nfs3.CreateHow(CreateMode.GUARDED, Sattr(mode=0o100640, uid=5))
        made = await client.do("CREATE", nfs3.CreateArgs(DirOpArgs(root, "f"), how))
        raw = made.object
        assert (made.attributes.mode, made.attributes.uid, made.attributes.type) == (0o640, 5, FileType.REG)
        assert made.dir_wcc.before.mtime <= made.dir_wcc.after.mtime
        again = await client.call("CREATE", nfs3.CreateArgs(DirOpArgs(root, "f"), how))
        assert again[0] is Stat.EXIST and again[1].wcc.after is not None
        for stable in StableHow:
            wrote = await client.do("WRITE", nfs3.WriteArgs(raw, 3 * stable, 3, stable, b"abc"))
            assert (wrote.count, wrote.committed, wrote.wcc.after.size) == (3, stable, 3 * stable + 3)
        committed = await client.do("COMMIT", nfs3.CommitArgs(raw, 0, 0))
        assert committed.verf == wrote.verf
        read = await client.do("READ", nfs3.ReadArgs(raw, 1, 5))
        assert (bytes(read.data), read.count, read.eof) == (b"bcabc", 5, False)
        read = await client.do("READ", nfs3.ReadArgs(raw, 4, 100))
        assert (bytes(read.data), read.eof) == (b"bcabc", True)
        for offset in (9, 1 << 63, (1 << 64) - 1):
            assert (await client.do("READ", nfs3.ReadArgs(raw, offset, 10))).eof
        too_far = nfs3.WriteArgs(raw, (1 << 63) - 1, 3, StableHow.UNSTABLE, b"abc")
        assert (await client.call("WRITE", too_far))[0] is Stat.FBIG
        short = nfs3.WriteArgs(raw, 0, 9, StableHow.UNSTABLE, b"abc")
        assert (await client.call("WRITE", short))[0] is Stat.INVAL
        took = nfs3.CreateHow(CreateMode.UNCHECKED, Sattr(size=2))
        assert (await client.do("CREATE", nfs3.CreateArgs(DirOpArgs(root, "f"), took))).object == raw
        assert (rig.tree / "f").read_bytes() == b"ab"
        gone = await client.do("REMOVE", DirOpArgs(root, "f"))
        assert gone.wcc.before is not None and not (rig.tree / "f").exists()
        assert (await client.call("GETATTR", FileArgs(raw)))[0] is Stat.STALE
        assert (await client.call("REMOVE", DirOpArgs(root, "f")))[0] is Stat.NOENT

    run(scenario, tmp_path)


def test_exclusive_creation_is_known_again(tmp_path: Path) -> None:
    async def scenario(rig: Rig, client: Nfs3Client, root: bytes) -> None:
        def create(verifier: bytes) -> nfs3.CreateArgs:
            return nfs3.CreateArgs(DirOpArgs(root, "f"), nfs3.CreateHow(CreateMode.EXCLUSIVE, verf=verifier))

        first = await client.do("CREATE", create(b"12345678"))
        assert (await client.do("CREATE", create(b"12345678"))).object == first.object
        assert (await client.call("CREATE", create(b"87654321")))[0] is Stat.EXIST
        await rig.kill()
        await rig.restart()
        later = Nfs3Client(rig)
        assert (await later.do("CREATE", create(b"12345678"))).object == first.object

    run(scenario, tmp_path)


def test_setting_attributes(tmp_path: Path) -> None:
    async def scenario(rig: Rig, client: Nfs3Client, root: bytes) -> None:
        path = rig.tree / "f"
        path.write_bytes(b"hello")
        raw = await find(client, root, "f")
        before = (await client.do("GETATTR", FileArgs(raw))).attributes
        assert (before.size, before.nlink, before.type) == (5, 1, FileType.REG)
        wanted = Sattr(0o600, 7, 8, 3, 5_000_000_000, NOW)
        done = await client.do("SETATTR", nfs3.SetattrArgs(raw, wanted, before.ctime))
        assert (done.wcc.before.size, done.wcc.after.size, done.wcc.after.atime) == (5, 3, 5_000_000_000)
        found = path.stat()
        assert (stat.S_IMODE(found.st_mode), found.st_uid, found.st_gid) == (0o600, 7, 8)
        refused = await client.call("SETATTR", nfs3.SetattrArgs(raw, Sattr(size=0), before.ctime))
        assert refused[0] is Stat.NOT_SYNC and refused[1].wcc.after.size == 3
        huge = nfs3.SetattrArgs(raw, Sattr(size=1 << 63), None)
        assert (await client.call("SETATTR", huge))[0] is Stat.FBIG
        assert (await client.call("SETATTR", nfs3.SetattrArgs(root, Sattr(size=1), None)))[0] is Stat.ISDIR

    run(scenario, tmp_path)


def test_names(tmp_path: Path) -> None:
    async def scenario(rig: Rig, client: Nfs3Client, root: bytes) -> None:
        made = await client.do("MKDIR", nfs3.MkdirArgs(DirOpArgs(root, "d"), Sattr(mode=0o711)))
        directory = made.object
        assert made.attributes.mode == 0o711
        assert await find(client, directory, "..") == root and await find(client, directory, ".") == directory
        assert await find(client, root, "..", "..") == await client.mount("/")
        link = await client.do("SYMLINK", nfs3.SymlinkArgs(DirOpArgs(root, "l"), Sattr(), "d/x"))
        assert (await client.do("READLINK", FileArgs(link.object))).data == "d/x"
        assert (await client.call("READLINK", FileArgs(directory)))[0] is Stat.INVAL
        for kind, spec in ((FileType.FIFO, None), (FileType.CHR, SpecData(1, 3)), (FileType.SOCK, None)):
            what = nfs3.MknodData(kind, Sattr(mode=0o600), spec)
            node = await client.do("MKNOD", nfs3.MknodArgs(DirOpArgs(directory, kind.name), what))
            assert node.attributes.type is kind and node.attributes.rdev == (spec or SpecData(0, 0))
        bad = nfs3.MknodArgs(DirOpArgs(directory, "x"), nfs3.MknodData(FileType.DIR))
        assert (await client.call("MKNOD", bad))[0] is Stat.BADTYPE
        fifo = await find(client, directory, "FIFO")
        linked = await client.do("LINK", nfs3.LinkArgs(fifo, DirOpArgs(root, "pipe")))
        assert linked.attributes.nlink == 2 and linked.dir_wcc.before is not None
        moved = nfs3.RenameArgs(DirOpArgs(directory, "FIFO"), DirOpArgs(root, "moved"))
        assert (await client.do("RENAME", moved)).source_wcc.after is not None
        same = nfs3.RenameArgs(DirOpArgs(root, "moved"), DirOpArgs(root, "pipe"))
        await client.do("RENAME", same)
        assert {"moved", "pipe"} <= set(os.listdir(rig.tree))
        assert (await client.call("RMDIR", DirOpArgs(root, "d")))[0] is Stat.NOTEMPTY
        assert (await client.call("RMDIR", DirOpArgs(root, "pipe")))[0] is Stat.NOTDIR
        assert (await client.call("REMOVE", DirOpArgs(root, "d")))[0] is Stat.ISDIR
        for name in ("CHR", "SOCK"):
            await client.do("REMOVE", DirOpArgs(directory, name))
        await client.do("RMDIR", DirOpArgs(root, "d"))
        assert (await client.call("LOOKUP", DirOpArgs(root, "none")))[1].attributes is not None
        for name, outcome in (("", Stat.INVAL), ("a/b", Stat.INVAL), ("x" * 256, Stat.NAMETOOLONG)):
            for procedure in ("LOOKUP", "REMOVE", "RMDIR"):
                assert (await client.call(procedure, DirOpArgs(root, name)))[0] is outcome
        for name in (".", ".."):
            refused = await client.call("MKDIR", nfs3.MkdirArgs(DirOpArgs(root, name), Sattr()))
            assert refused[0] is Stat.INVAL

    run(scenario, tmp_path)


@pytest.mark.parametrize("size", [600, 4096, 1 << 31])
def test_listings(tmp_path: Path, size: int) -> None:
    async def scenario(rig: Rig, client: Nfs3Client, root: bytes) -> None:
        names = {f"file-{number:03}" for number in range(100)}
        for name in names:
            (rig.tree / name).write_bytes(b"12345")
        for procedure in ("READDIR", "READDIRPLUS"):
            found: list[Any] = []
            cookie, eof = 0, False
            while not eof:
                if procedure == "READDIR":
                    args: Any = nfs3.ReaddirArgs(root, cookie, NO_VERIFIER, size)
                else:
                    args = nfs3.ReaddirplusArgs(root, cookie, NO_VERIFIER, 512, size)
                page = await client.do(procedure, args)
                found += page.entries
                cookie, eof = found[-1].cookie, page.eof
            assert [entry.name for entry in found[:2]] == [".", ".."]
            assert {entry.name for entry in found[2:]} == names and len(found) == len(names) + 2
            one = found[10]
            assert one.fileid == (rig.tree / one.name).stat().st_ino
        assert one.handle == await find(client, root, one.name) and one.attributes.size == 5
        assert found[0].handle == root
        for count in (0, 50, 104):
            args = nfs3.ReaddirArgs(root, 0, NO_VERIFIER, count)
            assert (await client.call("READDIR", args))[0] is Stat.TOOSMALL
        for cookie in (1 << 63, (1 << 64) - 1):
            args = nfs3.ReaddirArgs(root, cookie, NO_VERIFIER, 4096)
            assert (await client.call("READDIR", args))[0] is Stat.BAD_COOKIE
        args = nfs3.ReaddirArgs(root, one.cookie, b"other...", 4096)
        assert (await client.call("READDIR", args))[0] is Stat.BAD_COOKIE
        args = nfs3.ReaddirArgs(one.handle, 0, NO_VERIFIER, 4096)
        assert (await client.call("READDIR", args))[0] is Stat.NOTDIR

    run(scenario, tmp_path)


def test_what_file_systems_are_like(tmp_path: Path) -> None:
    async def scenario(rig: Rig, client: Nfs3Client, root: bytes) -> None:
        info = await client.do("FSINFO", FileArgs(root))
        assert info.rtmax >= info.rtpref >= 4096 and info.properties & FsProperty.SYMLINK
        space = await client.do("FSSTAT", FileArgs(root))
        assert space.tbytes >= space.fbytes >= space.abytes
        assert (await client.do("PATHCONF", FileArgs(root))).name_max == 255
        everything = nfs3.AccessArgs(root, 0xFFFFFFFF)
        assert (await client.do("ACCESS", everything)).access & Access.MODIFY
        nobody = Nfs3Client(rig, uid=4711)
        os.chmod(rig.tree, 0o750)
        assert (await nobody.do("ACCESS", everything)).access == 0
        assert (await nobody.call("LOOKUP", DirOpArgs(root, "x")))[0] is Stat.ACCES
        await client.do("NULL")

    run(scenario, tmp_path)


def test_the_owner_may_use_a_file_that_it_made_unwritable(tmp_path: Path) -> None:
    """RFC 1813 §4.4: it may have been changed since the client opened it."""

    async def scenario(rig: Rig, client: Nfs3Client, root: bytes) -> None:
        os.chmod(rig.tree, 0o777)
        owner, other = Nfs3Client(rig, uid=1234), Nfs3Client(rig, uid=1235)
        how = nfs3.CreateHow(CreateMode.GUARDED, Sattr(mode=0))
        raw = (await owner.do("CREATE", nfs3.CreateArgs(DirOpArgs(root, "f"), how))).object
        write = nfs3.WriteArgs(raw, 0, 3, StableHow.FILE_SYNC, b"abc")
        await owner.do("WRITE", write)
        assert bytes((await owner.do("READ", nfs3.ReadArgs(raw, 0, 9))).data) == b"abc"
        assert (await other.call("WRITE", write))[0] is Stat.ACCES
        assert (await other.call("READ", nfs3.ReadArgs(raw, 0, 9)))[0] is Stat.ACCES

    run(scenario, tmp_path)


def test_forged_and_old_handles(tmp_path: Path) -> None:
    async def scenario(rig: Rig, client: Nfs3Client, root: bytes) -> None:
        forged = bytearray(root)
        forged[3] ^= 1
        for raw in (bytes(forged), b"", b"x" * 64):
            for row in nfs3.PROCEDURES.values():
                if row.args is FileArgs:
                    assert (await client.call(row.name, FileArgs(raw)))[0] is Stat.BADHANDLE
            assert (await client.call("REMOVE", DirOpArgs(raw, "x")))[0] is Stat.BADHANDLE
            rename = nfs3.RenameArgs(DirOpArgs(root, "x"), DirOpArgs(raw, "y"))
            assert (await client.call("RENAME", rename))[0] is Stat.BADHANDLE

    run(scenario, tmp_path)


def test_a_read_only_export(tmp_path: Path) -> None:
    async def main() -> None:
        (tmp_path / "t").mkdir()
        (tmp_path / "t" / "f").write_bytes(b"x")
        tree = LocalTree(tmp_path / "t")
        async with Rig(tmp_path, exports=[Export("/", tree, read_only=True)]) as rig:
            client = Nfs3Client(rig)
            root = await client.mount("/")
            file = await find(client, root, "f")
            here = DirOpArgs(root, "g")
            how = nfs3.CreateHow(CreateMode.UNCHECKED, Sattr())
            for name, args in (
                ("CREATE", nfs3.CreateArgs(here, how)),
                ("MKDIR", nfs3.MkdirArgs(here, Sattr())),
                ("SYMLINK", nfs3.SymlinkArgs(here, Sattr(), "x")),
                ("MKNOD", nfs3.MknodArgs(here, nfs3.MknodData(FileType.FIFO, Sattr()))),
                ("REMOVE", DirOpArgs(root, "f")),
                ("RMDIR", DirOpArgs(root, "f")),
                ("RENAME", nfs3.RenameArgs(DirOpArgs(root, "f"), here)),
                ("LINK", nfs3.LinkArgs(file, here)),
                ("WRITE", nfs3.WriteArgs(file, 0, 1, StableHow.UNSTABLE, b"y")),
                ("SETATTR", nfs3.SetattrArgs(file, Sattr(mode=0), None)),
            ):
                assert (await client.call(name, args))[0] is Stat.ROFS, name
            assert (await client.do("GETATTR", FileArgs(root))).attributes.type is FileType.DIR
            assert [one.directory for one in (await client.do("EXPORT")).exports] == ["/"]
        await tree.close()

    virtual_loop.run(main())


# --- beside NFSv4


def test_opens_of_nfsv4_may_deny(tmp_path: Path) -> None:
    async def scenario(rig: Rig, client: Nfs3Client, root: bytes) -> None:
        newer = await rig.client(b"newer")
        file = await opened(newer, "f", how=unchecked(mode=0o644), deny=int(ShareDeny.WRITE))
        raw = await find(client, root, "f")
        assert raw == file.fh
        await client.do("READ", nfs3.ReadArgs(raw, 0, 1))
        write = nfs3.WriteArgs(raw, 0, 1, StableHow.UNSTABLE, b"x")
        truncate = nfs3.SetattrArgs(raw, Sattr(size=0), None)
        for name, args in (("WRITE", write), ("SETATTR", truncate)):
            assert (await client.call(name, args))[0] is Stat.ACCES
        await close(newer, file)
        await client.do("WRITE", write)

    run(scenario, tmp_path)


@pytest.mark.parametrize("what", ["WRITE", "SETATTR", "REMOVE", "RENAME", "LINK"])
def test_delegations_of_nfsv4_are_called_back(tmp_path: Path, what: str) -> None:
    async def scenario(rig: Rig, client: Nfs3Client, root: bytes) -> None:
        (rig.tree / "f").write_bytes(b"hello")
        newer = await rig.client(b"newer")
        file = await opened(newer, "f", int(ShareAccess.READ), want=int(ShareAccess.WANT_READ_DELEG))
        delegation = file.result.delegation
        assert isinstance(delegation, ReadDelegation)
        await client.do("READ", nfs3.ReadArgs(file.fh, 0, 1))
        args: dict[str, Any] = {
            "WRITE": nfs3.WriteArgs(file.fh, 0, 1, StableHow.UNSTABLE, b"x"),
            "SETATTR": nfs3.SetattrArgs(file.fh, Sattr(mode=0), None),
            "REMOVE": DirOpArgs(root, "f"),
            "RENAME": nfs3.RenameArgs(DirOpArgs(root, "f"), DirOpArgs(root, "g")),
            "LINK": nfs3.LinkArgs(file.fh, DirOpArgs(root, "g")),
        }
        assert (await client.call(what, args[what]))[0] is Stat.JUKEBOX
        assert [op for op, _ in newer.callbacks.seen].count(CbOp.RECALL) == 1
        await newer.do(file.put, delegreturn_op(delegation.stateid))
        await client.do(what, args[what])

    run(scenario, tmp_path)


def test_what_is_open_can_be_read_when_its_name_is_gone(tmp_path: Path) -> None:
    async def scenario(rig: Rig, client: Nfs3Client, root: bytes) -> None:
        newer = await rig.client(b"newer")
        file = await opened(newer, "f", how=unchecked(mode=0o644))
        await client.do("WRITE", nfs3.WriteArgs(file.fh, 0, 3, StableHow.FILE_SYNC, b"abc"))
        await client.do("REMOVE", DirOpArgs(root, "f"))
        assert (await client.do("GETATTR", FileArgs(file.fh))).attributes.size == 3
        assert await read(newer, file) == (True, b"abc")
        await close(newer, file)
        assert (await client.call("GETATTR", FileArgs(file.fh)))[0] is Stat.STALE

    run(scenario, tmp_path)


def test_what_is_kept_open_between_calls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("quicfs.nfs.server.recent.MAX_RECENT_FILES", 4)

    async def scenario(rig: Rig, client: Nfs3Client, root: bytes) -> None:
        assert rig.server is not None
        recent = rig.server.recent
        files = []
        for number in range(9):
            (rig.tree / str(number)).write_bytes(b"hello")
            files.append(await find(client, root, str(number)))
            assert bytes((await client.do("READ", nfs3.ReadArgs(files[-1], 0, 9))).data) == b"hello"
        assert len(recent) == 4
        other = Nfs3Client(rig, uid=1234)
        await other.do("READ", nfs3.ReadArgs(files[8], 0, 9))
        # Rights that are taken away hold at once, and so do names.
        await client.do("SETATTR", nfs3.SetattrArgs(files[8], Sattr(mode=0o600), None))
        assert (await other.call("READ", nfs3.ReadArgs(files[8], 0, 9)))[0] is Stat.ACCES
        before = len(recent)
        await client.do("REMOVE", DirOpArgs(root, "7"))
        assert len(recent) == before - 1
        assert (await client.call("READ", nfs3.ReadArgs(files[7], 0, 9)))[0] is Stat.STALE
        await asyncio.sleep(5)
        assert len(recent) == 0

    run(scenario, tmp_path)


def test_mount_remembers_a_bounded_number(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("quicfs.nfs.server.mount.MAX_MOUNTS", 3)

    async def scenario(rig: Rig, client: Nfs3Client, root: bytes) -> None:
        for number in range(9):
            (rig.tree / str(number)).mkdir()
            await client.mount(f"/export/{number}")
        assert len((await client.do("DUMP")).mounts) == 3

    run(scenario, tmp_path)


def test_unknown_procedures(tmp_path: Path) -> None:
    assert {row.number for row in nfs3.PROCEDURES.values()} == set(range(22))
    assert {row.number for row in mount3.PROCEDURES.values()} == set(range(6))
