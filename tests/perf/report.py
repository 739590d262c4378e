"""The table: on a terminal, as Markdown for the README, as JSON."""

import datetime
import os
import platform
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from tests.perf.contenders import Contender
from tests.perf.figures import times
from tests.perf.measure import Result


def machine() -> str:
    """Processor, cores and kernel, for the line under the table."""
    model = "unknown processor"
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            model = line.partition(":")[2].strip()
            break
    return f"{os.cpu_count()} cores, {model}, Linux {platform.release()}, Python {platform.python_version()}"


def _columns(results: Sequence[Result]) -> list[tuple[str, str]]:
    return list(dict.fromkeys((result.link, result.direction.value) for result in results))


def _rows(results: Sequence[Result], ours: str = "quicfs") -> list[list[str]]:
    medians = {(r.contender, r.link, r.direction.value): r.median for r in results}
    rows = []
    for contender in dict.fromkeys(result.contender for result in results):
        row = [contender]
        for link, direction in _columns(results):
            median, own = medians.get((contender, link, direction)), medians.get((ours, link, direction))
            if median is None:
                row.append("failed")
            elif contender == ours or not own:
                row.append(_speed(median))
            else:
                row.append(f"{_speed(median)} {times(own / median)}")
        rows.append(row)
    return rows


def _speed(gbit_per_s: float) -> str:
    return f"{gbit_per_s:.2f}" if gbit_per_s >= 0.1 else f"{gbit_per_s:.4f}"


def _headings(results: Sequence[Result]) -> list[str]:
    return ["", *(f"{link}, {direction}" for link, direction in _columns(results))]


def caption(runs: int) -> str:
    date = datetime.datetime.now(datetime.UTC).date().isoformat()
    meaning = f"Gbit/s of one stream, median of {runs} interleaved runs; ×n: quicfs is n times as fast"
    return f"{meaning}. {machine()}. {date}"


def print_table(results: Sequence[Result], runs: int, console: Console) -> None:
    table = Table(*_headings(results), caption=caption(runs))
    for row in _rows(results):
        table.add_row(*row)
    console.print(table)


def markdown(results: Sequence[Result], contenders: Sequence[Contender], runs: int) -> str:
    versions = {contender.name: contender.version for contender in contenders}
    headings = _headings(results)
    lines = ["| " + " | ".join(headings) + " |", "|---" + "|---:" * (len(headings) - 1) + "|"]
    for row in _rows(results):
        lines.append("| " + " | ".join([f"{row[0]} ({versions[row[0]]})", *row[1:]]) + " |")
    return "\n".join([*lines, "", caption(runs) + ".", ""])


def as_json(results: Sequence[Result], contenders: Sequence[Contender], runs: int) -> dict[str, Any]:
    return {
        "machine": machine(),
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "runs": runs,
        "versions": {contender.name: contender.version for contender in contenders},
        "results": [
            {
                "link": result.link,
                "direction": result.direction.value,
                "contender": result.contender,
                "bytes": result.size,
                "gbit_per_s": [round(value, 4) for value in result.gbit_per_s],
                "median": result.median,
                "error": result.error,
            }
            for result in results
        ],
    }
