"""ls, cat, stat, rm, mkdir, get and put against a server."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.cli import PASSWORD, Site, command, quicfs, refused

OLD_NS = 1_400_000_000_123_456_700


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Site:
    return Site.make(tmp_path_factory.mktemp("site"))


@pytest.fixture(scope="module", params=["smb", "nfs"])
def base(site: Site, request: pytest.FixtureRequest) -> Iterator[str]:
    with site.serving(scheme=request.param) as url:
        yield url


@pytest.fixture
def folder(site: Site, request: pytest.FixtureRequest) -> Path:
    folder = site.share / request.node.name
    folder.mkdir()
    return folder


@pytest.fixture
def url(base: str, folder: Path) -> str:
    return f"{base}/{folder.name}"


@pytest.fixture
def trust(site: Site) -> list[str | Path]:
    return ["--ca", site.files.ca]


def fill(root: Path) -> None:
    (root / "sub" / "empty").mkdir(parents=True)
    (root / "sub" / "größe 1").write_bytes(os.urandom(1_500_000))
    (root / "run").write_text("#!/bin/sh\n")
    (root / "run").chmod(0o751)
    (root / "link").symlink_to("sub/größe 1")
    for path in [*root.rglob("*"), root]:
        os.utime(path, ns=(OLD_NS, OLD_NS), follow_symlinks=False)


def snapshot(root: Path) -> dict[str, tuple[int, int, object]]:
    return {
        path.relative_to(root).as_posix(): (
            path.lstat().st_mode,
            path.lstat().st_mtime_ns,
            os.readlink(path) if path.is_symlink() else path.read_bytes() if path.is_file() else None,
        )
        for path in [root, *root.rglob("*")]
    }


def test_ls(url: str, folder: Path, trust: list[str | Path]) -> None:
    fill(folder)
    assert quicfs("ls", url, *trust).stdout == "link\nrun\nsub\n"
    lines = quicfs("ls", "-l", url, *trust).stdout.splitlines()
    assert lines[1].startswith("-rwxr-x--x") and " 10 2014-05-13 " in lines[1] and lines[1].endswith(" run")
    assert lines[2].startswith("drwx")
    assert quicfs("ls", f"{url}/run", *trust).stdout == "run\n"
    assert quicfs("ls", f"{url}/sub/", *trust).stdout == "empty\ngröße 1\n"


def test_shares(base: str, trust: list[str | Path]) -> None:
    assert quicfs("ls", base.removesuffix("/share"), *trust).stdout == "share\n"


def test_cat_and_stat(url: str, folder: Path, trust: list[str | Path]) -> None:
    fill(folder)
    environment = os.environ | {"QUICFS_PASSWORD": PASSWORD}
    arguments = command("cat", f"{url}/sub/gr%C3%B6%C3%9Fe%201", *trust)
    done = subprocess.run(arguments, env=environment, capture_output=True, timeout=60, check=True)
    assert done.stdout == (folder / "sub" / "größe 1").read_bytes()
    shown = quicfs("stat", f"{url}/run", *trust).stdout
    assert "0751  -rwxr-x--x" in shown and "10 bytes" in shown and ".123456700" in shown
    assert "link -> sub/größe 1" in quicfs("stat", f"{url}/link", *trust).stdout


def test_cat_whose_reader_has_enough(url: str, folder: Path, trust: list[str | Path]) -> None:
    (folder / "large").write_bytes(bytes(30_000_000))
    environment = os.environ | {"QUICFS_PASSWORD": PASSWORD}
    with subprocess.Popen(
        command("cat", f"{url}/large", *trust),
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None and process.stderr is not None
        assert process.stdout.read(10) == bytes(10)
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait(60) == 1


def test_mkdir_and_rm(url: str, folder: Path, trust: list[str | Path]) -> None:
    assert quicfs("mkdir", f"{url}/one", *trust).returncode == 0
    assert quicfs("mkdir", "-p", f"{url}/one/two/three", *trust).returncode == 0
    assert quicfs("mkdir", "-p", f"{url}/one/two/three", *trust).returncode == 0
    assert (folder / "one" / "two" / "three").is_dir()
    (folder / "one" / "file").write_text("x")
    (folder / "one" / "link").symlink_to("two")
    assert quicfs("rm", f"{url}/one/link", *trust).returncode == 0
    assert (folder / "one" / "two").is_dir() and not (folder / "one" / "link").is_symlink()
    refused(quicfs("rm", f"{url}/one", *trust), "-r")
    assert quicfs("rm", "-r", f"{url}/one", *trust).returncode == 0
    assert not list(folder.iterdir())
    refused(quicfs("rm", "-r", url.rpartition("/")[0], *trust), "share itself")


def test_trees_both_ways(url: str, folder: Path, trust: list[str | Path], tmp_path: Path) -> None:
    source, back = tmp_path / "tree", tmp_path / "back"
    source.mkdir()
    fill(source)
    done = quicfs("put", "-r", source, url, *trust)
    assert done.returncode == 0 and done.stderr.startswith("put 2 files, 1.5 MB in ") and not done.stdout
    assert snapshot(folder / "tree") == snapshot(source)
    done = quicfs("get", "-r", f"{url}/tree", back, *trust)
    assert done.returncode == 0 and done.stderr.startswith("got 2 files, 1.5 MB in ")
    assert snapshot(back) == snapshot(source)


def test_single_files(url: str, folder: Path, trust: list[str | Path], tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"content")
    (tmp_path / "link").symlink_to("file")
    (tmp_path / "into").mkdir()
    for source, target, name in (
        ("file", "", "file"),
        ("file", "/new", "new"),
        ("link", "/followed", "followed"),
    ):
        assert quicfs("put", tmp_path / source, url + target, *trust).returncode == 0
        assert (folder / name).read_bytes() == b"content" and not (folder / name).is_symlink()
    for destination, name in (("into", "into/new"), ("other", "other")):
        assert quicfs("get", f"{url}/new", tmp_path / destination, *trust).returncode == 0
        assert (tmp_path / name).read_bytes() == b"content"
    refused(quicfs("get", f"{url}/new", tmp_path / "no" / "where", *trust), str(tmp_path / "no"))


def test_what_cannot_be_written_is_named(
    url: str, folder: Path, trust: list[str | Path], tmp_path: Path
) -> None:
    (folder / "file").write_bytes(b"a file")
    (tmp_path / "file" / "in-the-way").mkdir(parents=True)
    refused(quicfs("get", f"{url}/file", tmp_path / "file" / "in-the-way" / "x" / "y", *trust), "x")
    done = quicfs("get", "-r", url, tmp_path, *trust)
    assert done.returncode == 0
    (folder / "tree").mkdir()
    (folder / "tree" / "file").write_bytes(b"a file")
    (tmp_path / "copy" / "file").mkdir(parents=True)
    (tmp_path / "copy" / "tree" / "file").mkdir(parents=True)
    done = quicfs("get", "-r", f"{url}/tree", tmp_path / "copy", *trust)
    assert done.returncode == 1 and "1 of the entries" in done.stderr and "Traceback" not in done.stderr


@pytest.mark.parametrize("scheme", ["smb", "nfs"])
def test_read_only_share(site: Site, trust: list[str | Path], tmp_path: Path, scheme: str) -> None:
    (tmp_path / "file").write_text("x")
    with site.serving("--read-only", scheme=scheme) as url:
        assert quicfs("ls", url, *trust).returncode == 0
        refused(quicfs("put", tmp_path / "file", f"{url}/new", *trust))
        refused(quicfs("mkdir", f"{url}/new", *trust))
    assert not (site.share / "new").exists()


def test_guests(site: Site, trust: list[str | Path]) -> None:
    with site.serving("--guest") as url:
        assert quicfs("ls", url.replace("alice@", ""), *trust, password=None).returncode == 0


def test_interrupted(url: str, folder: Path, trust: list[str | Path]) -> None:
    os.mkfifo(folder / "never")
    (folder / "large").write_bytes(bytes(50_000_000))
    environment = os.environ | {"QUICFS_PASSWORD": PASSWORD}
    with subprocess.Popen(
        command("cat", f"{url}/large", *trust),
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None and process.stderr is not None
        process.stdout.read(1)
        process.send_signal(signal.SIGINT)
        process.stdout.read()
        assert b"Traceback" not in process.stderr.read()
        assert process.wait(60) == 130


def test_modes_are_the_files_own(url: str, folder: Path, trust: list[str | Path], tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("x")
    (tmp_path / "secret").chmod(0o600)
    assert quicfs("put", tmp_path / "secret", url, *trust).returncode == 0
    assert stat.S_IMODE((folder / "secret").stat().st_mode) == 0o600
