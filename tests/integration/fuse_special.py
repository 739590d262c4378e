"""What mknod(2) makes, on a mounted file system that can hold it. The kernel alone works on it once it is there."""

from __future__ import annotations

import os
import socket
import stat
import threading
from pathlib import Path

import pytest


class SpecialFilesSuite:
    """Needs a fixture `folder`, an empty directory on the mount."""

    def test_a_fifo_carries_bytes(self, folder: Path) -> None:
        fifo = folder / "fifo"
        os.mkfifo(fifo, 0o640)
        assert stat.S_ISFIFO(fifo.lstat().st_mode)
        writer = threading.Thread(target=fifo.write_bytes, args=(b"through",), daemon=True)
        writer.start()
        assert fifo.read_bytes() == b"through"
        writer.join(10)

    def test_a_socket_is_found_by_its_name(self, folder: Path) -> None:
        here = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        path = f"/proc/self/fd/{here}/s"  # the name of a socket may not be long
        try:
            with socket.socket(socket.AF_UNIX) as listener, socket.socket(socket.AF_UNIX) as client:
                listener.bind(path)
                listener.listen()
                client.connect(path)
            assert stat.S_ISSOCK((folder / "s").lstat().st_mode)
        finally:
            os.close(here)

    @pytest.mark.skipif(os.getuid() != 0, reason="only root makes devices")
    def test_a_device_keeps_its_numbers(self, folder: Path) -> None:
        for name, kind, number in (("c", stat.S_IFCHR, (1, 3)), ("b", stat.S_IFBLK, (259, 70000))):
            os.mknod(folder / name, kind | 0o600, os.makedev(*number))
            found = (folder / name).lstat()
            assert stat.S_IFMT(found.st_mode) == kind
            assert (os.major(found.st_rdev), os.minor(found.st_rdev)) == number

    def test_a_taken_name_is_refused(self, folder: Path) -> None:
        (folder / "x").write_bytes(b"here")
        with pytest.raises(FileExistsError):
            os.mkfifo(folder / "x")
        assert (folder / "x").read_bytes() == b"here"

    def test_they_are_renamed_and_removed_like_files(self, folder: Path) -> None:
        os.mkfifo(folder / "a")
        (folder / "a").rename(folder / "b")
        assert os.listdir(folder) == ["b"]
        (folder / "b").unlink()
        assert os.listdir(folder) == []
