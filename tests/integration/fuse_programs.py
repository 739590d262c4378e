"""Part of the suite for mounts: what several programs do at once, and what everyday programs do."""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import sqlite3
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from tests.integration.fuse_process import errno_of, python, run


class Locking:
    def test_fcntl_lock_between_processes(self, folder: Path) -> None:
        (folder / "a").write_bytes(bytes(100))
        code = (
            "import fcntl, sys\n"
            "f = open(sys.argv[1], 'r+b')\n"
            "try: fcntl.lockf(f, fcntl.LOCK_EX | fcntl.LOCK_NB, 10, int(sys.argv[2])); print('free')\n"
            "except OSError as e: print(e.errno in (11, 13))\n"
        )
        with (folder / "a").open("r+b") as file:
            fcntl.lockf(file, fcntl.LOCK_EX, 10, 20)
            assert python(code, folder / "a", 25).stdout == "True\n"
            assert python(code, folder / "a", 40).stdout == "free\n"
            fcntl.lockf(file, fcntl.LOCK_UN, 10, 20)
            assert python(code, folder / "a", 25).stdout == "free\n"

    def test_fcntl_lock_is_released_by_close(self, folder: Path) -> None:
        (folder / "a").write_bytes(bytes(100))
        code = "import fcntl, sys\nf = open(sys.argv[1], 'r+b')\nfcntl.lockf(f, fcntl.LOCK_EX)\n"
        assert python(code, folder / "a").returncode == 0
        with (folder / "a").open("r+b") as file:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)

    def test_flock_between_open_files(self, folder: Path) -> None:
        with (folder / "a").open("w") as one, (folder / "a").open("w") as two:
            fcntl.flock(one, fcntl.LOCK_EX)
            assert errno_of(lambda: fcntl.flock(two, fcntl.LOCK_EX | fcntl.LOCK_NB)) == errno.EWOULDBLOCK
            fcntl.flock(one, fcntl.LOCK_UN)
            fcntl.flock(two, fcntl.LOCK_EX | fcntl.LOCK_NB)

    def test_waiting_for_a_lock(self, folder: Path) -> None:
        (folder / "a").touch()
        code = (
            "import fcntl, sys\nf = open(sys.argv[1], 'r+b')\nprint('waiting', flush=True)\n"
            "fcntl.lockf(f, fcntl.LOCK_EX)\nprint('got it')\n"
        )
        with (folder / "a").open("r+b") as file:
            fcntl.lockf(file, fcntl.LOCK_EX)
            command = [sys.executable, "-c", code, str(folder / "a")]
            with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as waiter:
                assert waiter.stdout is not None
                assert waiter.stdout.readline() == "waiting\n"
                time.sleep(0.3)
                assert waiter.poll() is None
                fcntl.lockf(file, fcntl.LOCK_UN)
                assert waiter.communicate(timeout=20)[0] == "got it\n"

    def test_waiting_for_a_lock_ends_with_a_signal(self, folder: Path) -> None:
        (folder / "a").touch()
        code = (
            "import fcntl, signal, sys\n"
            "class Alarm(Exception): pass\n"
            "def ring(*_): raise Alarm\n"
            "signal.signal(signal.SIGALRM, ring)\nsignal.setitimer(signal.ITIMER_REAL, 0.3)\n"
            "f = open(sys.argv[1], 'r+b')\n"
            "try: fcntl.lockf(f, fcntl.LOCK_EX)\nexcept Alarm: print('interrupted')\n"
        )
        with (folder / "a").open("r+b") as file:
            fcntl.lockf(file, fcntl.LOCK_EX)
            assert python(code, folder / "a").stdout == "interrupted\n"


class Programs:
    """What people do."""

    def test_sqlite(self, folder: Path) -> None:
        database = sqlite3.connect(folder / "db")
        database.execute("create table t (k integer primary key, v text)")
        for turn in range(5):
            with database:
                database.executemany("insert into t (v) values (?)", [(f"{turn}-{n}",) for n in range(200)])
        other = sqlite3.connect(folder / "db")
        assert other.execute("select count(*) from t").fetchone() == (1000,)
        assert other.execute("pragma integrity_check").fetchone() == ("ok",)
        other.close()
        database.close()

    def test_git(self, folder: Path) -> None:
        if shutil.which("git") is None:
            pytest.skip("git is not installed")
        origin = folder / "origin"
        origin.mkdir()
        run("git", "init", "-q", "-b", "main", cwd=origin)
        run("git", "config", "user.email", "test@example.org", cwd=origin)
        run("git", "config", "user.name", "test", cwd=origin)
        for number in range(50):
            (origin / f"file{number}").write_text(f"{number}\n" * number)
        run("git", "add", ".", cwd=origin)
        run("git", "commit", "-q", "-m", "first", cwd=origin)
        run("git", "clone", "-q", origin, folder / "clone", cwd=folder)
        assert run("git", "status", "--porcelain", cwd=folder / "clone") == ""
        (folder / "clone" / "file3").write_text("changed")
        assert run("git", "status", "--porcelain", cwd=folder / "clone") == " M file3\n"
        run("git", "fsck", cwd=folder / "clone")

    def test_tar(self, folder: Path) -> None:
        source = folder / "source"
        (source / "sub").mkdir(parents=True)
        for number in range(100):
            (source / "sub" / f"f{number}").write_bytes(os.urandom(number * 100))
        run("tar", "-cf", folder / "a.tar", "-C", folder, "source")
        (folder / "out").mkdir()
        run("tar", "-xpf", folder / "a.tar", "-C", folder / "out")
        run("diff", "-r", source, folder / "out" / "source")
        for number in range(100):
            mtimes = [(f / "sub" / f"f{number}").stat().st_mtime for f in (source, folder / "out" / "source")]
            assert int(mtimes[0]) == int(mtimes[1])

    def test_copy_tree_and_back(self, folder: Path, tmp_path: Path) -> None:
        source = Path(os.__file__).parent / "asyncio"
        shutil.copytree(source, folder / "tree")
        shutil.copytree(folder / "tree", tmp_path / "back")
        run("diff", "-r", source, tmp_path / "back")

    def test_editor_save(self, folder: Path) -> None:
        """Write beside it, sync, rename over it: the old or the new, never a mixture.

        The kernel looks a name up once more when what it led to is gone; who opens a file that is replaced twice
        meanwhile is told so (ESTALE), as on every network file system. That is rare."""
        (folder / "a").write_text("0" * 1000)
        wrong: list[str] = []
        stale: list[OSError] = []
        stop = threading.Event()

        def read() -> None:
            while not stop.is_set():
                try:
                    text = (folder / "a").read_text()
                except OSError as error:
                    stale.append(error)
                    continue
                if len(text) != 1000 or len(set(text)) != 1:
                    wrong.append(text)

        reader = threading.Thread(target=read)
        reader.start()
        for turn in range(1, 40):
            with (folder / "new").open("w") as file:
                file.write(str(turn % 10) * 1000)
                file.flush()
                os.fsync(file.fileno())
            os.replace(folder / "new", folder / "a")
        stop.set()
        reader.join()
        assert not wrong
        assert len(stale) <= 2 and all(error.errno == errno.ESTALE for error in stale)

    def test_many_threads(self, folder: Path) -> None:
        failures: list[BaseException] = []

        def work(who: int) -> None:
            try:
                for turn in range(25):
                    path = folder / f"{who}-{turn}"
                    data = os.urandom(5000)
                    path.write_bytes(data)
                    os.rename(path, path.with_suffix(".done"))
                    assert path.with_suffix(".done").read_bytes() == data
            except BaseException as error:
                failures.append(error)

        threads = [threading.Thread(target=work, args=(who,)) for who in range(12)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not failures
        assert len(os.listdir(folder)) == 12 * 25
