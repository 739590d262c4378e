from __future__ import annotations

import errno
from pathlib import Path

import pytest

from quicfs.fuse_mount import MountError, MountOptions, parse_options, unmount_path
from quicfs.fuse_mount.errno_table import ERRNO_OF_STATUS
from quicfs.fuse_mount.mounts import find_mount, list_mounts
from quicfs.fuse_mount.preflight import check_mount
from quicfs.vfs import Status


def test_every_status_has_an_errno() -> None:
    assert set(ERRNO_OF_STATUS) == set(Status)
    assert all(number in errno.errorcode for number in ERRNO_OF_STATUS.values())


def test_words() -> None:
    options = parse_options("ro, attr_timeout=2.5,uid=1000,allow_other,_netdev,x-systemd.automount")
    assert options == MountOptions(read_only=True, attr_timeout=2.5, uid=1000, allow_other=True)


def test_nothing() -> None:
    assert parse_options("") == MountOptions()


def test_base() -> None:
    assert parse_options("rw", MountOptions(read_only=True, fsname="x")) == MountOptions(fsname="x")


@pytest.mark.parametrize(
    "text", ["bogus", "uid=me", "uid=-1", "attr_timeout=nan", "deadline=1e9", "ro=1", "uid"]
)
def test_errors_name_the_word(text: str) -> None:
    with pytest.raises(MountError, match=text.partition("=")[0]):
        parse_options(text)


def test_missing_mount_point(tmp_path: Path, require) -> None:  # type: ignore[no-untyped-def]
    require("fuse")
    with pytest.raises(MountError, match="does not exist: create it"):
        check_mount(str(tmp_path / "none"), MountOptions())


def test_mount_point_is_a_file(tmp_path: Path, require) -> None:  # type: ignore[no-untyped-def]
    require("fuse")
    (tmp_path / "a").touch()
    with pytest.raises(MountError, match="not a directory"):
        check_mount(str(tmp_path / "a"), MountOptions())


def test_mount_point_is_not_empty(tmp_path: Path, require) -> None:  # type: ignore[no-untyped-def]
    require("fuse")
    (tmp_path / "a").touch()
    with pytest.raises(MountError, match="not empty"):
        check_mount(str(tmp_path), MountOptions())
    check_mount(str(tmp_path), MountOptions(nonempty=True))


def test_no_device(tmp_path: Path, require, monkeypatch: pytest.MonkeyPatch) -> None:  # type: ignore[no-untyped-def]
    require("fuse")
    monkeypatch.setattr("quicfs.fuse_mount.preflight.DEVICE", str(tmp_path / "fuse"))
    with pytest.raises(MountError, match="modprobe fuse"):
        check_mount(str(tmp_path), MountOptions())


def test_unmounting_what_is_not_mounted(tmp_path: Path) -> None:
    with pytest.raises(MountError, match="not a mount point"):
        unmount_path(str(tmp_path))


def test_unmounting_what_is_not_ours() -> None:
    with pytest.raises(MountError, match="umount"):
        unmount_path("/proc")


def test_mounts() -> None:
    assert any(mount.path == "/proc" and mount.kind == "proc" for mount in list_mounts())
    root = find_mount("/")
    assert root is not None
    assert root.path == "/"
