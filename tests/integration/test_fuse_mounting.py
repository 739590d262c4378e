"""Mounting and unmounting: in use, twice, after the process behind it died, read-only."""

from __future__ import annotations

import errno
import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from quicfs.fuse_mount import MountError, MountOptions, unmount_path
from quicfs.fuse_mount.mounts import find_mount
from quicfs.fuse_mount.preflight import check_mount
from tests.integration.fuse_rig import mounted_elsewhere

pytestmark = pytest.mark.fuse


@pytest.fixture
def places(tmp_path: Path, require: Callable[..., None]) -> tuple[Path, Path]:
    require("fuse")
    for name in ("source", "mnt"):
        (tmp_path / name).mkdir()
    return tmp_path / "source", tmp_path / "mnt"


def test_shown_by_its_name(places: tuple[Path, Path]) -> None:
    with mounted_elsewhere(*places):
        mount = find_mount(str(places[1]))
        assert mount is not None
        assert (mount.kind, mount.source) == ("fuse.quicfs", "quicfs")


def test_not_mounted_twice(places: tuple[Path, Path]) -> None:
    with mounted_elsewhere(*places), pytest.raises(MountError, match="already has quicfs mounted"):
        check_mount(str(places[1]), MountOptions())


def test_unmounting_ends_the_process(places: tuple[Path, Path]) -> None:
    with mounted_elsewhere(*places) as process:
        (places[1] / "a").write_bytes(b"x")
        unmount_path(str(places[1]))
        assert process.wait(30) == 0
    assert (places[0] / "a").read_bytes() == b"x"


def test_mount_in_use(places: tuple[Path, Path]) -> None:
    with mounted_elsewhere(*places) as process:
        with (places[1] / "a").open("wb", buffering=0) as file:
            with pytest.raises(MountError, match="in use"):
                unmount_path(str(places[1]))
            unmount_path(str(places[1]), lazy=True)
            assert find_mount(str(places[1])) is None
            file.write(b"still")
        assert process.wait(30) == 0
    assert (places[0] / "a").read_bytes() == b"still"


def test_sigterm_unmounts(places: tuple[Path, Path]) -> None:
    with mounted_elsewhere(*places) as process:
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0
        assert find_mount(str(places[1])) is None


def test_dead_mount(places: tuple[Path, Path]) -> None:
    with mounted_elsewhere(*places) as process:
        process.kill()
        process.wait(30)
        with pytest.raises(OSError) as caught:
            os.listdir(places[1])
        assert caught.value.errno == errno.ENOTCONN
        with pytest.raises(MountError, match="umount"):
            check_mount(str(places[1]), MountOptions())
        unmount_path(str(places[1]))
    with mounted_elsewhere(*places):
        (places[1] / "a").touch()


def test_read_only(places: tuple[Path, Path]) -> None:
    (places[0] / "a").write_bytes(b"x")
    with mounted_elsewhere(*places, options="ro"):
        assert (places[1] / "a").read_bytes() == b"x"
        with pytest.raises(OSError) as caught:
            (places[1] / "a").write_bytes(b"y")
        assert caught.value.errno == errno.EROFS


def test_shown_owner(places: tuple[Path, Path]) -> None:
    (places[0] / "a").touch()
    with mounted_elsewhere(*places, options="uid=1234,gid=5678"):
        found = (places[1] / "a").stat()
        assert (found.st_uid, found.st_gid) == (1234, 5678)
