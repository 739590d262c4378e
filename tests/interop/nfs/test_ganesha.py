"""The NFS client against nfs-ganesha: on TCP, and over QUIC by way of `quicfs gateway`."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import shutil
import stat
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import pytest

from quicfs.certs import CertificateFiles
from quicfs.demo_tree import differences, real_tree
from quicfs.nfs.client.filesystem import NfsFileSystem
from quicfs.nfs.client.tcp import tcp_connector
from quicfs.vfs import NOW, FileKind, FsError, LockKind, OpenFlags, SetAttr, Status
from tests.interop.nfs.ways import HOST, Place, connecting, gateway, mounted_at
from tests.interop.peers.processes import free_port
from tests.perf.nfs_calls import Ganesha

pytestmark = pytest.mark.interop

MIB = 1 << 20
READ, WRITE, CREATE = OpenFlags.READ, OpenFlags.WRITE, OpenFlags.CREATE
NEW = READ | WRITE | CREATE | OpenFlags.EXCLUSIVE
Scenario = Callable[[NfsFileSystem, Path], Awaitable[None]]


@pytest.fixture(scope="module", params=["tcp", "quic"])
def ganesha(
    tmp_path_factory: pytest.TempPathFactory, certificates: CertificateFiles, request: pytest.FixtureRequest
) -> Iterator[Place]:
    """The server, and where to find it: itself, or through `quicfs gateway` and `quicfs connect`."""
    peer = Ganesha()
    if peer.missing is not None:
        (pytest.fail if os.environ.get("CI") else pytest.skip)(f"nfs-ganesha is missing: {peer.missing}")
    directory = tmp_path_factory.mktemp(f"ganesha-{request.param}")
    folder, state = directory / "folder", directory / "state"
    folder.mkdir()
    state.mkdir()
    with contextlib.ExitStack() as stack:
        served = stack.enter_context(contextlib.contextmanager(peer.serving)(folder, state))
        port, quic = served.port, 0
        if request.param == "quic":
            quic, tcp = free_port(), free_port()
            stack.enter_context(gateway(directory, certificates, port, quic))
            stack.enter_context(connecting(directory, certificates, quic, tcp))
            port = tcp
        yield Place(port, folder, served.export, quic_port=quic)


@pytest.fixture
def mounted(ganesha: Place) -> Callable[[Scenario], None]:
    """Runs a scenario on the empty export. ganesha wants to be told of changes: none go past it."""

    def go(scenario: Scenario) -> None:
        async def main() -> None:
            fs = NfsFileSystem(tcp_connector(HOST, ganesha.port), HOST, ganesha.export)
            try:
                await scenario(fs, ganesha.folder)
            finally:
                await fs.close()

        asyncio.run(main())

    return go


def batched(names: list[str], size: int) -> list[list[str]]:
    return [names[start : start + size] for start in range(0, len(names), size)]


async def fails(status: Status, call: Awaitable[object]) -> None:
    with pytest.raises(FsError) as refused:
        await call
    assert refused.value.status is status


def test_data(mounted: Callable[[Scenario], None]) -> None:
    async def scenario(fs: NfsFileSystem, folder: Path) -> None:
        content = random.Random(1).randbytes(5 * MIB + 13)
        file, attr, created = await fs.open(fs.root, "data", NEW, 0o640)
        assert created and attr.mode == 0o640
        await asyncio.gather(
            *(file.write(start, content[start : start + MIB]) for start in range(0, len(content), MIB))
        )
        await file.fsync()
        assert (folder / "data").read_bytes() == content
        pieces = await asyncio.gather(*(file.read(start, MIB) for start in range(0, len(content), MIB)))
        assert b"".join(pieces) == content
        assert bytes(await file.read(len(content), 10)) == b""
        await file.setattr(SetAttr(size=7))
        assert (await file.getattr()).size == 7 and (folder / "data").stat().st_size == 7
        await file.write(3, b"stable", stable=True)
        await file.close()
        assert (folder / "data").read_bytes() == content[:3] + b"stable"
        await fails(Status.EXISTS, fs.open(fs.root, "data", NEW))
        file, attr, created = await fs.open(fs.root, "data", WRITE | CREATE | OpenFlags.TRUNCATE)
        assert not created and attr.size == 0
        await file.close()
        await fs.unlink(fs.root, "data")

    mounted(scenario)


def test_names(mounted: Callable[[Scenario], None]) -> None:
    async def scenario(fs: NfsFileSystem, folder: Path) -> None:
        root = fs.root
        await fs.mkdir(root, "d", 0o750)
        file, _, _ = await fs.open(root, "d/f", NEW)
        await file.close()
        await fs.rename(root, "d/f", root, "g")
        node, attr = await fs.lookup(root, "g")
        assert attr.kind is FileKind.REGULAR
        assert (await fs.link(node, root, "d/h")).nlink == 2
        link, _ = await fs.symlink(root, "s", "d/h")
        assert await fs.readlink(link) == "d/h"
        assert (await fs.lookup(root, "s", follow=True))[0] == node
        assert stat.S_IMODE((folder / "d").stat().st_mode) == 0o750
        await fails(Status.NOT_FOUND, fs.lookup(root, "none"))
        await fails(Status.EXISTS, fs.mkdir(root, "g"))
        await fails(Status.NOT_EMPTY, fs.rmdir(root, "d"))
        await fails(Status.NOT_DIR, fs.lookup(root, "g/x"))
        for name in ("d/h", "g", "s"):
            await fs.unlink(root, name)
        await fs.rmdir(root, "d")
        assert os.listdir(folder) == []

    mounted(scenario)


def test_attributes(mounted: Callable[[Scenario], None]) -> None:
    async def scenario(fs: NfsFileSystem, folder: Path) -> None:
        path = folder / "f"
        file, _, _ = await fs.open(fs.root, "f", NEW)
        await file.write(0, b"hello", stable=True)
        await file.close()
        node, attr = await fs.lookup(fs.root, "f")
        assert (attr.size, attr.fileid) == (5, path.stat().st_ino)
        changed = await fs.setattr(node, SetAttr(mode=0o604, uid=12, gid=34, size=2, mtime_ns=1_000_000_007))
        found = path.stat()
        assert (stat.S_IMODE(found.st_mode), found.st_uid, found.st_gid) == (0o604, 12, 34)
        assert (found.st_size, found.st_mtime_ns) == (2, 1_000_000_007)
        assert (changed.mode, changed.uid, changed.size, changed.mtime_ns) == (0o604, 12, 2, 1_000_000_007)
        await fs.setattr(node, SetAttr(mtime_ns=NOW))
        assert path.stat().st_mtime_ns > 1_600_000_000_000_000_000
        assert (await fs.statfs()).blocks > 0
        await fs.unlink(fs.root, "f")

    mounted(scenario)


def test_a_listing_of_a_thousand(mounted: Callable[[Scenario], None]) -> None:
    async def scenario(fs: NfsFileSystem, folder: Path) -> None:
        directory, _ = await fs.mkdir(fs.root, "many")
        names = {f"file-{number:04}" for number in range(1_000)}

        async def make(name: str) -> None:
            file, _, _ = await fs.open(directory, name, NEW)
            await file.write(0, name.encode())
            await file.close()

        for some in batched(sorted(names), 50):
            await asyncio.gather(*(make(name) for name in some))
        found = []
        cookie, eof = 0, False
        while not eof:
            page = await fs.readdir(directory, cookie, 100)
            found += page.entries
            cookie, eof = page.entries[-1].cookie if page.entries else cookie, page.eof
        assert {entry.name for entry in found} == names and len(found) == len(names)
        assert {entry.attr.size for entry in found} == {9}
        for some in batched(sorted(names), 50):
            await asyncio.gather(*(fs.unlink(directory, name) for name in some))
        await fs.rmdir(fs.root, "many")

    mounted(scenario)


def test_locks_of_two_clients(ganesha: Place) -> None:
    async def main() -> None:
        one = NfsFileSystem(tcp_connector(HOST, ganesha.port), HOST, ganesha.export)
        other = NfsFileSystem(tcp_connector(HOST, ganesha.port), HOST, ganesha.export)
        try:
            mine, _, _ = await one.open(one.root, "locked", NEW)
            theirs, _, _ = await other.open(other.root, "locked", READ | WRITE)
            await mine.lock(0, 10, LockKind.EXCLUSIVE, owner=1)
            await fails(Status.LOCKED, theirs.lock(5, 1, LockKind.SHARED, owner=1))
            await theirs.lock(10, 5, LockKind.EXCLUSIVE, owner=1)
            waiting = asyncio.ensure_future(theirs.lock(0, 0, LockKind.EXCLUSIVE, owner=1, wait=True))
            await asyncio.sleep(0.2)
            assert not waiting.done()
            await mine.lock(0, 0, LockKind.UNLOCK, owner=1)
            await asyncio.wait_for(waiting, 60.0)
            await theirs.close()
            await mine.close()
            await one.unlink(one.root, "locked")
        finally:
            await one.close()
            await other.close()

    asyncio.run(main())


@pytest.mark.fuse
@pytest.mark.parametrize("ganesha", ["quic"], indirect=True, scope="module")
def test_the_mount_of_a_whole_tree(
    ganesha: Place, tmp_path: Path, certificates: CertificateFiles, progress: Callable[[int, int], None]
) -> None:
    """`quicfs mount` -> QUIC -> `quicfs gateway` -> nfs-ganesha: what the demo copies, compared on both sides."""
    mountpoint = tmp_path / "mnt"
    mountpoint.mkdir()
    url = f"nfs+quic://localhost:{ganesha.quic_port}/{ganesha.export.strip('/')}"
    tree = real_tree(500, 10_000_000)
    with mounted_at(mountpoint, url, certificates, tmp_path / "mount.log"):
        copy = mountpoint / "copy"
        copy.mkdir()
        tree.make_directories(copy)
        done = 0
        for path in tree.files:
            done += tree.copy_file(copy, path)
            progress(done, tree.bytes)
        tree.finish(copy)
        assert differences(tree, copy, lambda _: None) == []
    assert differences(tree, ganesha.folder / "copy", lambda _: None) == []
    with mounted_at(mountpoint, url, certificates, tmp_path / "again.log"):
        assert differences(tree, copy, lambda _: None) == []
        shutil.rmtree(copy)
    assert os.listdir(ganesha.folder) == []
