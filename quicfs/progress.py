"""How far a copy has come: bars on a terminal, one closing line always."""

from __future__ import annotations

import time
from types import TracebackType
from typing import Final, Self

from rich.console import Console
from rich.filesize import decimal
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    SpinnerColumn,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TransferSpeedColumn,
)

__all__ = ["CopyProgress", "rate"]

_REFRESH_S: Final = 0.1


class CopyProgress:
    """Counts files and bytes, both done and known of; drawn at most ten times a second.

    A context manager. Without a terminal nothing is drawn on the way.
    """

    def __init__(self, what: str, *, console: Console | None = None) -> None:
        self._what = what
        self._console = console or Console(stderr=True)
        self.files = self.files_known = 0
        self.bytes = self.bytes_known = 0
        self._begin = time.perf_counter()
        self._end: float | None = None
        self._next_draw = 0.0
        self._bars: Progress | None = None
        self._task = TaskID(0)

    def __enter__(self) -> Self:
        self._begin = time.perf_counter()
        if self._console.is_terminal:
            self._bars = Progress(
                SpinnerColumn(),
                TextColumn("{task.description}"),
                BarColumn(),
                DownloadColumn(),
                TransferSpeedColumn(),
                TextColumn("{task.fields[files]}"),
                TimeElapsedColumn(),
                console=self._console,
                auto_refresh=False,  # no thread of its own: a mount or an event loop may be forked or busy
                transient=True,
            )
            self._task = self._bars.add_task(self._what, total=None, files="")
            self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end = time.perf_counter()
        if self._bars is not None:
            self._draw()
            self._bars.stop()

    def found(self, size: int) -> None:
        """One more file to copy, of `size` bytes."""
        self.files_known += 1
        self.bytes_known += size

    def advance(self, count: int) -> None:
        self.bytes += count
        if self._bars is not None and time.perf_counter() >= self._next_draw:
            self._draw()

    def file_done(self, count: int = 0) -> None:
        """One file more is done, with `count` bytes that were not counted before."""
        self.files += 1
        self.advance(count)

    @property
    def seconds(self) -> float:
        return (self._end or time.perf_counter()) - self._begin

    def summary(self) -> str:
        """`2,000 files, 50.1 MB in 1.2 s (41.7 MB/s)`"""
        files = f"{self.files:,} file{'' if self.files == 1 else 's'}"
        return f"{files}, {decimal(self.bytes)} in {self.seconds:.1f} s ({rate(self.bytes, self.seconds)})"

    def _draw(self) -> None:
        assert self._bars is not None, "only called while the bars are there"
        self._bars.update(
            self._task,
            completed=self.bytes,
            total=max(self.bytes_known, self.bytes),
            files=f"{self.files:,}/{self.files_known:,} files",
        )
        self._bars.refresh()
        self._next_draw = time.perf_counter() + _REFRESH_S


def rate(count: int, seconds: float) -> str:
    """Bytes per second for a person: `41.7 MB/s`."""
    return f"{decimal(round(count / max(seconds, 1e-9)))}/s"
