"""What a benchmark found: runs of one contender in one case. A table, Markdown or JSON of them, and the ratios."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from rich.console import Console
from rich.table import Table

OURS = "quicfs"


@dataclass
class Figure:
    """`unit` says what `values` are. `smaller_is_better`: memory, and not speed."""

    benchmark: str
    case: str
    contender: str
    unit: str
    values: list[float] = field(default_factory=list)
    smaller_is_better: bool = False
    note: str = ""
    error: str | None = None

    @property
    def median(self) -> float | None:
        return statistics.median(self.values) if self.values else None


def ratios(figures: Sequence[Figure]) -> Iterator[tuple[str, float, float, float]]:
    """(name, ours, peer, ratio): above 1 means that quicfs does better."""
    medians = {(f.benchmark, f.case, f.contender): f.median for f in figures}
    for figure in figures:
        own, peer = medians.get((figure.benchmark, figure.case, OURS)), figure.median
        if figure.contender != OURS and own and peer:
            ratio = peer / own if figure.smaller_is_better else own / peer
            yield f"{figure.benchmark}.{figure.case}.{figure.contender}", own, peer, ratio


def times(ratio: float) -> str:
    return f"(×{ratio:.1f})" if ratio >= 1 else f"(×{ratio:.2g})"


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


MANY_CASES = 6


def table(figures: Sequence[Figure]) -> tuple[list[str], list[list[str]]]:
    """Headings and rows of one benchmark: a row for each contender, a column for each case; the other way round
    where there are many cases."""
    headings, rows = _by_contender(figures)
    if len(headings) <= MANY_CASES:
        return headings, rows
    turned = list(zip(headings, *rows, strict=True))
    return list(turned[0]), [list(row) for row in turned[1:]]


def _by_contender(figures: Sequence[Figure]) -> tuple[list[str], list[list[str]]]:
    cases = list(dict.fromkeys((figure.case, figure.unit) for figure in figures))
    by_key = {(figure.contender, figure.case): figure for figure in figures}
    rows = []
    for contender in dict.fromkeys(figure.contender for figure in figures):
        row = [contender]
        for case, _ in cases:
            figure = by_key.get((contender, case))
            if figure is None:
                row.append("")
            elif figure.median is None:
                row.append("failed")
            else:
                own = by_key.get((OURS, case))
                cell = _number(figure.median)
                if contender != OURS and own is not None and own.median:
                    better = next((ratio for *_, ratio in ratios([own, figure])), 0.0)
                    cell += f" {times(better)}"
                row.append(f"{cell} {figure.note}".rstrip())
        rows.append(row)
    return ["", *(f"{case}, {unit}" for case, unit in cases)], rows


def _by_benchmark(figures: Sequence[Figure]) -> dict[str, list[Figure]]:
    groups: dict[str, list[Figure]] = {}
    for figure in figures:
        groups.setdefault(figure.benchmark, []).append(figure)
    return groups


def print_tables(figures: Sequence[Figure], console: Console) -> None:
    for benchmark, group in _by_benchmark(figures).items():
        headings, rows = table(group)
        shown = Table(*headings, title=benchmark)
        for row in rows:
            shown.add_row(*row)
        console.print(shown)


def markdown(figures: Sequence[Figure]) -> str:
    parts = []
    for benchmark, group in _by_benchmark(figures).items():
        headings, rows = table(group)
        headings[0] = benchmark
        lines = ["| " + " | ".join(headings) + " |", "|---" + "|---:" * (len(headings) - 1) + "|"]
        lines += ["| " + " | ".join(row) + " |" for row in rows]
        parts.append("\n".join(lines))
    return "\n\n".join(parts)


def as_json(figures: Sequence[Figure]) -> list[dict[str, object]]:
    return [
        {
            "benchmark": figure.benchmark,
            "case": figure.case,
            "contender": figure.contender,
            "unit": figure.unit,
            "values": [round(value, 3) for value in figure.values],
            "median": figure.median,
            "note": figure.note,
            "error": figure.error,
        }
        for figure in figures
    ]
