"""Part of the suite for mounts: attributes, extended ones too, and links."""

from __future__ import annotations

import errno
import os
import stat
import time
from pathlib import Path
from typing import ClassVar

import pytest

from tests.integration.fuse_process import errno_of


class Attributes:
    LACKS: ClassVar[frozenset[str]] = frozenset()

    def lacks(self, what: str) -> None:
        if what in self.LACKS:
            pytest.skip(f"no {what} behind this mount")

    def test_chmod(self, folder: Path) -> None:
        self.lacks("modes")
        (folder / "a").touch()
        for mode in (0o600, 0o4755, 0o444, 0o644):
            os.chmod(folder / "a", mode)
            assert stat.S_IMODE((folder / "a").stat().st_mode) == mode

    def test_mode_of_new_objects(self, folder: Path) -> None:
        self.lacks("modes")
        old = os.umask(0o027)
        try:
            os.close(os.open(folder / "a", os.O_CREAT | os.O_WRONLY, 0o666))
            os.mkdir(folder / "d", 0o777)
        finally:
            os.umask(old)
        assert stat.S_IMODE((folder / "a").stat().st_mode) == 0o640
        assert stat.S_IMODE((folder / "d").stat().st_mode) == 0o750

    def test_fchmod(self, folder: Path) -> None:
        self.lacks("modes")
        with (folder / "a").open("wb") as file:
            os.fchmod(file.fileno(), 0o611)
            assert stat.S_IMODE(os.fstat(file.fileno()).st_mode) == 0o611

    def test_chown(self, folder: Path) -> None:
        self.lacks("owners")
        if os.geteuid() != 0:
            pytest.skip("only root gives files away")
        (folder / "a").touch()
        os.chown(folder / "a", 1234, 5678)
        assert ((folder / "a").stat().st_uid, (folder / "a").stat().st_gid) == (1234, 5678)
        os.chown(folder / "a", -1, 99)
        assert ((folder / "a").stat().st_uid, (folder / "a").stat().st_gid) == (1234, 99)

    def test_utimens(self, folder: Path) -> None:
        (folder / "a").touch()
        step = 100  # what SMB can tell apart
        times = (1_500_000_000_123_456_700, 1_600_000_000_987_654_300)
        os.utime(folder / "a", ns=times)
        found = (folder / "a").stat()
        assert (found.st_atime_ns // step, found.st_mtime_ns // step) == tuple(t // step for t in times)

    def test_futimens_after_write(self, folder: Path) -> None:
        with (folder / "a").open("wb", buffering=0) as file:
            file.write(b"content")
            os.utime(file.fileno(), ns=(10**18, 10**18 + 500))
        assert (folder / "a").stat().st_mtime_ns == 10**18 + 500
        time.sleep(1.2)
        assert (folder / "a").stat().st_mtime_ns == 10**18 + 500

    def test_utime_now(self, folder: Path) -> None:
        (folder / "a").touch()
        os.utime(folder / "a", (0, 0))
        os.utime(folder / "a")
        assert abs((folder / "a").stat().st_mtime - time.time()) < 60

    def test_mtime_follows_writes(self, folder: Path) -> None:
        (folder / "a").touch()
        os.utime(folder / "a", (1_000_000_000, 1_000_000_000))
        with (folder / "a").open("ab") as file:
            file.write(b"x")
        assert abs((folder / "a").stat().st_mtime - time.time()) < 60

    def test_inode_numbers(self, folder: Path) -> None:
        for name in ("a", "b"):
            (folder / name).touch()
        with os.scandir(folder) as entries:
            listed = {entry.name: entry.inode() for entry in entries}
        assert listed == {name: (folder / name).stat().st_ino for name in ("a", "b")}
        assert listed["a"] != listed["b"]

    def test_statfs(self, folder: Path) -> None:
        figures = os.statvfs(folder)
        assert figures.f_blocks >= figures.f_bfree > 0
        assert figures.f_namemax == 255

    def test_symlink(self, folder: Path) -> None:
        self.lacks("symlinks")
        (folder / "a").write_bytes(b"x")
        os.symlink("a", folder / "l")
        assert os.readlink(folder / "l") == "a"
        assert (folder / "l").read_bytes() == b"x"
        assert stat.S_ISLNK(os.lstat(folder / "l").st_mode)
        os.unlink(folder / "l")
        assert (folder / "a").exists()

    def test_dangling_symlink(self, folder: Path) -> None:
        self.lacks("symlinks")
        os.symlink("/nowhere/at all/ü", folder / "l")
        assert os.readlink(folder / "l") == "/nowhere/at all/ü"
        assert not (folder / "l").exists()
        assert os.path.lexists(folder / "l")

    def test_symlink_loop(self, folder: Path) -> None:
        self.lacks("symlinks")
        os.symlink("l", folder / "l")
        assert errno_of(lambda: os.stat(folder / "l")) == errno.ELOOP

    def test_hard_link(self, folder: Path) -> None:
        self.lacks("hard links")
        (folder / "a").write_bytes(b"x")
        os.link(folder / "a", folder / "b")
        assert (folder / "a").stat().st_nlink == 2
        assert (folder / "a").stat().st_ino == (folder / "b").stat().st_ino
        os.unlink(folder / "a")
        assert (folder / "b").read_bytes() == b"x"

    def test_xattrs(self, folder: Path) -> None:
        (folder / "a").touch()
        try:
            os.setxattr(folder / "a", "user.colour", b"blue")
        except OSError as error:
            assert error.errno == errno.EOPNOTSUPP
            pytest.skip("no extended attributes behind this mount")
        assert os.getxattr(folder / "a", "user.colour") == b"blue"
        assert os.listxattr(folder / "a") == ["user.colour"]
        assert (
            errno_of(lambda: os.setxattr(folder / "a", "user.colour", b"", os.XATTR_CREATE)) == errno.EEXIST
        )
        os.setxattr(folder / "a", "user.colour", b"red", os.XATTR_REPLACE)
        assert os.getxattr(folder / "a", "user.colour") == b"red"
        os.removexattr(folder / "a", "user.colour")
        assert os.listxattr(folder / "a") == []
        assert errno_of(lambda: os.getxattr(folder / "a", "user.colour")) == errno.ENODATA
