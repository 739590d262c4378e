from __future__ import annotations

import asyncio
import io
import os
from pathlib import Path

import pytest
from rich.console import Console

from quicfs.errors import UserError
from quicfs.progress import CopyProgress
from quicfs.transfer import CHUNK, PAGE, Copier
from quicfs.vfs import FsError, Status
from quicfs.vfs.local import LocalTree

OLD_NS = 1_500_000_000_123_456_700


def progress() -> CopyProgress:
    return CopyProgress("copy", console=Console(file=io.StringIO()))


def copy(source: Path, target: Path, what: str = "tree", **options: int) -> CopyProgress:
    async def run() -> CopyProgress:
        left, right = LocalTree(source), LocalTree(target.parent)
        try:
            with progress() as counted:
                copier = Copier(left, right, counted, **options)
                if what == "tree":
                    await copier.copy_tree("", target.name)
                else:
                    await copier.copy_file(what, target.name)
            return counted
        finally:
            await left.close()
            await right.close()

    return asyncio.run(run())


def make_tree(root: Path) -> None:
    (root / "a" / "deep" / "er").mkdir(parents=True)
    (root / "empty").mkdir()
    (root / "one").write_bytes(b"1")
    (root / "none").write_bytes(b"")
    (root / "a" / "large").write_bytes(os.urandom(5 * CHUNK + 17))
    (root / "a" / "exact").write_bytes(os.urandom(2 * CHUNK))
    (
        root
        / "a"
        / "deep"
        / "er"
        / "naïve\udcff".encode(errors="surrogateescape").decode("utf-8", "surrogateescape")
    ).write_bytes(b"x")
    for number in range(PAGE + 50):
        (root / "a" / "deep" / f"file-{number}").write_bytes(b"n%d" % number)
    (root / "link").symlink_to("a/large")
    (root / "dangling").symlink_to("nowhere")
    (root / "one").chmod(0o640)
    (root / "a" / "exact").chmod(0o4751)
    for path in sorted(root.rglob("*"), reverse=True):
        os.utime(path, ns=(OLD_NS, OLD_NS + len(path.name) * 100), follow_symlinks=False)
    (root / "a" / "deep").chmod(0o500)


def snapshot(root: Path) -> dict[str, tuple[int, int, int, object]]:
    found: dict[str, tuple[int, int, int, object]] = {}
    for path in [root, *root.rglob("*")]:
        status = path.lstat()
        content: object = None
        if path.is_symlink():
            content = os.readlink(path)
        elif path.is_file():
            content = path.read_bytes()
        found[str(path.relative_to(root))] = (status.st_mode, status.st_mtime_ns, status.st_nlink, content)
    return found


def test_a_tree_arrives_with_content_modes_and_times(tmp_path: Path) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    source.mkdir()
    make_tree(source)
    counted = copy(source, target)
    assert snapshot(target) == snapshot(source)
    regular = [path for path in source.rglob("*") if path.is_file() and not path.is_symlink()]
    assert counted.files == counted.files_known == len(regular)
    assert counted.bytes == counted.bytes_known == sum(path.stat().st_size for path in regular)


def test_copying_again_replaces_files_and_links(tmp_path: Path) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    source.mkdir()
    make_tree(source)
    copy(source, target)
    (target / "one").write_bytes(b"something longer")
    (target / "dangling").unlink()
    (target / "dangling").symlink_to("elsewhere")
    copy(source, target, parallel=1)
    assert snapshot(target) == snapshot(source)


def test_a_link_at_the_target_is_replaced_and_not_written_through(tmp_path: Path) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    source.mkdir()
    target.mkdir()
    (source / "file").write_bytes(b"new")
    (tmp_path / "victim").write_bytes(b"untouched")
    (target / "file").symlink_to("../victim")
    copy(source, target)
    assert (tmp_path / "victim").read_bytes() == b"untouched"
    assert not (target / "file").is_symlink() and (target / "file").read_bytes() == b"new"


def test_one_file_and_a_link_to_one(tmp_path: Path) -> None:
    (tmp_path / "source").mkdir()
    (tmp_path / "source" / "file").write_bytes(b"content")
    (tmp_path / "source" / "link").symlink_to("file")
    for name in ("file", "link"):
        copy(tmp_path / "source", tmp_path / f"copy-of-{name}", name)
        assert (tmp_path / f"copy-of-{name}").read_bytes() == b"content"
    with pytest.raises(FsError) as caught:
        copy(tmp_path, tmp_path / "x", "source")
    assert caught.value.status is Status.IS_DIR


def test_what_cannot_be_copied_is_counted_and_the_rest_goes_on(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    (source / "sub").mkdir(parents=True)
    (source / "name").write_bytes(b"a file where a directory is")
    (source / "sub" / "good").write_bytes(b"good")
    os.mkfifo(source / "fifo")
    (target / "name" / "in-the-way").mkdir(parents=True)
    with pytest.raises(UserError, match="1 of the entries"):
        copy(source, target)
    assert (target / "sub" / "good").read_bytes() == b"good"
    assert "fifo was left out" not in caplog.text and "fifo is a fifo" in caplog.text


def test_summary_is_for_a_person() -> None:
    counted = progress()
    with counted:
        counted.found(2_000_000)
        counted.advance(2_000_000)
        counted.file_done()
    assert counted.summary().startswith("1 file, 2.0 MB in ")
