"""The suite of behaviours over the whole way: FUSE, NFSv4.2, QUIC, and a folder served by another process.

And what a remote file system alone can show: its server goes away and comes back.
"""

from __future__ import annotations

import contextlib
import fcntl
import itertools
import os
import random
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from quicfs import certs
from tests.integration import nfs_rig
from tests.integration.fuse_special import SpecialFilesSuite
from tests.integration.fuse_suite import PosixSuite

pytestmark = pytest.mark.fuse

_numbers = itertools.count()


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory, require: Callable[..., None]) -> certs.CertificateFiles:
    require("fuse")
    return certs.create(tmp_path_factory.mktemp("certs") / "c", ("localhost", "127.0.0.1"))


@pytest.fixture(scope="module")
def mount(files: certs.CertificateFiles, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    place = tmp_path_factory.mktemp("nfs")
    (place / "tree").mkdir()
    server = nfs_rig.serving(
        place / "tree", place / "state", cert=files.cert, key=files.key, log=str(place / "server.log")
    )
    with (
        server as (_, port),
        nfs_rig.mounted(port, place / "mnt", ca=files.ca, log=str(place / "mount.log")),
    ):
        yield place / "mnt"


@pytest.fixture
def folder(mount: Path) -> Path:
    path = mount / f"test{next(_numbers)}"
    path.mkdir()
    return path


class TestNfsMount(PosixSuite, SpecialFilesSuite):
    LACKS = frozenset[str]()
    MANY = 2_500


def test_inodes_are_those_of_the_server(mount: Path) -> None:
    (mount / "a").touch()
    assert (mount / "a").stat().st_ino == os.stat(mount.parent / "tree" / "a").st_ino


# --- the server goes away and comes back


def attempt(path: Path, seconds: float) -> str:
    """What another process sees when it lists `path`: "ok", or the name of the error; "hung" if it does not end."""
    code = (
        "import errno, os, sys\n"
        "try: os.listdir(sys.argv[1]); print('ok')\n"
        "except OSError as error: print(errno.errorcode[error.errno])"
    )
    process = subprocess.Popen([sys.executable, "-c", code, path], stdout=subprocess.PIPE, text=True)
    try:
        return process.communicate(timeout=seconds)[0].strip()
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate(timeout=10)  # it can be killed, or this fails
        return "hung"


def test_the_server_goes_away_and_comes_back(files: certs.CertificateFiles, tmp_path: Path) -> None:
    """An error within bounded time while it is gone; the same mount, open files and locks work when it is back."""
    (tmp_path / "tree").mkdir()
    point = tmp_path / "mnt"
    place = (tmp_path / "tree", tmp_path / "state")
    keys = {"cert": files.cert, "key": files.key, "log": str(tmp_path / "server.log")}
    with contextlib.ExitStack() as stack:
        with nfs_rig.serving(*place, **keys) as (server, port):
            mounting = nfs_rig.mounted(port, point, ca=files.ca, options="deadline=4", timeout=4.0)
            stack.enter_context(mounting)
            (point / "before").write_bytes(b"stored")
            file = stack.enter_context((point / "open").open("w+b", buffering=0))
            file.write(b"written before")
            os.fsync(file.fileno())
            fcntl.lockf(file, fcntl.LOCK_EX, 5)
            server.kill()
        assert attempt(point, 30) not in ("ok", "hung")
        with nfs_rig.serving(*place, port=port, **keys):
            deadline = time.monotonic() + 60
            while (seen := attempt(point, 30)) != "ok":
                assert seen != "hung" and time.monotonic() < deadline, seen
            assert (point / "before").read_bytes() == b"stored"
            (point / "after").write_bytes(b"new")
            assert (tmp_path / "tree" / "after").read_bytes() == b"new"
            file.write(b", and after")
            os.fsync(file.fileno())
            assert (tmp_path / "tree" / "open").read_bytes() == b"written before, and after"
            with (tmp_path / "tree" / "open").open("r+b") as local, pytest.raises(OSError):
                # Reclaimed: whoever is on the server's machine sees the lock, too.
                fcntl.lockf(local, fcntl.LOCK_EX | fcntl.LOCK_NB, 5)
            fcntl.lockf(file, fcntl.LOCK_UN, 5)


@pytest.mark.parametrize("seed", range(3))
def test_nothing_that_was_synced_is_lost_when_the_server_is_killed(
    files: certs.CertificateFiles, tmp_path: Path, seed: int
) -> None:
    """A writer goes on through kill -9 of the server at random moments, and never hears of them."""
    dice = random.Random(seed)
    (tmp_path / "tree").mkdir()
    point = tmp_path / "mnt"
    keys = {"cert": files.cert, "key": files.key, "log": str(tmp_path / "server.log")}
    code = (
        "import os, sys, time\n"
        "end = time.monotonic() + 8\n"
        "f = open(sys.argv[1], 'wb', buffering=0)\n"
        "n = 0\n"
        "while time.monotonic() < end:\n"
        "    f.write(b'%09d\\n' % n * 100); n += 1\n"
        "    if n % 20 == 0: os.fsync(f.fileno())\n"
        "f.close(); print(n)"
    )
    with contextlib.ExitStack() as stack:
        serving = nfs_rig.serving(tmp_path / "tree", tmp_path / "state", **keys)
        server, port = serving.__enter__()
        stack.enter_context(nfs_rig.mounted(port, point, ca=files.ca, log=str(tmp_path / "mount.log")))
        writer = subprocess.Popen(
            [sys.executable, "-c", code, point / "f"], stdout=subprocess.PIPE, text=True
        )
        for _ in range(3):
            time.sleep(dice.uniform(0.5, 2.0))
            server.kill()
            server.wait()
            serving.__exit__(None, None, None)
            serving = nfs_rig.serving(tmp_path / "tree", tmp_path / "state", port=port, **keys)
            server, _ = serving.__enter__()
        try:
            count = int(writer.communicate(timeout=100)[0])
            assert writer.returncode == 0
            expected = b"".join(b"%09d\n" % number * 100 for number in range(count))
            assert (point / "f").read_bytes() == expected
            assert (tmp_path / "tree" / "f").read_bytes() == expected
        finally:
            stack.close()
            serving.__exit__(None, None, None)
