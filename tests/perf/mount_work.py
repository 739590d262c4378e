"""What people do on a mount, timed: fio's large and small pieces, and trees of small files.

Every run is on a new mount, so that nothing is in the client's caches; what the server's disk holds is in its page
cache for all of them. Writing ends when all is on the server's disk (fsync).
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from tests.interop.peers.processes import ProcessFailed, run
from tests.perf.figures import Figure
from tests.perf.mounts import Mounted

TIMEOUT_S = 300.0
FILES_EACH = 20
FILE_SIZE = 4096
GIT = ("git", "-c", "safe.directory=*", "-c", "core.checkStat=minimal", "-c", "core.fileMode=false")


@dataclass(frozen=True)
class Settings:
    seconds: float
    """Of the random cases."""
    megabytes: int
    """Of fio's file."""
    directories: int = 50
    """Of the trees, with 20 files each."""


@dataclass(frozen=True)
class Work:
    """`run` works in a mounted folder and returns the figure, of which `unit` tells."""

    name: str
    unit: str
    run: Callable[[Path, Settings], float]
    smaller_is_better: bool = False


def _fio(point: Path, mode: str, *options: str) -> dict[str, float]:
    command = [
        *("fio", "--name=perf", f"--filename={point / 'fio'}", f"--rw={mode}", "--ioengine=psync"),
        *("--fallocate=none", "--output-format=json", *options),
    ]
    job = json.loads(run(command, TIMEOUT_S))["jobs"][0]
    if job["error"]:
        raise ProcessFailed(f"fio: error {job['error']}")
    side = job["read" if "read" in mode else "write"]
    return {"bytes": side["io_bytes"], "count": side["total_ios"], "seconds": job["job_runtime"] / 1000}


def _sequential(mode: str) -> Callable[[Path, Settings], float]:
    def work(point: Path, settings: Settings) -> float:
        result = _fio(point, mode, "--bs=1m", f"--size={settings.megabytes}m", *_ending(mode))
        return result["bytes"] / result["seconds"] / 1e6

    return work


def _random(mode: str) -> Callable[[Path, Settings], float]:
    def work(point: Path, settings: Settings) -> float:
        length = (f"--runtime={settings.seconds}", "--time_based")
        result = _fio(point, mode, "--bs=4k", f"--size={settings.megabytes}m", *length, *_ending(mode))
        return result["count"] / result["seconds"]

    return work


def _ending(mode: str) -> tuple[str, ...]:
    return ("--end_fsync=1",) if "write" in mode else ()


def _timed(command: Sequence[str], empty: bool = False) -> float:
    began = time.perf_counter()
    output = run(command, TIMEOUT_S)
    took = time.perf_counter() - began
    if empty and output:
        raise ProcessFailed(f"{command[0]} said {output[:200]!r}")
    return took


def _list(point: Path, settings: Settings) -> float:
    return _timed(["ls", "-lR", str(point / "repository")])


def _untar(point: Path, settings: Settings) -> float:
    target = point / "unpacked"
    target.mkdir()
    took = _timed(["tar", "-xf", str(point.parent / "archive.tar"), "-C", str(target)])
    found = sum(len(files) for _, _, files in os.walk(target))
    if found != settings.directories * FILES_EACH:
        raise ProcessFailed(f"{found} files unpacked")
    return took


def _status(point: Path, settings: Settings) -> float:
    return _timed([*GIT, "-C", str(point / "repository"), "status", "--porcelain"], empty=True)


WORK = (
    Work("read-1m", "MB/s", _sequential("read")),
    Work("write-1m", "MB/s", _sequential("write")),
    Work("random-read-4k", "per second", _random("randread")),
    Work("random-write-4k", "per second", _random("randwrite")),
    Work("ls-lR", "s", _list, smaller_is_better=True),
    Work("untar", "s", _untar, smaller_is_better=True),
    Work("git-status", "s", _status, smaller_is_better=True),
)


def missing() -> str | None:
    absent = [name for name in ("fio", "git") if shutil.which(name) is None]
    return f"apt-get install {' '.join(absent)}" if absent else None


def prepare(place: Path, settings: Settings) -> Path:
    """The folder that is served: a file for fio and a git repository of small files; beside it, an archive of them."""
    folder = place / "folder"
    repository = folder / "repository"
    content = os.urandom(FILE_SIZE)
    for directory in range(settings.directories):
        below = repository / f"directory-{directory}"
        below.mkdir(parents=True)
        for number in range(FILES_EACH):
            (below / f"file-{number}").write_bytes(content[number:] + content[:number])
    with tarfile.open(place / "archive.tar", "w") as archive:
        archive.add(repository, "tree")
    who = ("-c", "user.name=perf", "-c", "user.email=perf@localhost")
    for command in (["init", "-q"], ["add", "."], [*who, "commit", "-q", "-m", "all"], ["status"]):
        time.sleep(1.1 if command == ["add", "."] else 0)  # git reads again what is as young as its index
        run([*GIT, *who, "-C", str(repository), *command], TIMEOUT_S)
    with (folder / "fio").open("wb") as file:
        for _ in range(settings.megabytes):
            file.write(os.urandom(1 << 20))
    subprocess.run(["sync"], check=True)
    return folder


def measure(
    mounts: Sequence[Mounted], runs: int, settings: Settings, tell: Callable[[str], None]
) -> Iterator[Figure]:
    with ExitStack() as stack:
        place = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="quicfs-perf-")))
        folder = prepare(place, settings)
        point = place / "mount"
        point.mkdir()
        failed: dict[str, str] = {}
        for mount in mounts:
            (place / mount.name).mkdir()
            try:
                stack.enter_context(mount.serving(folder, place / mount.name))
            except ProcessFailed as failure:
                failed[mount.name] = str(failure)
        for work in WORK:
            figures = [
                Figure("mount", work.name, mount.name, work.unit, smaller_is_better=work.smaller_is_better)
                for mount in mounts
            ]
            for number in range(1, runs + 1):
                for mount, figure in zip(mounts, figures, strict=True):
                    figure.error = figure.error or failed.get(mount.name)
                    if figure.error:
                        continue
                    try:
                        with mount.mounted(point, place / mount.name):
                            figure.values.append(work.run(point, settings))
                    except ProcessFailed as failure:
                        figure.error = str(failure)
                    else:
                        value = f"{figure.values[-1]:,.3g} {work.unit}"
                        tell(f"mount {work.name} {mount.name}: run {number} of {runs}, {value}")
                    finally:
                        shutil.rmtree(folder / "unpacked", ignore_errors=True)
            yield from figures
