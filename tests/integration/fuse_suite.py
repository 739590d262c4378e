"""What every mount must do: one test per behaviour of POSIX that programs rely on.

A suite to inherit from. The subclass's module has a fixture `folder`: an empty, writable directory below the
mount, as a Path. What cannot be had everywhere is named in `LACKS`.
"""

from __future__ import annotations

import ctypes
import errno
import hashlib
import mmap
import os
import shutil
import struct
import threading
import time
from pathlib import Path
from typing import ClassVar

import pytest

from tests.integration.fuse_attributes import Attributes
from tests.integration.fuse_process import errno_of, python
from tests.integration.fuse_programs import Locking, Programs

RENAME_NOREPLACE = 1
SEEK_BY_4_GIB = (4 << 30) + 12_345


class Reading:
    """Content: what is written is read, whatever the way."""

    def test_write_then_read(self, folder: Path) -> None:
        (folder / "a").write_bytes(b"hello")
        assert (folder / "a").read_bytes() == b"hello"

    def test_empty_file(self, folder: Path) -> None:
        (folder / "a").touch()
        assert (folder / "a").read_bytes() == b""
        assert (folder / "a").stat().st_size == 0

    @pytest.mark.parametrize("size", [1, 4095, 4096, 131_073, (1 << 20) - 1, (1 << 20) + 1, 9_000_001])
    def test_sizes(self, folder: Path, size: int) -> None:
        data = os.urandom(size)
        (folder / "a").write_bytes(data)
        assert (folder / "a").read_bytes() == data
        assert (folder / "a").stat().st_size == size

    def test_read_past_the_end(self, folder: Path) -> None:
        (folder / "a").write_bytes(b"12345")
        with (folder / "a").open("rb") as file:
            assert os.pread(file.fileno(), 10, 3) == b"45"
            assert os.pread(file.fileno(), 10, 5) == b""
            assert os.pread(file.fileno(), 10, 1 << 40) == b""

    def test_random_access(self, folder: Path) -> None:
        data = bytearray(os.urandom(3 << 20))
        (folder / "a").write_bytes(data)
        with (folder / "a").open("r+b", buffering=0) as file:
            for place in (0, 4095, 1 << 20, (2 << 20) - 3, 100, (3 << 20) - 10):
                data[place : place + 10] = b"0123456789"
                os.pwrite(file.fileno(), b"0123456789", place)
                assert os.pread(file.fileno(), 30, max(place - 10, 0)) == data[max(place - 10, 0) :][:30]
        assert (folder / "a").read_bytes() == data

    def test_many_small_writes(self, folder: Path) -> None:
        pieces = [os.urandom(777) for _ in range(3000)]
        with (folder / "a").open("wb", buffering=0) as file:
            for piece in pieces:
                file.write(piece)
        assert (folder / "a").read_bytes() == b"".join(pieces)

    def test_overlapping_writes_keep_their_order(self, folder: Path) -> None:
        expected = bytearray(300_000)
        descriptor = os.open(folder / "a", os.O_CREAT | os.O_RDWR)
        for turn in range(200):
            place = (turn * 7919) % 250_000
            piece = bytes([turn]) * 40_000
            expected[place : place + 40_000] = piece
            os.pwrite(descriptor, piece, place)
        os.close(descriptor)
        content = (folder / "a").read_bytes()
        assert content == expected[: len(content)]

    def test_what_one_wrote_another_reads_before_the_close(self, folder: Path) -> None:
        with (folder / "a").open("wb", buffering=0) as writer:
            writer.write(b"first")
            assert (folder / "a").stat().st_size == 5
            with (folder / "a").open("rb", buffering=0) as reader:
                assert reader.read() == b"first"
                writer.write(b" second")
                assert os.fstat(writer.fileno()).st_size == 12
                assert os.pread(reader.fileno(), 100, 0) == b"first second"

    def test_append(self, folder: Path) -> None:
        (folder / "a").write_bytes(b"one ")
        with (folder / "a").open("ab", buffering=0) as file:
            file.write(b"two ")
            file.write(b"three")
        assert (folder / "a").read_bytes() == b"one two three"

    def test_appending_by_two(self, folder: Path) -> None:
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT
        one, two = os.open(folder / "a", flags), os.open(folder / "a", flags)
        for _ in range(50):
            os.write(one, b"1" * 100)
            os.write(two, b"2" * 100)
        os.close(one)
        os.close(two)
        assert (folder / "a").read_bytes() == (b"1" * 100 + b"2" * 100) * 50

    def test_sparse_file_over_4_gib(self, folder: Path) -> None:
        with (folder / "a").open("wb") as file:
            file.seek(SEEK_BY_4_GIB)
            file.write(b"end")
        found = (folder / "a").stat()
        assert found.st_size == SEEK_BY_4_GIB + 3
        assert found.st_blocks * 512 < 1 << 30
        with (folder / "a").open("rb") as file:
            assert file.read(100) == bytes(100)
            file.seek(SEEK_BY_4_GIB - 3)
            assert file.read() == b"\0\0\0end"

    def test_sequential_read_of_a_large_file(self, folder: Path) -> None:
        block = os.urandom(1 << 20)
        digest = hashlib.sha256()
        with (folder / "a").open("wb") as file:
            for index in range(40):
                piece = struct.pack("<I", index) + block[4:]
                file.write(piece)
                digest.update(piece)
        read = hashlib.sha256()
        with (folder / "a").open("rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
            while piece := file.read(70_000):
                read.update(piece)
        assert read.digest() == digest.digest()

    def test_mmap_read(self, folder: Path) -> None:
        data = os.urandom(300_000)
        (folder / "a").write_bytes(data)
        with (folder / "a").open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as view:
            assert view[:] == data

    def test_mmap_write(self, folder: Path) -> None:
        (folder / "a").write_bytes(bytes(20_000))
        with (folder / "a").open("r+b") as file, mmap.mmap(file.fileno(), 0) as view:
            view[5000:5005] = b"hello"
            view.flush()
        assert (folder / "a").read_bytes()[4999:5006] == b"\0hello\0"

    def test_direct_io(self, folder: Path) -> None:
        data = os.urandom(8192)
        (folder / "a").write_bytes(data)
        descriptor = os.open(folder / "a", os.O_RDONLY | os.O_DIRECT)
        buffer = mmap.mmap(-1, 8192)
        assert os.readv(descriptor, [buffer]) == 8192
        os.close(descriptor)
        assert buffer[:] == data

    def test_synchronous_write(self, folder: Path) -> None:
        descriptor = os.open(folder / "a", os.O_CREAT | os.O_WRONLY | os.O_SYNC)
        assert os.write(descriptor, b"stable") == 6
        os.close(descriptor)
        assert (folder / "a").read_bytes() == b"stable"

    def test_fsync(self, folder: Path) -> None:
        with (folder / "a").open("wb") as file:
            file.write(b"data")
            file.flush()
            os.fsync(file.fileno())
            os.fdatasync(file.fileno())

    def test_fsync_of_a_directory(self, folder: Path) -> None:
        (folder / "a").touch()
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        os.fsync(descriptor)
        os.close(descriptor)


class Opening:
    """open(2) and its flags."""

    def test_open_missing(self, folder: Path) -> None:
        assert errno_of(lambda: os.open(folder / "none", os.O_RDONLY)) == errno.ENOENT

    def test_create(self, folder: Path) -> None:
        os.close(os.open(folder / "a", os.O_CREAT | os.O_WRONLY, 0o640))
        assert (folder / "a").is_file()

    def test_exclusive(self, folder: Path) -> None:
        os.close(os.open(folder / "a", os.O_CREAT | os.O_EXCL | os.O_WRONLY))
        assert errno_of(lambda: os.open(folder / "a", os.O_CREAT | os.O_EXCL | os.O_WRONLY)) == errno.EEXIST

    def test_exclusive_has_one_winner(self, folder: Path) -> None:
        won: list[int] = []

        def race(who: int) -> None:
            try:
                os.close(os.open(folder / "lock", os.O_CREAT | os.O_EXCL | os.O_WRONLY))
                won.append(who)
            except FileExistsError:
                pass

        threads = [threading.Thread(target=race, args=(who,)) for who in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(won) == 1

    def test_truncate_on_open(self, folder: Path) -> None:
        (folder / "a").write_bytes(b"long content")
        (folder / "a").write_bytes(b"x")
        assert (folder / "a").read_bytes() == b"x"

    def test_truncate(self, folder: Path) -> None:
        (folder / "a").write_bytes(b"0123456789")
        os.truncate(folder / "a", 4)
        assert (folder / "a").read_bytes() == b"0123"
        os.truncate(folder / "a", 8)
        assert (folder / "a").read_bytes() == b"0123\0\0\0\0"

    def test_ftruncate_after_write(self, folder: Path) -> None:
        with (folder / "a").open("w+b", buffering=0) as file:
            file.write(b"0123456789")
            os.ftruncate(file.fileno(), 3)
            assert os.fstat(file.fileno()).st_size == 3
            file.write(b"x")  # at offset 10
            assert os.pread(file.fileno(), 20, 0) == b"012" + bytes(7) + b"x"
        assert (folder / "a").stat().st_size == 11

    def test_directory_is_no_file(self, folder: Path) -> None:
        (folder / "d").mkdir()
        assert errno_of(lambda: os.open(folder / "d", os.O_WRONLY)) == errno.EISDIR
        assert errno_of(lambda: os.open(folder / "d" / "a" / "b", os.O_RDONLY)) == errno.ENOENT
        (folder / "f").touch()
        assert errno_of(lambda: os.open(folder / "f" / "x", os.O_RDONLY)) == errno.ENOTDIR

    def test_fallocate(self, folder: Path) -> None:
        with (folder / "a").open("wb") as file:
            try:
                os.posix_fallocate(file.fileno(), 0, 100_000)
            except OSError as error:
                assert error.errno == errno.EOPNOTSUPP
                pytest.skip("no space reservation behind this mount")
        assert (folder / "a").stat().st_size == 100_000

    def test_seek_hole_and_data(self, folder: Path) -> None:
        with (folder / "a").open("w+b", buffering=0) as file:
            file.write(b"data")
            descriptor = file.fileno()
            assert os.lseek(descriptor, 0, os.SEEK_DATA) == 0
            assert 4 <= os.lseek(descriptor, 0, os.SEEK_HOLE) <= 4096
            assert errno_of(lambda: os.lseek(descriptor, 100_000, os.SEEK_DATA)) == errno.ENXIO

    def test_copy_file_range(self, folder: Path) -> None:
        data = os.urandom(200_000)
        (folder / "a").write_bytes(data)
        with (folder / "a").open("rb") as source, (folder / "b").open("wb") as target:
            left = len(data)
            while left:
                copied = os.copy_file_range(source.fileno(), target.fileno(), left)
                assert copied
                left -= copied
        assert (folder / "b").read_bytes() == data


class Renaming:
    """Names come, go and change while files are open."""

    def test_rename(self, folder: Path) -> None:
        (folder / "a").write_bytes(b"1")
        os.rename(folder / "a", folder / "b")
        assert not (folder / "a").exists()
        assert (folder / "b").read_bytes() == b"1"

    def test_rename_over_an_existing_file(self, folder: Path) -> None:
        (folder / "a").write_bytes(b"new")
        (folder / "b").write_bytes(b"old content")
        os.replace(folder / "a", folder / "b")
        assert (folder / "b").read_bytes() == b"new"
        assert os.listdir(folder) == ["b"]

    def test_rename_over_an_open_file(self, folder: Path) -> None:
        (folder / "a").write_bytes(b"new")
        (folder / "b").write_bytes(b"old")
        with (folder / "b").open("rb", buffering=0) as old:
            os.replace(folder / "a", folder / "b")
            assert (folder / "b").read_bytes() == b"new"
            assert old.read() == b"old"
            assert os.fstat(old.fileno()).st_size == 3
            assert os.listdir(folder) == ["b"]

    def test_rename_of_an_open_file(self, folder: Path) -> None:
        with (folder / "a").open("wb", buffering=0) as file:
            file.write(b"before ")
            os.rename(folder / "a", folder / "b")
            file.write(b"after")
            assert os.fstat(file.fileno()).st_size == 12
        assert (folder / "b").read_bytes() == b"before after"

    def test_rename_of_a_directory_with_open_files(self, folder: Path) -> None:
        (folder / "d").mkdir()
        with (folder / "d" / "a").open("wb", buffering=0) as file:
            file.write(b"1")
            os.rename(folder / "d", folder / "e")
            file.write(b"2")
            assert (folder / "e" / "a").stat().st_size == 2
        assert (folder / "e" / "a").read_bytes() == b"12"
        assert not (folder / "d").exists()

    def test_rename_without_replacing(self, folder: Path) -> None:
        (folder / "a").write_bytes(b"1")
        (folder / "b").write_bytes(b"2")
        libc = ctypes.CDLL(None, use_errno=True)
        names = bytes(folder / "a"), bytes(folder / "b")
        assert libc.renameat2(-100, names[0], -100, names[1], RENAME_NOREPLACE) == -1
        assert ctypes.get_errno() == errno.EEXIST
        assert (folder / "b").read_bytes() == b"2"

    def test_rename_into_another_directory(self, folder: Path) -> None:
        (folder / "d").mkdir()
        (folder / "a").write_bytes(b"1")
        os.rename(folder / "a", folder / "d" / "a")
        assert os.listdir(folder) == ["d"]
        assert os.listdir(folder / "d") == ["a"]

    def test_rename_over_a_full_directory(self, folder: Path) -> None:
        for name in ("d", "e"):
            (folder / name).mkdir()
        (folder / "e" / "x").touch()
        assert errno_of(lambda: os.rename(folder / "d", folder / "e")) in (errno.ENOTEMPTY, errno.EEXIST)

    def test_rename_of_a_missing_file(self, folder: Path) -> None:
        assert errno_of(lambda: os.rename(folder / "a", folder / "b")) == errno.ENOENT

    def test_unlink(self, folder: Path) -> None:
        (folder / "a").touch()
        os.unlink(folder / "a")
        assert not (folder / "a").exists()
        assert errno_of(lambda: os.unlink(folder / "a")) == errno.ENOENT

    def test_unlink_of_an_open_file(self, folder: Path) -> None:
        with (folder / "a").open("w+b", buffering=0) as file:
            file.write(b"still")
            os.unlink(folder / "a")
            assert os.listdir(folder) == []
            file.write(b" here")
            assert os.pread(file.fileno(), 100, 0) == b"still here"
            assert os.fstat(file.fileno()).st_size == 10
            time.sleep(1.2)  # the kernel forgets attributes after a second
            assert os.fstat(file.fileno()).st_size == 10
            os.ftruncate(file.fileno(), 5)
            os.fchmod(file.fileno(), 0o600)
            assert os.fstat(file.fileno()).st_size == 5
            assert os.pread(file.fileno(), 100, 0) == b"still"
        assert os.listdir(folder) == []

    def test_new_file_under_the_name_of_an_unlinked_one(self, folder: Path) -> None:
        with (folder / "a").open("w+b", buffering=0) as old:
            old.write(b"old")
            os.unlink(folder / "a")
            (folder / "a").write_bytes(b"brand new")
            assert os.pread(old.fileno(), 100, 0) == b"old"
            assert os.fstat(old.fileno()).st_size == 3
            assert (folder / "a").stat().st_size == 9

    def test_directory_of_an_unlinked_open_file_can_go(self, folder: Path) -> None:
        (folder / "d").mkdir()
        with (folder / "d" / "a").open("w+b", buffering=0) as file:
            os.unlink(folder / "d" / "a")
            os.rmdir(folder / "d")
            file.write(b"x")
            assert os.pread(file.fileno(), 10, 0) == b"x"
        assert os.listdir(folder) == []

    def test_temporary_file(self, folder: Path) -> None:
        done = python(
            "import sys, tempfile\n"
            "with tempfile.TemporaryFile(dir=sys.argv[1]) as f:\n"
            "    f.write(b'x' * 5000); f.seek(0); assert f.read() == b'x' * 5000",
            folder,
        )
        assert done.returncode == 0, done.stderr
        assert os.listdir(folder) == []


class Directories:
    def test_mkdir_and_rmdir(self, folder: Path) -> None:
        (folder / "d").mkdir()
        assert (folder / "d").is_dir()
        assert errno_of(lambda: os.mkdir(folder / "d")) == errno.EEXIST
        (folder / "d").rmdir()
        assert not (folder / "d").exists()

    def test_rmdir_of_a_full_directory(self, folder: Path) -> None:
        (folder / "d" / "e").mkdir(parents=True)
        assert errno_of(lambda: os.rmdir(folder / "d")) == errno.ENOTEMPTY

    def test_rmdir_of_a_file(self, folder: Path) -> None:
        (folder / "a").touch()
        assert errno_of(lambda: os.rmdir(folder / "a")) == errno.ENOTDIR
        assert errno_of(lambda: os.unlink(folder)) in (errno.EISDIR, errno.EPERM)

    MANY = 5_000
    """Entries of a large directory: several pages of a listing."""

    @pytest.mark.timeout(900)
    def test_thousands_of_entries(self, folder: Path) -> None:
        names = {f"entry-{number:05}" for number in range(self.MANY)}
        for name in names:
            os.close(os.open(folder / name, os.O_CREAT | os.O_WRONLY))
        listed = os.listdir(folder)
        assert len(listed) == self.MANY
        assert set(listed) == names
        with os.scandir(folder) as entries:
            assert all(entry.is_file() and entry.stat().st_size == 0 for entry in entries)
        shutil.rmtree(folder)
        assert not folder.exists()
        folder.mkdir()

    def test_listing_shows_changes_at_once(self, folder: Path) -> None:
        assert os.listdir(folder) == []
        (folder / "a").touch()
        assert os.listdir(folder) == ["a"]
        os.rename(folder / "a", folder / "b")
        assert os.listdir(folder) == ["b"]
        os.unlink(folder / "b")
        assert os.listdir(folder) == []

    def test_missing_name_that_appears(self, folder: Path) -> None:
        for turn in range(20):
            path = folder / f"n{turn}"
            assert not path.exists()
            path.touch()
            assert path.exists()
            path.unlink()
            assert not path.exists()
            path.mkdir()
            assert path.is_dir()

    def test_seekdir(self, folder: Path) -> None:
        for number in range(2200):
            (folder / f"{number:04}").touch()
        code = (
            "import ctypes, sys\n"
            "libc = ctypes.CDLL(None)\n"
            "libc.opendir.restype = libc.readdir.restype = ctypes.c_void_p\n"
            "libc.telldir.restype = ctypes.c_long\n"
            "for f in (libc.readdir, libc.telldir): f.argtypes = [ctypes.c_void_p]\n"
            "libc.seekdir.argtypes = [ctypes.c_void_p, ctypes.c_long]\n"
            "d = libc.opendir(sys.argv[1].encode())\n"
            "name = lambda e: ctypes.string_at(e + 19)\n"
            "rest = lambda: [name(e) for e in iter(lambda: libc.readdir(d), None)]\n"
            "[libc.readdir(d) for _ in range(1100)]\n"
            "place = libc.telldir(d); first = rest(); libc.seekdir(d, place)\n"
            "assert rest() == first and len(first) == 1102, len(first)\n"
            "libc.seekdir(d, 0); assert len(rest()) == 2202\n"
        )
        done = python(code, folder)
        assert done.returncode == 0, done.stderr

    def test_deep_path(self, folder: Path) -> None:
        path = folder.joinpath(*["deep"] * 30)
        path.mkdir(parents=True)
        (path / "a").write_bytes(b"x")
        assert (path / "a").read_bytes() == b"x"

    @pytest.mark.parametrize(
        "name", ["ünïcödé", "日本語", "emoji 🎈", "with space", "a'b\"c", "é", "-n", "a\\b"]
    )
    def test_names(self, folder: Path, name: str) -> None:
        if "\\" in name and "backslash" in self.LACKS:
            pytest.skip("no backslash in names here")
        (folder / name).write_bytes(b"x")
        assert os.listdir(folder) == [name]
        assert (folder / name).read_bytes() == b"x"

    def test_name_too_long(self, folder: Path) -> None:
        assert errno_of((folder / ("x" * 256)).touch) == errno.ENAMETOOLONG

    LACKS: ClassVar[frozenset[str]] = frozenset()


class PosixSuite(Reading, Opening, Renaming, Directories, Attributes, Locking, Programs):
    """All of it."""
