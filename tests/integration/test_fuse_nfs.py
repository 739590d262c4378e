"""The suite of behaviours over the whole way: FUSE, NFSv4.2, QUIC, and a folder served by another process.

And what a remote file system alone can show: its server goes away and comes back.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from quicfs import certs
from tests.integration import nfs_rig
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


class TestNfsMount(PosixSuite):
    LACKS = frozenset[str]()


def test_inodes_are_those_of_the_server(mount: Path) -> None:
    (mount / "a").touch()
    assert (mount / "a").stat().st_ino == os.stat(mount.parent / "tree" / "a").st_ino
