"""`quicfs demo`: it shows what it claims, and leaves nothing behind, however it ends."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from quicfs.demo_tree import differences, real_tree
from tests.integration.cli import command

pytestmark = pytest.mark.fuse

DEMO_S = 290
SIGNAL_S = 60


@contextmanager
def demo(place: Path) -> Iterator[subprocess.Popen[str]]:
    place.mkdir()
    with subprocess.Popen(
        command("demo"),
        env=os.environ | {"TMPDIR": str(place)},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        try:
            yield process
        finally:
            process.terminate()  # which cleans up; nothing when it has ended


def assert_nothing_left(place: Path) -> None:
    assert not list(place.iterdir())
    assert str(place) not in Path("/proc/self/mounts").read_text()
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and str(place).encode() in (entry / "cmdline").read_bytes():
                pytest.fail(f"left running: {(entry / 'cmdline').read_bytes()!r}")
        except (FileNotFoundError, ProcessLookupError):
            continue


def test_twice_at_once(require: Callable[..., None], tmp_path: Path) -> None:
    require("fuse")
    with demo(tmp_path / "one") as one, demo(tmp_path / "two") as two:
        for process in (one, two):
            said, _ = process.communicate(timeout=DEMO_S)
            assert process.returncode == 0, said
            assert "all equal" in said and "MB/s" in said and "100 ns" in said
            for protocol in ("SMB", "NFS"):
                assert f"{protocol}: compared: what came out" in said
            tree = re.search(r"a real tree: ([\d,]+) files, (\d+) MB", said)
            assert tree is not None
            assert int(tree[1].replace(",", "")) >= 2000 and int(tree[2]) >= 50
    for name in ("one", "two"):
        assert_nothing_left(tmp_path / name)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted(require: Callable[..., None], tmp_path: Path, number: signal.Signals) -> None:
    require("fuse")
    with demo(tmp_path / "demo") as process:
        assert process.stdout is not None
        for line in process.stdout:
            if "a real tree" in line:
                break
        process.send_signal(number)
        said, _ = process.communicate(timeout=SIGNAL_S)
        assert process.returncode == 130 and "Traceback" not in said, said
    assert_nothing_left(tmp_path / "demo")


def test_a_copy_that_differs_is_noticed(tmp_path: Path) -> None:
    tree = real_tree(least_files=60, least_bytes=1)
    tree.make_directories(tmp_path)
    for path in tree.files:
        tree.copy_file(tmp_path, path)
    tree.finish(tmp_path)
    seen: list[int] = []
    assert differences(tree, tmp_path, seen.append) == []
    assert sum(seen) == tree.bytes and len(seen) == len(tree.files)

    first, second, third, fourth, fifth = (tmp_path / path for path in list(tree.files)[:5])
    times = first.stat()
    content = bytearray(first.read_bytes() or b"x")
    content[0] ^= 1
    first.write_bytes(content)
    os.utime(first, ns=(times.st_atime_ns, times.st_mtime_ns))
    second.chmod(0o640)
    os.utime(third, ns=(0, third.stat().st_mtime_ns + 100))
    fourth.unlink()
    fifth.unlink()
    fifth.symlink_to("first")
    (tmp_path / "stdlib" / "new").touch()
    (tmp_path / "links" / "to-file").unlink()
    (tmp_path / "links" / "to-file").symlink_to("elsewhere")
    found = "\n".join(differences(tree, tmp_path, seen.append))
    for path, what in (
        (first, "checksum"),
        (second, "mode"),
        (third, "time"),
        (fourth, "missing"),
        (fifth, "another kind"),
        (tmp_path / "stdlib" / "new", "in the copy only"),
        (tmp_path / "links" / "to-file", "elsewhere"),
        (tmp_path / "stdlib", "time"),
    ):
        name = path.relative_to(tmp_path).as_posix()
        assert any(line.startswith(name) and what in line for line in found.splitlines()), (name, found)


def test_the_real_tree_is_what_it_claims(tmp_path: Path) -> None:
    tree = real_tree()
    assert len(tree.files) >= 2000 and tree.bytes >= 50_000_000 and tree.links
    seen: set[str] = set()
    for path in [*tree.directories, *tree.files, *tree.links]:
        parent = path.rpartition("/")[0]
        assert not parent or parent in tree.directories
        seen.add(path)
    assert len(seen) == len(tree.directories) + len(tree.files) + len(tree.links)
    order = list(tree.directories)
    assert all("/" not in path or path.rpartition("/")[0] in order[: order.index(path)] for path in order)
    assert time.time_ns() > max(original.mtime_ns for original in tree.files.values())
