"""The suite of behaviours over the whole way: FUSE, SMB 3.1.1, QUIC, and a folder served by another process.

And what a remote file system alone can show: its server goes away and comes back.
"""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.integration.cli import Site, quicfs
from tests.integration.fuse_suite import PosixSuite

pytestmark = pytest.mark.fuse

_numbers = itertools.count()


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory, require: Callable[..., None]) -> Site:
    require("fuse")
    return Site.make(tmp_path_factory.mktemp("site"))


@contextmanager
def mounted(site: Site, url: str, point: Path, *options: str) -> Iterator[Path]:
    point.mkdir()
    done = quicfs("mount", url, point, "--ca", site.files.ca, *options)
    assert done.returncode == 0, done.stderr
    try:
        yield point
    finally:
        if quicfs("umount", point).returncode:
            subprocess.run(["fusermount3", "-uz", point], check=False)
            pytest.fail("the mount was in use at the end")


@pytest.fixture(scope="module")
def mount(site: Site) -> Iterator[Path]:
    with site.serving() as url, mounted(site, url, site.place / "mnt") as point:
        yield point


@pytest.fixture
def folder(mount: Path) -> Path:
    path = mount / f"test{next(_numbers)}"
    path.mkdir()
    return path


class TestQuicMount(PosixSuite):
    LACKS = frozenset[str]()
    MANY = 2_500


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


def test_the_server_goes_away_and_comes_back(site: Site, tmp_path: Path) -> None:
    """An error within bounded time while it is gone; the same mount works when it is back."""
    with site.serving() as url:
        port = url.rpartition(":")[2].partition("/")[0]
        stack = mounted(site, url, tmp_path / "mnt", "-o", "deadline=4")
        point = stack.__enter__()
        try:
            (point / "before").write_bytes(b"stored")
        except BaseException:
            stack.__exit__(*sys.exc_info())
            raise
    try:
        assert attempt(point, 30) not in ("ok", "hung")
        arguments = ("--listen", f"localhost:{port}")
        with site.serving(*arguments):
            deadline = time.monotonic() + 60
            while (seen := attempt(point, 30)) != "ok":
                assert seen != "hung" and time.monotonic() < deadline, seen
            assert (point / "before").read_bytes() == b"stored"
            (point / "after").write_bytes(b"new")
            assert (site.share / "after").read_bytes() == b"new"
            assert {"after", "before"} <= set(os.listdir(point))
    finally:
        stack.__exit__(None, None, None)
