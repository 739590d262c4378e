"""The interop matrix: every case between quicfs and each other stack, both ways, over a simulated link.

    python -m tests.interop.matrix                              all of it, some 40 minutes
    python -m tests.interop.matrix --cases retry,v2 --peers aioquic
    python -m tests.interop.matrix --write docs/interop.md      and write the page

What each case asks for and how it is judged is that of the public runner (cases.py, checks.py). Results are added to
--results as they come, so that a matrix can be made in several runs; --again repeats what is there already.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Final

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from tests.interop.cases import CASES, Case
from tests.interop.implementations import IMPLEMENTATIONS, OURS, Implementation
from tests.interop.page import MARKS, page
from tests.interop.runs import Bench, Result, Verdict
from tests.netlab import NetlabError

MAX_LABS: Final = 2
"""Runs at one time: more of them would measure the machine."""

Pairing = tuple[Implementation, Implementation]


def pairings(peers: Iterable[str]) -> list[Pairing]:
    """quicfs as the client and as the server of each peer."""
    ours = IMPLEMENTATIONS[OURS]
    found: list[Pairing] = []
    for name in peers:
        peer = IMPLEMENTATIONS[name]
        found += [(ours, peer)] if peer is ours else [(ours, peer), (peer, ours)]
    return found


class Results:
    """What is known, in a file."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._known: dict[tuple[str, str, str], Result] = {}
        if path.exists():
            for values in json.loads(path.read_text()):
                self._add(Result.from_dict(values))

    def _add(self, result: Result) -> None:
        self._known[result.client, result.server, result.case] = result

    def add(self, result: Result) -> None:
        self._add(result)
        self._path.parent.mkdir(parents=True, exist_ok=True)
        text = json.dumps([known.as_dict() for known in self._known.values()], indent=1)
        self._path.write_text(text + "\n")

    def get(self, client: str, server: str, case: str) -> Result | None:
        return self._known.get((client, server, case))

    def all(self) -> list[Result]:
        return list(self._known.values())


def run_all(
    work: Sequence[tuple[Pairing, Case]], results: Results, labs: int, keep: Path | None, console: Console
) -> list[Result]:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    done = []
    with Bench(keep) as bench, Progress(*columns, console=console) as progress:
        bar = progress.add_task("cases", total=len(work))
        with ThreadPoolExecutor(labs) as threads:
            futures = [threads.submit(bench.run, *pairing, case) for pairing, case in work]
            try:
                for future in as_completed(futures):
                    result = future.result()
                    results.add(result)
                    done.append(result)
                    progress.console.print(_line(result), highlight=False, markup=False)
                    progress.advance(bar)
            except BaseException:
                threads.shutdown(cancel_futures=True)
                raise
    return done


def _line(result: Result) -> str:
    reason = f": {result.reason}" if result.reason else ""
    return (
        f"{MARKS[result.verdict]} {result.case:20} {result.client} -> {result.server} "
        f"({result.seconds:.0f} s){reason}"
    )


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    def names(known: Iterable[str]) -> object:
        def read(text: str) -> list[str]:
            chosen = [name.strip() for name in text.split(",") if name.strip()]
            for name in chosen:
                if name not in known:
                    raise argparse.ArgumentTypeError(f"{name!r} is none of {', '.join(known)}")
            return chosen

        return read

    parser = argparse.ArgumentParser(
        prog="python -m tests.interop.matrix",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--cases", type=names(CASES), default=list(CASES), metavar="NAME,...")
    parser.add_argument(
        "--peers",
        type=names(IMPLEMENTATIONS),
        default=list(IMPLEMENTATIONS),
        metavar="NAME,...",
        help=f"of {', '.join(IMPLEMENTATIONS)}",
    )
    parser.add_argument("--write", type=Path, metavar="FILE", help="write the page with the table")
    parser.add_argument(
        "--results", type=Path, default=Path("build/interop/results.json"), metavar="FILE", help="%(default)s"
    )
    parser.add_argument("--again", action="store_true", help="also what has passed in --results already")
    parser.add_argument(
        "--labs", type=int, choices=range(1, MAX_LABS + 1), default=1, help="runs at one time, %(default)s"
    )
    parser.add_argument(
        "--keep", type=Path, metavar="FOLDER", help="keep captures, logs and qlogs of every run"
    )
    return parser.parse_args(arguments)


def main(arguments: Sequence[str]) -> int:
    """0 if nothing failed, 1 if something did, 2 if it could not be run."""
    options = parse(arguments)
    console = Console(stderr=True)
    results = Results(options.results)
    work: list[tuple[Pairing, Case]] = []
    for client, server in pairings(options.peers):
        for name in options.cases:
            known = results.get(client.name, server.name, name)
            if options.again or known is None or known.verdict is Verdict.FAILED:
                work.append(((client, server), CASES[name]))
    try:
        run_all(work, results, options.labs, options.keep, console)
    except NetlabError as error:
        console.print(f"matrix: {error}", highlight=False, markup=False)
        return 2
    if options.write is not None:
        options.write.write_text(page(results.all()))
    return int(any(result.verdict is Verdict.FAILED for result in results.all()))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
