"""The server goes away, falls silent, runs out of space; programs get errors in time, and the mount recovers."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from quicfs.fuse_mount import unmount_path
from tests.integration.fuse_faulty import Fault, FaultyMount, faulty_mount

pytestmark = pytest.mark.fuse

DEADLINE = 2.0
OPTIONS = f"deadline={DEADLINE},retry_deadline=0.5,attr_timeout=0.2,entry_timeout=0.2,negative_timeout=0.2"
SLACK = 6.0  # of a busy machine


@pytest.fixture
def faults(tmp_path: Path, require: Callable[..., None]) -> Iterator[FaultyMount]:
    require("fuse")
    for name in ("source", "mnt"):
        (tmp_path / name).mkdir()
    with faulty_mount(tmp_path / "source", tmp_path / "mnt", OPTIONS) as mount:
        yield mount


@pytest.fixture
def mnt(tmp_path: Path, faults: FaultyMount) -> Path:
    return tmp_path / "mnt"


def expire() -> None:
    """Until nothing is remembered, here or in the kernel."""
    time.sleep(0.5)


def timed(call: Callable[[], object]) -> tuple[int, float]:
    start = time.monotonic()
    with pytest.raises(OSError) as caught:
        call()
    assert caught.value.errno is not None
    return caught.value.errno, time.monotonic() - start


CALLS: dict[str, Callable[[Path], object]] = {
    "stat": lambda mnt: os.stat(mnt / "a"),
    "listdir": lambda mnt: os.listdir(mnt / "d"),
    "open": lambda mnt: (mnt / "a").open("rb").close(),
    "create": lambda mnt: (mnt / "new").touch(),
    "mkdir": lambda mnt: (mnt / "newdir").mkdir(),
    "unlink": lambda mnt: (mnt / "a").unlink(),
    "rename": lambda mnt: os.rename(mnt / "a", mnt / "b"),
    "chmod": lambda mnt: os.chmod(mnt / "a", 0o600),
    "truncate": lambda mnt: os.truncate(mnt / "a", 0),
    "statfs": os.statvfs,
    "readlink": lambda mnt: os.readlink(mnt / "l"),
}


def prepare(mnt: Path) -> None:
    (mnt / "a").write_bytes(b"content")
    (mnt / "d").mkdir()
    os.symlink("a", mnt / "l")


@pytest.mark.parametrize("name", CALLS)
def test_lost_connection_is_an_error_at_once(mnt: Path, faults: FaultyMount, name: str) -> None:
    prepare(mnt)
    expire()
    faults.set(Fault.DISCONNECTED)
    number, seconds = timed(lambda: CALLS[name](mnt))
    assert number == errno.EHOSTDOWN
    assert seconds < SLACK
    faults.set(Fault.NONE)
    CALLS[name](mnt)


@pytest.mark.parametrize("name", CALLS)
def test_silence_is_an_error_in_time(mnt: Path, faults: FaultyMount, name: str) -> None:
    prepare(mnt)
    expire()
    faults.set(Fault.SILENT)
    number, seconds = timed(lambda: CALLS[name](mnt))
    assert number == errno.ETIMEDOUT
    assert seconds < DEADLINE + SLACK
    faults.set(Fault.NONE)
    CALLS[name](mnt)


def test_open_files_work_again(mnt: Path, faults: FaultyMount) -> None:
    (mnt / "a").write_bytes(os.urandom(3 << 20))
    with (mnt / "a").open("r+b", buffering=0) as file:
        faults.set(Fault.DISCONNECTED)
        assert timed(lambda: os.pread(file.fileno(), 100, 2 << 20))[0] in (errno.EHOSTDOWN, errno.EIO)
        faults.set(Fault.NONE)
        assert len(os.pread(file.fileno(), 100, 2 << 20)) == 100
        file.write(b"again")
    assert (mnt / "a").read_bytes()[:5] == b"again"


def test_failed_write_is_told_at_fsync(mnt: Path, faults: FaultyMount) -> None:
    descriptor = os.open(mnt / "a", os.O_CREAT | os.O_WRONLY)
    faults.set(Fault.NO_SPACE)
    os.write(descriptor, b"x" * 1000)
    assert timed(lambda: os.fsync(descriptor))[0] == errno.ENOSPC
    faults.set(Fault.NONE)
    os.write(descriptor, b"y" * 1000)
    os.fsync(descriptor)
    os.close(descriptor)


def test_failed_write_is_told_at_close(mnt: Path, faults: FaultyMount) -> None:
    descriptor = os.open(mnt / "a", os.O_CREAT | os.O_WRONLY)
    faults.set(Fault.NO_SPACE)
    os.write(descriptor, b"x" * 1000)
    assert timed(lambda: os.close(descriptor))[0] == errno.ENOSPC


def test_unsent_data_of_a_silent_server_is_told_at_close(mnt: Path, faults: FaultyMount) -> None:
    descriptor = os.open(mnt / "a", os.O_CREAT | os.O_WRONLY)
    faults.set(Fault.SILENT)
    os.write(descriptor, b"x" * 1000)
    number, seconds = timed(lambda: os.close(descriptor))
    assert number == errno.ETIMEDOUT
    assert seconds < DEADLINE + SLACK


def test_many_callers_of_a_silent_server_do_not_add_up(mnt: Path, faults: FaultyMount) -> None:
    prepare(mnt)
    expire()
    faults.set(Fault.SILENT)
    numbers: list[int] = []

    def call(number: int) -> None:
        try:
            os.stat(mnt / f"missing{number}")
        except OSError as error:
            numbers.append(error.errno or 0)

    threads = [threading.Thread(target=call, args=(number,)) for number in range(60)]
    start = time.monotonic()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert time.monotonic() - start < DEADLINE + 60 * 0.3 + SLACK
    assert numbers == [errno.ETIMEDOUT] * 60


def test_what_is_remembered_is_answered_while_others_wait(
    tmp_path: Path, require: Callable[..., None]
) -> None:
    require("fuse")
    for name in ("source", "mnt"):
        (tmp_path / name).mkdir()
    mnt = tmp_path / "mnt"
    options = f"deadline={DEADLINE},attr_timeout=60,entry_timeout=0,negative_timeout=0"
    with faulty_mount(tmp_path / "source", mnt, options) as faults:
        for number in range(10):
            (mnt / f"d{number}").mkdir()
        (mnt / "a").write_bytes(b"x")
        os.stat(mnt / "a")
        faults.set(Fault.SILENT)
        threads = [
            threading.Thread(target=os.path.exists, args=(mnt / f"d{n}" / "missing",)) for n in range(10)
        ]
        for thread in threads:
            thread.start()
        time.sleep(0.5)
        start = time.monotonic()
        os.stat(mnt / "a")  # the kernel asks, as names live for 0 s
        assert time.monotonic() - start < DEADLINE / 2
        for thread in threads:
            thread.join()


def test_a_waiting_program_can_be_killed(mnt: Path, faults: FaultyMount) -> None:
    prepare(mnt)
    expire()
    faults.set(Fault.SILENT)
    code = "import os, sys; print('go', flush=True); os.stat(sys.argv[1])"
    command = [sys.executable, "-c", code, str(mnt / "a")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "go\n"
        time.sleep(0.1)
        process.send_signal(signal.SIGTERM)
        start = time.monotonic()
        process.wait(DEADLINE + SLACK)
        assert time.monotonic() - start < DEADLINE  # it did not have to wait for the deadline
    assert process.returncode == -signal.SIGTERM


def test_given_up_calls_are_cancelled(mnt: Path, faults: FaultyMount) -> None:
    prepare(mnt)
    expire()
    faults.set(Fault.SILENT)
    timed(lambda: os.stat(mnt / "a"))
    assert faults.cancelled >= 1


def test_slow_server_is_no_error(mnt: Path, faults: FaultyMount) -> None:
    faults.set(Fault.NONE, delay=0.3)
    (mnt / "a").write_bytes(b"slow")
    assert (mnt / "a").read_bytes() == b"slow"


def test_small_writes_are_gathered(mnt: Path, faults: FaultyMount) -> None:
    with (mnt / "a").open("wb", buffering=0) as file:
        for _ in range(4096):
            file.write(b"x" * 1024)
    assert sum(faults.write_sizes) == 4 << 20
    assert faults.calls["write"] <= 8


def test_idle_data_is_written_without_a_close(tmp_path: Path, mnt: Path) -> None:
    with (mnt / "a").open("wb", buffering=0) as file:
        file.write(b"log line\n")
        limit = time.monotonic() + 10
        while (tmp_path / "source" / "a").stat().st_size == 0 and time.monotonic() < limit:
            time.sleep(0.05)
        assert (tmp_path / "source" / "a").read_bytes() == b"log line\n"


def test_reading_ahead_asks_for_large_pieces(mnt: Path, faults: FaultyMount, tmp_path: Path) -> None:
    data = os.urandom(8 << 20)
    (tmp_path / "source" / "a").write_bytes(data)
    with (mnt / "a").open("rb", buffering=0) as file:
        content = bytearray()
        while piece := file.read(50_000):
            content += piece
    assert content == data
    assert faults.calls["read"] <= 16


def test_a_small_file_comes_with_one_read(mnt: Path, faults: FaultyMount, tmp_path: Path) -> None:
    (tmp_path / "source" / "a").write_bytes(bytes(500_000))
    assert len((mnt / "a").read_bytes()) == 500_000
    assert faults.calls["read"] == 1


def test_listing_brings_the_attributes(mnt: Path, faults: FaultyMount, tmp_path: Path) -> None:
    for number in range(200):
        (tmp_path / "source" / f"f{number}").touch()
    with os.scandir(mnt) as entries:
        assert sum(entry.stat().st_size == 0 for entry in entries) == 200
    assert faults.calls["lookup"] < 20


def test_changes_of_others_are_seen(mnt: Path, tmp_path: Path) -> None:
    source = tmp_path / "source" / "a"
    source.write_bytes(b"one")
    assert (mnt / "a").read_bytes() == b"one"
    expire()
    source.write_bytes(b"two, longer")
    assert (mnt / "a").read_bytes() == b"two, longer"
    source.unlink()
    expire()
    assert not (mnt / "a").exists()


def test_failed_rename_over_an_open_file_keeps_it(mnt: Path, faults: FaultyMount) -> None:
    (mnt / "a").write_bytes(b"new")
    (mnt / "b").write_bytes(b"old")
    with (mnt / "b").open("rb", buffering=0) as file:
        faults.set(Fault.DISCONNECTED)
        assert timed(lambda: os.rename(mnt / "a", mnt / "b"))[0] == errno.EHOSTDOWN
        faults.set(Fault.NONE)
        assert file.read() == b"old"
        assert (mnt / "b").read_bytes() == b"old"
        assert (mnt / "a").read_bytes() == b"new"
        assert sorted(os.listdir(mnt)) == ["a", "b"]


def test_unmounting_with_a_silent_server(mnt: Path, faults: FaultyMount) -> None:
    (mnt / "a").write_bytes(b"x")
    faults.set(Fault.SILENT)
    unmount_path(str(mnt))
    assert not os.path.ismount(mnt)
    assert faults.process.wait(3 * DEADLINE + SLACK) == 0
