"""`quicfs mount` and `quicfs umount`."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.cli import Site, quicfs, refused, running

pytestmark = pytest.mark.fuse


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory, require) -> Site:  # type: ignore[no-untyped-def]
    require("fuse")
    return Site.make(tmp_path_factory.mktemp("site"))


@pytest.fixture(scope="module", params=["smb", "nfs"])
def scheme(request: pytest.FixtureRequest) -> str:
    found: str = request.param
    return found


@pytest.fixture(scope="module")
def url(site: Site, scheme: str) -> Iterator[str]:
    with site.serving(scheme=scheme) as url:
        yield url


@pytest.fixture
def trust(site: Site) -> list[str | Path]:
    return ["--ca", site.files.ca]


@pytest.fixture
def point(tmp_path: Path) -> Iterator[Path]:
    point = tmp_path / "mount point"
    point.mkdir()
    yield point
    if os.path.ismount(point):
        subprocess.run(["fusermount3", "-uz", point], check=True)
        pytest.fail("the test left its mount behind")


def processes_of(point: Path) -> list[int]:
    """Who mounts there, agents included."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and str(point).encode() in (entry / "cmdline").read_bytes():
                found.append(int(entry.name))
        except (FileNotFoundError, ProcessLookupError):
            continue
    return found


def wait_until(condition, seconds: float = 20) -> None:  # type: ignore[no-untyped-def]
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.05)


def test_in_the_background(site: Site, url: str, trust: list[str | Path], point: Path) -> None:
    done = quicfs("mount", url, point, *trust)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    try:
        (point / "file").write_bytes(b"through the mount")
        assert (site.share / "file").read_bytes() == b"through the mount"
        mounts = Path("/proc/self/mounts").read_text()
        assert "fuse.quicfs" in mounts and "password" not in mounts
        refused(quicfs("mount", url, point, *trust), "already", "quicfs umount")
    finally:
        assert quicfs("umount", point).returncode == 0
    assert not os.path.ismount(point)
    wait_until(lambda: not processes_of(point))


def test_in_the_foreground_until_told(url: str, trust: list[str | Path], point: Path, tmp_path: Path) -> None:
    for number in (signal.SIGTERM, signal.SIGINT):
        with running("mount", url, point, "--foreground", *trust, log=tmp_path / "log") as (process, line):
            assert str(point) in line and os.path.ismount(point)
            process.send_signal(number)
            assert process.wait(30) == 0
        assert not os.path.ismount(point)
        assert (tmp_path / "log").read_text() == ""


def test_in_the_foreground_until_unmounted(
    url: str, trust: list[str | Path], point: Path, tmp_path: Path
) -> None:
    with running("mount", url, point, "--foreground", *trust, log=tmp_path / "log") as (process, _):
        assert quicfs("umount", point).returncode == 0
        assert process.wait(30) == 0


def test_a_directory_of_the_share_read_only(
    site: Site, url: str, trust: list[str | Path], point: Path
) -> None:
    (site.share / "some" / "where").mkdir(parents=True, exist_ok=True)
    (site.share / "some" / "where" / "file").write_text("deep")
    assert quicfs("mount", f"{url}/some/where", point, "-o", "ro,attr_timeout=5", *trust).returncode == 0
    try:
        assert [path.name for path in point.iterdir()] == ["file"]
        assert (point / "file").read_text() == "deep"
        with pytest.raises(OSError, match="Read-only"):
            (point / "new").touch()
    finally:
        assert quicfs("umount", point).returncode == 0


def test_in_use(url: str, trust: list[str | Path], point: Path) -> None:
    assert quicfs("mount", url, point, *trust).returncode == 0
    with subprocess.Popen(["sleep", "60"], cwd=point) as user:
        refused(quicfs("umount", point), str(point), "in use", "--lazy")
        assert quicfs("umount", "--lazy", point).returncode == 0
        assert not os.path.ismount(point)
        user.kill()
    wait_until(lambda: not processes_of(point))


def test_the_server_comes_back(site: Site, scheme: str, trust: list[str | Path], point: Path) -> None:
    with site.serving(scheme=scheme) as url:
        port = url.partition("localhost:")[2].partition("/")[0]
        assert quicfs("mount", url, point, "-o", "deadline=3", *trust).returncode == 0
        (point / "before").write_text("x")
    try:
        begin = time.monotonic()
        with pytest.raises(OSError):
            (point / "while").write_text("x")
        assert time.monotonic() - begin < 30, "an error within a bounded time"
        with site.serving("--listen", f"localhost:{port}", scheme=scheme):
            wait_until(lambda: _can_write(point / "after"), 60)
            assert (site.share / "after").read_text() == "x"
    finally:
        assert quicfs("umount", "--lazy", point).returncode == 0


def _can_write(path: Path) -> bool:
    try:
        path.write_text("x")
    except OSError:
        return False
    return True
