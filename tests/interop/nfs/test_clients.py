"""The NFS server against clients that we did not write: libnfs (NFSv3) and nfs-rs (NFSv3 and 4.1), on TCP, and over
QUIC by way of `quicfs connect`."""

from __future__ import annotations

import importlib.util
import os
import shutil
import stat
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from quicfs.certs import CertificateFiles
from tests.interop.nfs import libnfs
from tests.interop.nfs.libnfs import LibNfs
from tests.interop.nfs.ways import Place, serving
from tests.interop.peers.processes import run

pytestmark = pytest.mark.interop
TIMEOUT_S = 60.0
Need = Callable[[bool, str], None]


@pytest.fixture(scope="module", params=["tcp", "quic"])
def server(
    tmp_path_factory: pytest.TempPathFactory, certificates: CertificateFiles, request: pytest.FixtureRequest
) -> Iterator[Place]:
    with serving(tmp_path_factory.mktemp(request.param), certificates, request.param) as found:
        yield found


@pytest.fixture
def place(server: Place) -> Iterator[Place]:
    """An empty export."""
    yield server
    for path in server.folder.iterdir():
        shutil.rmtree(path) if path.is_dir() else path.unlink()


@pytest.mark.parametrize("version", ["3", "4.1"])
def test_nfs_rs(place: Place, version: str, need: Need) -> None:
    need(importlib.util.find_spec("nfs_rs") is not None, "nfs-rs (PyPI)")
    module = "tests.interop.nfs.nfs_rs_work"
    run([sys.executable, "-m", module, str(place.port), version], TIMEOUT_S)
    assert os.listdir(place.folder) == []


def test_the_programs_of_libnfs(place: Place, tmp_path: Path, need: Need) -> None:
    need(shutil.which("nfs-ls") is not None, "libnfs-utils")
    content = os.urandom(5_000_000)
    source, back = tmp_path / "in", tmp_path / "out"
    source.write_bytes(content)
    (place.folder / "sub").mkdir()
    for number in range(100):
        (place.folder / "sub" / f"file {number:03}").write_bytes(b"x" * number)
    run(["nfs-cp", str(source), place.url("/copy")], TIMEOUT_S)
    assert (place.folder / "copy").read_bytes() == content
    run(["nfs-cp", place.url("/copy"), str(back)], TIMEOUT_S)
    assert back.read_bytes() == content
    with back.open("wb") as output:
        run(["nfs-cat", place.url("/copy")], TIMEOUT_S, output.fileno())
    assert back.read_bytes() == content
    listed = run(["nfs-ls", place.url("/sub")], TIMEOUT_S).splitlines()
    names = {line.partition("file ")[2]: line.split()[4] for line in listed}
    assert names == {f"{number:03}": str(number) for number in range(100)}
    assert "copy" in run(["nfs-ls", "-R", place.url()], TIMEOUT_S)


def test_names_and_data_with_libnfs(place: Place, need: Need) -> None:
    need(libnfs.installed(), "libnfs")
    folder = place.folder
    mounted = LibNfs(place.url())
    try:
        mounted.mkdir("/d")
        content = os.urandom(2_000_000)
        mounted.write("/d/f", content)
        assert (folder / "d" / "f").read_bytes() == content
        mounted.write("/d/f", b"patched", 1_000_000, "r+")
        assert (
            mounted.read("/d/f", 100, 1_000_000 - 3) == (folder / "d" / "f").read_bytes()[999_997:1_000_097]
        )
        mounted.chmod("/d/f", 0o604)
        mounted.chown("/d/f", 7, 8)
        mounted.truncate("/d/f", 3)
        found = (folder / "d" / "f").stat()
        assert (stat.S_IMODE(found.st_mode), found.st_uid, found.st_gid, found.st_size) == (0o604, 7, 8, 3)
        mounted.rename("/d/f", "/d/g")
        mounted.link("/d/g", "/d/h")
        mounted.symlink("to/where", "/d/s")
        assert mounted.readlink("/d/s") == "to/where"
        assert sorted(os.listdir(folder / "d")) == ["g", "h", "s"]
        for call, arguments in (
            ("mkdir", ("/d/g",)),
            ("rmdir", ("/d",)),
            ("unlink", ("/d/none",)),
            ("rename", ("/d/none", "/d/x")),
        ):
            with pytest.raises(libnfs.Failed):
                getattr(mounted, call)(*arguments)
        for name in ("g", "h", "s"):
            mounted.unlink(f"/d/{name}")
        mounted.rmdir("/d")
        assert os.listdir(folder) == []
    finally:
        mounted.close()
