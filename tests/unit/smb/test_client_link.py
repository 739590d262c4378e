"""The client when the connection breaks, keeps silent or comes back, against our own server."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from quicfs.smb.auth import NtlmAuthenticator
from quicfs.smb.client.errors import ConnectError, ConnectProblem
from quicfs.smb.client.filesystem import SmbFileSystem
from quicfs.smb.ntlm import Credentials, TargetNames
from quicfs.smb.server.server import SmbServer
from quicfs.smb.server.shares import Share
from quicfs.smb.users import nt_hash
from quicfs.transport.tcp_stream import TcpStream
from quicfs.vfs.api import LockKind, OpenFlags
from quicfs.vfs.local import LocalTree
from quicfs.vfs.status import FsError, Status
from tests.unit.smb.raw_client import MemoryStream

READ, WRITE, CREATE = OpenFlags.READ, OpenFlags.WRITE, OpenFlags.CREATE


class Secured(TcpStream):
    """As QUIC is: what carries it is encrypted already."""

    @property
    def secured(self) -> bool:
        return True


class Careless(MemoryStream):
    """Does not tell the other end when it is closed."""

    async def aclose(self) -> None:
        return


class Users:
    def __init__(self) -> None:
        self.password = "secret"

    def find(self, name: str) -> bytes | None:
        return nt_hash(self.password) if name == "alice" else None


class Network:
    """Our server at the other end of socket pairs, with a switch for the line."""

    def __init__(self, folder: Path, *, secured: bool = False) -> None:
        self.users = Users()
        self.folder = folder
        self.stream = Secured if secured else TcpStream
        self.up = True
        self.silent = False
        self.connects = 0
        self.refused_thrice = asyncio.Event()
        self._tree: LocalTree | None = None
        self._server: SmbServer | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._streams: list[TcpStream] = []
        self._mute: list[socket.socket] = []

    def start(self, *, guest: bool = False) -> None:
        self._tree = LocalTree(self.folder)
        authenticator = NtlmAuthenticator(self.users, TargetNames("server"))
        self._server = SmbServer({"share": Share("share", self._tree)}, authenticator, guest=guest)

    async def connect(self) -> TcpStream:
        self.connects += 1
        if not self.up:
            if self.connects == 3:
                self.refused_thrice.set()
            raise ConnectionError("server refuses connections")
        ours, theirs = socket.socketpair()
        if self.silent:
            self._mute.append(theirs)
        else:
            assert self._server is not None
            stream = self.stream(theirs)
            self._streams.append(stream)
            task = asyncio.create_task(self._server.serve_stream(stream))
            self._tasks.add(task)
        return self.stream(ours)

    async def cut(self) -> None:
        """Every connection breaks, and the server sees it."""
        for stream in self._streams:
            await stream.aclose()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._streams.clear()
        self._tasks.clear()

    async def close(self) -> None:
        await self.cut()
        for sock in self._mute:
            sock.close()
        if self._tree is not None:
            await self._tree.close()

    def client(
        self, *, user: str = "alice", password: str = "secret", timeout: float = 5.0, encrypt: bool = False
    ) -> SmbFileSystem:
        credentials = Credentials(user, password)
        return SmbFileSystem(self.connect, "server", "share", credentials, timeout=timeout, encrypt=encrypt)


def run(network: Network, steps: Callable[[SmbFileSystem], Awaitable[None]], *, timeout: float = 5.0) -> None:
    async def main() -> None:
        network.start()
        fs = network.client(timeout=timeout)
        try:
            await fs.connect()
            await asyncio.wait_for(steps(fs), 60)
        finally:
            await fs.close()
            await network.close()

    asyncio.run(main())


async def refused(status: Status, call: Awaitable[object]) -> FsError:
    with pytest.raises(FsError) as caught:
        await call
    assert caught.value.status is status, caught.value
    return caught.value


@pytest.mark.parametrize("secured", [False, True])
@pytest.mark.parametrize("encrypt", [False, True])
def test_all_kinds_of_protection(tmp_path: Path, secured: bool, encrypt: bool) -> None:
    network = Network(tmp_path, secured=secured)

    async def main() -> None:
        network.start()
        fs = network.client(encrypt=encrypt)
        await fs.connect()
        file, _, _ = await fs.open(fs.root, "file", READ | WRITE | CREATE)
        data = bytes(range(256)) * 4096 * 3
        await file.write(0, data)
        assert await file.read(0, len(data)) == data
        await file.close()
        await fs.close()
        await network.close()

    asyncio.run(main())


def test_calls_go_on_after_the_connection_was_lost(tmp_path: Path) -> None:
    network = Network(tmp_path)

    async def steps(fs: SmbFileSystem) -> None:
        directory, _ = await fs.mkdir(fs.root, "dir")
        file, _, _ = await fs.open(directory, "file", READ | WRITE | CREATE)
        await file.write(0, b"before")
        await network.cut()
        assert (await fs.lookup(directory, "file"))[1].size == 6
        await network.cut()
        assert bytes(await file.read(0, 100)) == b"before"  # opened again by its path
        await network.cut()
        await file.write(6, b" and after")
        await network.cut()
        assert [entry.name for entry in (await fs.readdir(directory)).entries] == ["file"]
        await network.cut()
        await file.fsync()
        assert (await file.getattr()).size == 16
        await file.close()
        assert network.connects == 6

    run(network, steps)
    assert (tmp_path / "dir/file").read_bytes() == b"before and after"


def test_calls_wait_for_a_server_that_comes_back(tmp_path: Path) -> None:
    network = Network(tmp_path)

    async def steps(fs: SmbFileSystem) -> None:
        (tmp_path / "file").write_bytes(b"x")
        network.up = False
        await network.cut()
        waiting = [asyncio.create_task(fs.lookup(fs.root, "file")) for _ in range(20)]
        await asyncio.wait_for(network.refused_thrice.wait(), 10)
        network.up = True
        for task in waiting:
            assert (await task)[1].size == 1
        assert network.connects == 4  # one attempt for all of them

    run(network, steps)


def test_a_server_that_stays_away_gives_errors_in_time(tmp_path: Path) -> None:
    network = Network(tmp_path)

    async def steps(fs: SmbFileSystem) -> None:
        file, _, _ = await fs.open(fs.root, "file", READ | WRITE | CREATE)
        network.up = False
        await network.cut()
        loop = asyncio.get_running_loop()
        start = loop.time()
        error = await refused(Status.DISCONNECTED, fs.getattr(fs.root))
        assert "server refuses connections" in str(error)
        assert 1.5 < loop.time() - start < 6
        start = loop.time()  # it is known to be away now
        await asyncio.gather(
            *(refused(Status.DISCONNECTED, fs.lookup(fs.root, "file")) for _ in range(50)),
            refused(Status.DISCONNECTED, file.read(0, 1)),
        )
        assert loop.time() - start < 3
        network.up = True
        for _ in range(30):  # it is noticed within a second or so
            with contextlib.suppress(FsError):
                await file.write(0, b"again")
                break
            await asyncio.sleep(0.1)
        assert bytes(await file.read(0, 10)) == b"again"
        await file.close()

    run(network, steps, timeout=2.0)


def test_a_silent_server_is_given_up(tmp_path: Path) -> None:
    network = Network(tmp_path)

    async def steps(fs: SmbFileSystem) -> None:
        network.silent = True
        await network.cut()
        loop = asyncio.get_running_loop()
        start = loop.time()
        with pytest.raises(FsError) as caught:
            await fs.getattr(fs.root)
        assert caught.value.status in (Status.DISCONNECTED, Status.TIMEOUT)
        assert loop.time() - start < 5
        network.silent = False
        await fs.getattr(fs.root)

    run(network, steps, timeout=1.0)


def test_a_line_that_goes_dead_is_given_up(tmp_path: Path) -> None:
    """The connection stays, and nothing comes any more: a laptop that slept, a cable that was cut."""
    network = Network(tmp_path)

    async def steps(fs: SmbFileSystem) -> None:
        (tmp_path / "file").write_bytes(b"x")
        for stream in network._streams:
            stream.recv = never  # type: ignore[method-assign]
        await fs.lookup(fs.root, "file")  # the server still gets this one
        assert (await fs.lookup(fs.root, "file"))[1].size == 1
        assert network.connects == 2

    async def never(limit: int = 0) -> memoryview:
        await asyncio.Event().wait()
        raise AssertionError

    run(network, steps, timeout=1.0)


def test_a_file_replaced_meanwhile_is_stale(tmp_path: Path) -> None:
    network = Network(tmp_path)

    async def steps(fs: SmbFileSystem) -> None:
        files = {}
        for name in ("replaced", "removed", "kept"):
            files[name], _, _ = await fs.open(fs.root, name, READ | WRITE | CREATE)
        await network.cut()
        (tmp_path / "new").write_bytes(b"another")
        (tmp_path / "new").rename(tmp_path / "replaced")
        (tmp_path / "removed").unlink()
        await refused(Status.STALE, files["replaced"].read(0, 1))
        await refused(Status.STALE, files["replaced"].read(0, 1))
        await refused(Status.STALE, files["removed"].write(0, b"x"))
        await files["kept"].write(0, b"x")
        for file in files.values():
            await file.close()
        assert (tmp_path / "replaced").read_bytes() == b"another"
        assert not (tmp_path / "removed").exists()

    run(network, steps)


def test_a_node_whose_path_leads_elsewhere_is_stale(tmp_path: Path) -> None:
    network = Network(tmp_path)

    async def steps(fs: SmbFileSystem) -> None:
        (tmp_path / "file").write_bytes(b"x")
        node, _ = await fs.lookup(fs.root, "file")
        (tmp_path / "new").write_bytes(b"another")
        (tmp_path / "new").rename(tmp_path / "file")
        await refused(Status.STALE, fs.getattr(node))
        again, attr = await fs.lookup(fs.root, "file")
        assert again is not node
        assert attr.size == 7
        await refused(Status.STALE, fs.getattr(node))

    run(network, steps)


def test_locks_are_taken_again(tmp_path: Path) -> None:
    network = Network(tmp_path)

    async def steps(fs: SmbFileSystem) -> None:
        other = network.client()
        try:
            first, _, _ = await fs.open(fs.root, "file", READ | WRITE | CREATE)
            await first.lock(0, 10, LockKind.EXCLUSIVE, owner=1)
            await network.cut()
            await first.write(0, b"x")
            second, _, _ = await other.open(other.root, "file", READ | WRITE)
            await refused(Status.LOCKED, second.lock(5, 1, LockKind.SHARED, owner=1))
            await network.cut()
            await second.lock(0, 10, LockKind.EXCLUSIVE, owner=1)
            await refused(Status.STALE, first.read(0, 1))  # the lock went to somebody else
            await first.close()
            await second.close()
        finally:
            await other.close()

    run(network, steps)


def test_the_server_gives_up_what_the_lost_session_held(tmp_path: Path) -> None:
    """It has not noticed the loss: its end of the connection is still there."""

    async def main() -> None:
        network = Network(tmp_path)
        network.start()
        server = network._server
        assert server is not None
        tasks: list[asyncio.Task[None]] = []
        ends: list[MemoryStream] = []

        async def connect() -> MemoryStream:
            ours = Careless(secured=False, peer="server")
            theirs = MemoryStream(secured=False, peer="127.0.0.1:4000")
            ours.other, theirs.other = theirs, ours
            ends.append(theirs)
            tasks.append(asyncio.create_task(server.serve_stream(theirs)))
            return ours

        fs = SmbFileSystem(connect, "server", "share", Credentials("alice", "secret"), timeout=5)
        await fs.connect()
        file, _, _ = await fs.open(fs.root, "file", READ | WRITE | CREATE)
        await file.lock(0, 0, LockKind.EXCLUSIVE, owner=1)
        await ends[0].aclose()  # we see an end; the server goes on waiting for us
        await file.write(0, b"x")  # the lock is ours again, not the old session's
        assert len(ends) == 2
        assert len(server.sessions) == 1
        await file.close()
        await fs.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await network.close()

    asyncio.run(main())


def test_a_listing_goes_on_in_a_new_session(tmp_path: Path) -> None:
    network = Network(tmp_path)
    wanted = {f"file {index:05} {'x' * 100}" for index in range(3000)}
    for name in wanted:
        (tmp_path / name).touch()

    async def steps(fs: SmbFileSystem) -> None:
        seen: list[str] = []
        cookie, eof = 0, False
        while not eof:
            page = await fs.readdir(fs.root, cookie, 500)
            seen += [entry.name for entry in page.entries]
            cookie, eof = page.entries[-1].cookie if page.entries else cookie, page.eof
            await network.cut()
        assert len(seen) == len(wanted)
        assert set(seen) == wanted

    run(network, steps)


def test_credentials_are_kept_and_refusals_are_final(tmp_path: Path) -> None:
    network = Network(tmp_path)

    async def steps(fs: SmbFileSystem) -> None:
        network.users.password = "changed"
        await network.cut()
        error = await refused(Status.ACCESS, fs.getattr(fs.root))
        assert "check the name and the password" in str(error)
        assert network.connects == 2  # not tried again and again
        network.users.password = "secret"
        await fs.getattr(fs.root)

    run(network, steps)


def test_cancelled_calls_leave_nothing_open(tmp_path: Path) -> None:
    network = Network(tmp_path)

    async def steps(fs: SmbFileSystem) -> None:
        (tmp_path / "file").write_bytes(b"x")
        for _ in range(20):
            task = asyncio.create_task(fs.open(fs.root, "file", READ | WRITE))
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                file, _, _ = await task
                await file.close()
        await fs.getattr(fs.root)
        await fs.getattr(fs.root)
        server = network._server
        assert server is not None
        assert sum(len(session.opens) for session in server.sessions.values()) == 0

    run(network, steps)


def test_problems_at_first_connect(tmp_path: Path) -> None:
    async def main() -> None:
        network = Network(tmp_path)
        network.start()
        fs = network.client(password="wrong")
        with pytest.raises(ConnectError, match="user 'alice' was refused by server") as caught:
            await fs.connect()
        assert caught.value.problem is ConnectProblem.LOGON
        await fs.close()
        network.up = False
        fs = network.client()
        with pytest.raises(ConnectError, match="server refuses connections") as caught:
            await fs.connect()
        assert caught.value.problem is ConnectProblem.UNREACHABLE
        await fs.close()
        await refused(Status.DISCONNECTED, fs.getattr(fs.root))
        await network.close()

    asyncio.run(main())


def test_guests(tmp_path: Path) -> None:
    async def main() -> None:
        network = Network(tmp_path)
        network.start(guest=True)
        (tmp_path / "file").write_bytes(b"x")
        fs = network.client(user="guest", password="")
        await fs.connect()
        assert (await fs.lookup(fs.root, "file"))[1].size == 1
        await fs.close()
        # Anybody in between could make a guest of somebody who has a password.
        fs = network.client(user="mallory")
        with pytest.raises(ConnectError, match="user 'mallory' is not known there") as caught:
            await fs.connect()
        assert caught.value.problem is ConnectProblem.LOGON
        await fs.close()
        fs = network.client(user="guest", password="", encrypt=True)
        with pytest.raises(ConnectError, match="encryption was asked for"):
            await fs.connect()
        await fs.close()
        await network.close()

    asyncio.run(main())


def test_many_small_requests_and_few_credits(tmp_path: Path) -> None:
    network = Network(tmp_path)

    async def steps(fs: SmbFileSystem) -> None:
        file, _, _ = await fs.open(fs.root, "file", READ | WRITE | CREATE)
        data = bytes(range(256)) * 4096 * 8
        await asyncio.gather(
            *(file.write(index * len(data), data) for index in range(6)),
            *(fs.lookup(fs.root, "file") for _ in range(1500)),
        )
        reads = await asyncio.gather(*(file.read(index * len(data), len(data)) for index in range(6)))
        assert all(bytes(read) == data for read in reads)
        await file.close()

    run(network, steps, timeout=30.0)
