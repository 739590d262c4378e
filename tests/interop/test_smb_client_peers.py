"""The SMB client as a file system, against Debian's smbd and against our own server, over TCP."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path

import pytest

from quicfs.smb.auth import NtlmAuthenticator
from quicfs.smb.client.errors import ConnectError, ConnectProblem
from quicfs.smb.client.filesystem import SmbFileSystem
from quicfs.smb.client.shares import list_shares
from quicfs.smb.ntlm import Credentials, TargetNames
from quicfs.smb.server.server import SmbServer
from quicfs.smb.server.shares import Share
from quicfs.smb.users import UserDb
from quicfs.transport.tcp_stream import TcpStream, connect_tcp, listen_tcp
from quicfs.vfs.api import NOW, FileKind, LockKind, Node, OpenFile, OpenFlags, SetAttr
from quicfs.vfs.local import LocalTree
from quicfs.vfs.status import FsError, Status

pytestmark = pytest.mark.interop

READ, WRITE, CREATE = OpenFlags.READ, OpenFlags.WRITE, OpenFlags.CREATE
NEW = READ | WRITE | CREATE | OpenFlags.EXCLUSIVE
PASSWORD = "correct horse"
USER = "root"  # smbd wants a user of the system


@dataclass
class Peer:
    name: str
    port: int
    folder: Path
    symlinks: bool
    posix: bool


def unavailable(reason: str) -> None:
    if os.environ.get("CI") == "true":
        pytest.fail(reason)
    pytest.skip(reason)


SMB_CONF = """
[global]
  netbios name = PEER
  server role = standalone server
  map to guest = Bad User
  bind interfaces only = yes
  interfaces = lo
  smb ports = {port}
  private dir = {home}/private
  lock directory = {home}/lock
  state directory = {home}/state
  cache directory = {home}/cache
  pid directory = {home}/pid
  ncalrpc dir = {home}/ncalrpc
  log file = {home}/log
  passdb backend = tdbsam:{home}/private/passdb.tdb
  load printers = no
  printing = bsd
  disable spoolss = yes
  server min protocol = SMB3_11
[share]
  path = {folder}
  read only = no
  comment = a folder
[secret]
  path = {folder}
  valid users = nobody
[sealed]
  path = {folder}
  read only = no
  server smb encrypt = required
"""


@pytest.fixture(scope="module")
def samba(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Peer]:
    if shutil.which("smbd") is None or shutil.which("smbpasswd") is None:
        unavailable("smbd is not installed: apt-get install samba")
    if os.geteuid() != 0:
        unavailable("smbd wants to be started by root")
    home = tmp_path_factory.mktemp("smbd")
    folder = home / "folder"
    for name in ("folder", "private", "lock", "state", "cache", "pid", "ncalrpc"):
        (home / name).mkdir()
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    conf = home / "smb.conf"
    conf.write_text(SMB_CONF.format(home=home, folder=folder, port=port))
    subprocess.run(
        ["smbpasswd", "-c", conf, "-a", "-s", USER],
        input=f"{PASSWORD}\n{PASSWORD}\n".encode(),
        check=True,
        capture_output=True,
    )
    command = ["smbd", "--foreground", "--no-process-group", "-s", str(conf), "-p", str(port)]
    with (home / "out").open("wb") as out:
        smbd = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=out, stderr=out, start_new_session=True
        )
    try:
        for _ in range(100):
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
                break
            time.sleep(0.1)
        else:
            pytest.fail(f"smbd does not listen: {(home / 'out').read_text()}")
        yield Peer("samba", port, folder, symlinks=False, posix=False)
    finally:
        smbd.terminate()
        smbd.wait(10)
        end_helpers(conf)


def end_helpers(conf: Path) -> None:
    """smbd starts helpers for RPC in sessions of their own, which outlive it; they are known by our configuration."""
    option = f"--configfile={conf}".encode()
    for process in Path("/proc").iterdir():
        if process.name.isdigit():
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                if option in (process / "cmdline").read_bytes().split(b"\0"):
                    os.kill(int(process.name), signal.SIGTERM)


def connect_to(port: int) -> Callable[[], Awaitable[TcpStream]]:
    return lambda: connect_tcp("127.0.0.1", port)


def client(peer: Peer, share: str = "share", user: str = USER, password: str = PASSWORD) -> SmbFileSystem:
    return SmbFileSystem(connect_to(peer.port), "127.0.0.1", share, Credentials(user, password), timeout=20)


Steps = Callable[[SmbFileSystem, Node], Awaitable[None]]
Run = Callable[[Steps], None]


@pytest.fixture(scope="module")
def quicfs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Peer]:
    """Our own server in a thread of its own."""
    home = tmp_path_factory.mktemp("quicfs")
    folder = home / "folder"
    folder.mkdir()
    users = UserDb(home / "users")
    users.add(USER, PASSWORD)
    started: Future[tuple[int, Callable[[], object]]] = Future()

    async def main() -> None:
        loop, stop = asyncio.get_running_loop(), asyncio.Event()
        tree = LocalTree(str(folder))
        server = SmbServer(
            {"share": Share("share", tree, comment="a folder")},
            NtlmAuthenticator(users, TargetNames("quicfs")),
        )
        listener = await listen_tcp("127.0.0.1", 0, server.serve_stream)
        started.set_result((listener.port, lambda: loop.call_soon_threadsafe(stop.set)))
        await stop.wait()
        await listener.aclose()
        await tree.close()

    thread = threading.Thread(target=asyncio.run, args=(main(),))
    thread.start()
    port, stop = started.result(10)
    yield Peer("quicfs", port, folder, symlinks=True, posix=True)
    stop()
    thread.join(10)


@pytest.fixture(params=["quicfs", "samba"])
def peer(request: pytest.FixtureRequest) -> Peer:
    found = request.getfixturevalue(request.param)
    assert isinstance(found, Peer)
    return found


@pytest.fixture
def run(peer: Peer, request: pytest.FixtureRequest) -> Run:
    """Runs steps with a connected file system and an empty directory."""

    def run(steps: Steps) -> None:
        async def main() -> None:
            fs = client(peer)
            await fs.connect()
            try:
                name = "".join(c if c.isalnum() else "_" for c in request.node.name)
                top, _ = await fs.mkdir(fs.root, name)
                await steps(fs, top)
            finally:
                await fs.close()

        asyncio.run(main())

    return run


async def refused(status: Status, call: Awaitable[object]) -> None:
    with pytest.raises(FsError) as caught:
        await call
    assert caught.value.status is status, caught.value


async def write_file(fs: SmbFileSystem, top: Node, name: str, data: bytes, mode: int = 0o644) -> None:
    file, _, _ = await fs.open(top, name, WRITE | CREATE | OpenFlags.TRUNCATE, mode)
    await file.write(0, data)
    await file.close()


async def read_file(fs: SmbFileSystem, top: Node, name: str) -> bytes:
    file, attr, _ = await fs.open(top, name, READ)
    data = bytes(await file.read(0, attr.size + 10))
    await file.close()
    return data


def test_files(run: Run) -> None:
    async def steps(fs: SmbFileSystem, top: Node) -> None:
        file, attr, created = await fs.open(top, "file", NEW, 0o644)
        assert created
        assert (attr.kind, attr.size, attr.mode & 0o600, attr.nlink) == (FileKind.REGULAR, 0, 0o600, 1)
        assert await file.write(0, b"hello world") == 11
        assert await file.write(20, b"!", stable=True) == 1
        assert bytes(await file.read(0, 100)) == b"hello world" + bytes(9) + b"!"
        assert bytes(await file.read(6, 5)) == b"world"
        assert bytes(await file.read(21, 5)) == b""
        assert bytes(await file.read(1000, 5)) == b""
        assert (await file.getattr()).size == 21
        await file.fsync()
        node, found = await fs.lookup(top, "file")
        assert node is file.node
        assert (found.size, found.fileid) == (21, attr.fileid)
        await file.close()
        await file.close()
        await refused(Status.EXISTS, fs.open(top, "file", NEW))
        file, attr, created = await fs.open(top, "file", READ | CREATE)
        assert (created, attr.size) == (False, 21)
        await refused(Status.BAD_FILE, file.write(0, b"x"))
        await file.close()
        await refused(Status.BAD_FILE, file.read(0, 1))
        file, attr, created = await fs.open(top, "file", WRITE | OpenFlags.TRUNCATE)
        assert (created, attr.size) == (False, 0)
        await file.close()
        await refused(Status.NOT_FOUND, fs.open(top, "none", READ))
        await refused(Status.NOT_FOUND, fs.lookup(top, "none"))
        await refused(Status.NOT_FOUND, fs.lookup(top, "none/deeper"))

    run(steps)


def test_large_transfers_are_cut_and_put_together(run: Run) -> None:
    async def steps(fs: SmbFileSystem, top: Node) -> None:
        data = os.urandom((20 << 20) + 12345)
        file, _, _ = await fs.open(top, "large", NEW)
        assert await file.write(0, data) == len(data)
        assert await file.read(0, len(data) + 5000) == data
        assert await file.read(1 << 20, 9 << 20) == data[1 << 20 : 10 << 20]
        assert await file.read(len(data) - 10, 9 << 20) == data[-10:]
        far = 5 << 30
        await file.write(far, b"beyond 4 GiB")
        assert bytes(await file.read(far, 100)) == b"beyond 4 GiB"
        assert (await file.getattr()).size == far + 12
        await file.close()
        await fs.unlink(top, "large")

    run(steps)


def test_many_calls_at_once(run: Run) -> None:
    async def steps(fs: SmbFileSystem, top: Node) -> None:
        async def one(index: int) -> None:
            data = bytes([index % 251]) * (index * 97)
            await write_file(fs, top, f"file{index}", data)
            assert await read_file(fs, top, f"file{index}") == data

        await asyncio.gather(*(one(index) for index in range(200)))
        names = [entry.name for entry in (await fs.readdir(top, limit=10_000)).entries]
        assert sorted(names) == sorted(f"file{index}" for index in range(200))

    run(steps)


def test_directories(run: Run) -> None:
    async def steps(fs: SmbFileSystem, top: Node) -> None:
        node, attr = await fs.mkdir(top, "dir")
        assert attr.kind is FileKind.DIRECTORY
        await refused(Status.EXISTS, fs.mkdir(top, "dir"))
        await write_file(fs, node, "file", b"x")
        await refused(Status.NOT_EMPTY, fs.rmdir(top, "dir"))
        await refused(Status.IS_DIR, fs.open(top, "dir", READ))
        await refused(Status.IS_DIR, fs.unlink(top, "dir"))
        await refused(Status.NOT_DIR, fs.rmdir(node, "file"))
        assert (await fs.lookup(top, "dir/file"))[1].size == 1
        await fs.unlink(top, "dir/file")
        await fs.rmdir(top, "dir")
        await refused(Status.NOT_FOUND, fs.lookup(top, "dir"))
        await refused(Status.NOT_FOUND, fs.rmdir(top, "dir"))
        await refused(Status.STALE, fs.getattr(node))
        await refused(Status.INVALID, fs.lookup(top, "../up"))

    run(steps)


def test_listings_in_pages(run: Run) -> None:
    async def steps(fs: SmbFileSystem, top: Node) -> None:
        assert (await fs.readdir(top)).eof
        wanted = {f"file with a long name {index:04}" for index in range(1500)}
        names = iter(wanted)

        async def worker() -> None:
            for name in names:
                file, _, _ = await fs.open(top, name, WRITE | CREATE)
                await file.close()

        await asyncio.gather(*(worker() for _ in range(20)))
        for limit in (100, 1024, 10_000):
            seen: list[str] = []
            cookie, eof = 0, False
            while not eof:
                page = await fs.readdir(top, cookie, limit)
                assert len(page.entries) <= limit
                seen += [entry.name for entry in page.entries]
                cookie, eof = page.entries[-1].cookie if page.entries else cookie, page.eof
            assert len(seen) == len(wanted)
            assert set(seen) == wanted
        entry = (await fs.readdir(top, 0, 1)).entries[0]
        _, attr = await fs.lookup(top, entry.name)
        assert (entry.attr.kind, entry.attr.fileid, entry.attr.mtime_ns) == (
            attr.kind,
            attr.fileid,
            attr.mtime_ns,
        )

    run(steps)


def test_renaming(run: Run) -> None:
    async def steps(fs: SmbFileSystem, top: Node) -> None:
        await write_file(fs, top, "a", b"a")
        await write_file(fs, top, "b", b"bb")
        await refused(Status.EXISTS, fs.rename(top, "a", top, "b", replace=False))
        await fs.rename(top, "a", top, "b")
        assert await read_file(fs, top, "b") == b"a"
        await refused(Status.NOT_FOUND, fs.lookup(top, "a"))
        await refused(Status.NOT_FOUND, fs.rename(top, "a", top, "c"))
        one, _ = await fs.mkdir(top, "one")
        two, _ = await fs.mkdir(top, "two")
        inner, _ = await fs.mkdir(one, "inner")
        await fs.rename(top, "b", inner, "deep")
        deep, _ = await fs.lookup(inner, "deep")
        await fs.rename(one, "inner", two, "moved")
        # Nodes below what was renamed are where it is now.
        assert (await fs.getattr(deep)).size == 1
        assert await read_file(fs, top, "two/moved/deep") == b"a"
        assert (await fs.lookup(inner, "deep"))[0] is deep

    run(steps)


def test_open_files_survive_renaming_and_unlinking(run: Run) -> None:
    async def steps(fs: SmbFileSystem, top: Node) -> None:
        file, _, _ = await fs.open(top, "open", NEW)
        await file.write(0, b"one")
        await fs.rename(top, "open", top, "renamed")
        await file.write(3, b"two")
        assert await read_file(fs, top, "renamed") == b"onetwo"
        await fs.unlink(top, "renamed")
        assert bytes(await file.read(0, 10)) == b"onetwo"
        await file.write(6, b"three")
        assert (await file.getattr()).size == 11
        assert (await fs.getattr(file.node)).size == 11
        await file.close()
        await refused(Status.NOT_FOUND, fs.lookup(top, "renamed"))
        assert not (await fs.readdir(top)).entries

    run(steps)


def test_sizes_times_and_modes(run: Run, peer: Peer) -> None:
    async def steps(fs: SmbFileSystem, top: Node) -> None:
        await write_file(fs, top, "file", b"0123456789")
        node, _ = await fs.lookup(top, "file")
        attr = await fs.setattr(node, SetAttr(size=4))
        assert attr.size == 4
        assert (await fs.setattr(node, SetAttr(size=1 << 20))).size == 1 << 20
        second = 1_234_567_890_123_456_700
        attr = await fs.setattr(node, SetAttr(atime_ns=second + 100, mtime_ns=second))
        assert (attr.atime_ns, attr.mtime_ns) == (second + 100, second)
        assert (await fs.getattr(node)).mtime_ns == second
        attr = await fs.setattr(node, SetAttr(mtime_ns=NOW))
        assert abs(attr.mtime_ns - time.time_ns()) < 10**10
        for mode in (0o444, 0o644) if not peer.posix else (0o600, 0o4755, 0o000, 0o640):
            assert (await fs.setattr(node, SetAttr(mode=mode))).mode == mode
        file, _, _ = await fs.open(top, "file", READ | WRITE)
        assert (await file.setattr(SetAttr(size=7, mtime_ns=second))).size == 7
        attr = await file.setattr(SetAttr(mode=0o444))
        assert attr.mode == 0o444
        assert attr.mtime_ns == second
        await file.close()
        await fs.setattr(node, SetAttr(mode=0o644))
        directory, _ = await fs.mkdir(top, "dir", 0o755)
        assert (await fs.setattr(directory, SetAttr(mtime_ns=second))).mtime_ns == second
        assert await fs.setattr(node, SetAttr()) == await fs.getattr(node)
        await fs.fsync(node)
        await fs.fsync(directory)

    run(steps)


def test_names(run: Run) -> None:
    async def steps(fs: SmbFileSystem, top: Node) -> None:
        names = ["ümläut", "日本語", "a b", "dot.", " space", "emoji 😀", "x" * 200, "a'b", "#$%&()", "-"]
        for name in names:
            await write_file(fs, top, name, name.encode())
        listed = {entry.name for entry in (await fs.readdir(top)).entries}
        assert listed == set(names)
        for name in names:
            assert await read_file(fs, top, name) == name.encode()
            await fs.unlink(top, name)

    run(steps)


def test_names_that_windows_reserves(run: Run) -> None:
    async def steps(fs: SmbFileSystem, top: Node) -> None:
        names = ["a:b", "what?", 'say "x"', "a*b", "<tag>", "pipe|", "back\\slash", "trailing ", "colon:"]
        for name in names:
            await write_file(fs, top, name, name.encode())
        assert {entry.name for entry in (await fs.readdir(top)).entries} == set(names)
        for name in names:
            assert await read_file(fs, top, name) == name.encode()

    run(steps)


def test_symbolic_links(run: Run, peer: Peer) -> None:
    async def steps(fs: SmbFileSystem, top: Node) -> None:
        if not peer.symlinks:
            await refused(Status.NOT_SUPPORTED, fs.symlink(top, "link", "target"))
            assert not (await fs.readdir(top)).entries
            return
        directory, _ = await fs.mkdir(top, "dir")
        await write_file(fs, directory, "file", b"content")
        link, attr = await fs.symlink(top, "link", "dir/file")
        assert attr.kind is FileKind.SYMLINK
        assert await fs.readlink(link) == "dir/file"
        assert (await fs.lookup(top, "link"))[1].kind is FileKind.SYMLINK
        assert (await fs.lookup(top, "link", follow=True))[1].size == 7
        assert await read_file(fs, top, "link") == b"content"
        await refused(Status.LOOP, fs.open(top, "link", READ | OpenFlags.NOFOLLOW))
        await fs.symlink(top, "dirlink", "dir")
        assert (await fs.lookup(top, "dirlink/file"))[1].size == 7
        await fs.symlink(top, "a", "b")
        await fs.symlink(top, "b", "a")
        await refused(Status.LOOP, fs.lookup(top, "a", follow=True))
        absolute, _ = await fs.symlink(top, "absolute", "/etc/passwd")
        assert await fs.readlink(absolute) == "/etc/passwd"
        with pytest.raises(FsError):
            await fs.lookup(top, "absolute", follow=True)
        kinds = {entry.name: entry.attr.kind for entry in (await fs.readdir(top)).entries}
        assert kinds["link"] is FileKind.SYMLINK
        await refused(Status.INVALID, fs.readlink(directory))
        await fs.unlink(top, "link")
        assert await read_file(fs, directory, "file") == b"content"

    run(steps)


def test_hard_links(run: Run) -> None:
    async def steps(fs: SmbFileSystem, top: Node) -> None:
        await write_file(fs, top, "one", b"x")
        node, before = await fs.lookup(top, "one")
        attr = await fs.link(node, top, "two")
        assert (attr.nlink, attr.fileid) == (2, before.fileid)
        assert (await fs.lookup(top, "two"))[1].fileid == before.fileid
        await refused(Status.EXISTS, fs.link(node, top, "two"))
        await fs.unlink(top, "one")
        assert await read_file(fs, top, "two") == b"x"

    run(steps)


def test_statfs(run: Run, peer: Peer) -> None:
    async def steps(fs: SmbFileSystem, top: Node) -> None:
        found, real = await fs.statfs(), os.statvfs(peer.folder)
        assert found.block_size * found.blocks == pytest.approx(real.f_frsize * real.f_blocks, rel=0.01)
        assert found.name_max == 255
        assert not found.read_only

    run(steps)


def test_copying_inside_the_server(run: Run) -> None:
    async def steps(fs: SmbFileSystem, top: Node) -> None:
        data = os.urandom(3 << 20)
        await write_file(fs, top, "source", data)
        source, _, _ = await fs.open(top, "source", READ)
        target, _, _ = await fs.open(top, "target", NEW)
        done = 0
        while copied := await fs.copy_range(source, done, target, done, len(data)):
            done += copied
        assert done == len(data)
        assert await target.read(0, done) == data
        await source.close()
        await target.close()

    run(steps)


def test_locks(run: Run, peer: Peer) -> None:
    async def steps(fs: SmbFileSystem, top: Node) -> None:
        other = client(peer)
        try:
            first, _, _ = await fs.open(top, "locked", NEW)
            second = await reopened(other, first)
            await first.lock(0, 100, LockKind.EXCLUSIVE, owner=1)
            await refused(Status.LOCKED, second.lock(50, 10, LockKind.SHARED, owner=1))
            await second.lock(100, 0, LockKind.EXCLUSIVE, owner=1)
            await refused(Status.LOCKED, first.lock(200, 1, LockKind.SHARED, owner=1))
            await refused(Status.LOCKED, first.lock(0, 1, LockKind.SHARED, owner=2))
            await first.lock(40, 20, LockKind.UNLOCK, owner=1)  # the middle of it
            await second.lock(40, 20, LockKind.EXCLUSIVE, owner=1)
            await refused(Status.LOCKED, second.lock(0, 1, LockKind.EXCLUSIVE, owner=1))
            await second.lock(40, 20, LockKind.UNLOCK, owner=1)
            waiting = asyncio.create_task(second.lock(0, 10, LockKind.EXCLUSIVE, owner=1, wait=True))
            await fs.getattr(top)
            assert not waiting.done()
            await first.lock(0, 0, LockKind.UNLOCK, owner=1)
            await asyncio.wait_for(waiting, 10)
            cancelled = asyncio.create_task(first.lock(0, 1, LockKind.SHARED, owner=1, wait=True))
            await fs.getattr(top)
            cancelled.cancel()
            with pytest.raises(asyncio.CancelledError):
                await cancelled
            await second.lock(0, 10, LockKind.UNLOCK, owner=1)
            await first.close()
            await second.close()
        finally:
            await other.close()

    run(steps)


async def reopened(other: SmbFileSystem, file: OpenFile) -> OpenFile:
    path = file.shown.lstrip("/")
    again, _, _ = await other.open(other.root, path, READ | WRITE)
    return again


def test_watching(run: Run) -> None:
    async def steps(fs: SmbFileSystem, top: Node) -> None:
        watch = fs.watch(top)
        first = asyncio.create_task(anext(watch))
        while not first.done():  # until the server has begun to watch
            await write_file(fs, top, "new", b"x")
            await fs.unlink(top, "new")
            await asyncio.sleep(0.01)
        change = first.result()
        assert change.name == "new"
        await watch.aclose()
        with pytest.raises(StopAsyncIteration):
            while True:
                await anext(watch)

    run(steps)


def test_holes(run: Run) -> None:
    async def steps(fs: SmbFileSystem, top: Node) -> None:
        file, _, _ = await fs.open(top, "sparse", NEW)
        await file.write(0, b"x" * (1 << 20))
        await file.write(8 << 20, b"y" * 4096)
        assert await file.seek_data(0) == 0
        hole = await file.seek_data(0, hole=True)
        assert (1 << 20) <= hole <= (8 << 20) + 4096
        assert await file.seek_data(8 << 20) == 8 << 20
        await refused(Status.NO_DATA, file.seek_data(9 << 20))
        await file.allocate(0, 4096, punch_hole=True)
        assert bytes(await file.read(0, 8192)) == bytes(4096) + b"x" * 4096
        await file.close()

    run(steps)


def problem(peer: Peer, share: str, user: str, password: str) -> ConnectError:
    async def main() -> None:
        fs = client(peer, share, user, password)
        try:
            await fs.connect()
        finally:
            await fs.close()

    with pytest.raises(ConnectError) as caught:
        asyncio.run(main())
    return caught.value


def test_a_wrong_password_is_a_sentence(peer: Peer) -> None:
    error = problem(peer, "share", USER, "wrong")
    assert error.problem is ConnectProblem.LOGON
    assert str(error) == f"user {USER!r} was refused by 127.0.0.1: check the name and the password"


def test_an_unknown_share_is_a_sentence(peer: Peer) -> None:
    error = problem(peer, "none", USER, PASSWORD)
    assert error.problem is ConnectProblem.SHARE
    assert "share 'none' is not on 127.0.0.1" in str(error)
    assert "choose one" in str(error)


def test_a_forbidden_share_is_a_sentence(samba: Peer) -> None:
    error = problem(samba, "secret", USER, PASSWORD)
    assert error.problem is ConnectProblem.ACCESS
    assert "secret" in str(error)


def test_the_list_of_shares(peer: Peer) -> None:
    found = asyncio.run(list_shares(connect_to(peer.port), "127.0.0.1", Credentials(USER, PASSWORD)))
    assert "share" in [share.name for share in found]
    assert next(share for share in found if share.name == "share").remark == "a folder"


@pytest.mark.parametrize("share", ["share", "sealed"])
def test_encryption(samba: Peer, share: str) -> None:
    async def main() -> None:
        fs = SmbFileSystem(
            connect_to(samba.port), "127.0.0.1", share, Credentials(USER, PASSWORD), encrypt=share == "share"
        )
        await fs.connect()
        data = os.urandom(3 << 20)
        await write_file(fs, fs.root, f"encrypted {share}", data)
        assert await read_file(fs, fs.root, f"encrypted {share}") == data
        await fs.unlink(fs.root, f"encrypted {share}")
        await fs.close()

    asyncio.run(main())
