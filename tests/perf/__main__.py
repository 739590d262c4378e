"""python -m tests.perf: throughput of one QUIC stream beside peers in the same run (README.md)."""

import argparse
import os
import sys

from rich.console import Console

from tests.perf.contenders import Direction, all_contenders
from tests.perf.links import LINKS
from tests.perf.measure import Result, measure, ratios
from tests.perf.report import as_json, markdown, print_table

RUNS, SECONDS = 5, 3.0
QUICK_RUNS, QUICK_SECONDS = 3, 1.0


def parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.perf", description=__doc__)
    names = [contender.name for contender in all_contenders()]
    parser.add_argument(
        "--quick", action="store_true", help=f"{QUICK_RUNS} runs of about {QUICK_SECONDS:.0f} s each"
    )
    parser.add_argument("--runs", type=int, help=f"default {RUNS}")
    parser.add_argument("--seconds", type=float, help=f"aimed length of one run, default {SECONDS:.0f}")
    parser.add_argument("--link", choices=LINKS, action="append", help="default: all")
    parser.add_argument(
        "--direction", choices=[d.value for d in Direction], action="append", help="default: both"
    )
    parser.add_argument(
        "--peer", choices=names, action="append", help="contenders; default: all that are installed"
    )
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="every run, on stdout")
    form.add_argument("--markdown", action="store_true", help="the table for the README, on stdout")
    options = parser.parse_args(arguments)
    options.runs = options.runs or (QUICK_RUNS if options.quick else RUNS)
    options.seconds = options.seconds or (QUICK_SECONDS if options.quick else SECONDS)
    return options


def main(arguments: list[str]) -> int:
    options = parse(arguments)
    errors = Console(stderr=True, highlight=False)
    contenders = [c for c in all_contenders() if options.peer is None or c.name in options.peer]
    for contender in contenders:
        if contender.missing:
            errors.print(f"{contender.name} is left out: {contender.missing}")
    contenders = [contender for contender in contenders if not contender.missing]
    links = options.link or list(LINKS)
    if os.geteuid() != 0 and "veth-1500" in links:
        errors.print("veth-1500 is left out: network namespaces need root")
        links.remove("veth-1500")
    directions = [d for d in Direction if options.direction is None or d.value in options.direction]
    results: list[Result] = []
    for link in links:
        results += measure(
            LINKS[link],
            contenders,
            directions,
            options.runs,
            options.seconds,
            lambda line: errors.print(line, style="dim"),
        )
    for result in results:
        if result.error:
            errors.print(f"{result.link} {result.direction.value} {result.contender} failed: {result.error}")
    if options.json:
        print(as_json(results, contenders, options.runs))
    elif options.markdown:
        print(markdown(results, contenders, options.runs))
    else:
        for name, ours, peer in ratios(results):
            print(f"{name} {ours:.3f} {peer:.3f} {ours / peer:.2f}")
        print_table(results, options.runs, Console())
    return 1 if any(result.error for result in results) else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
