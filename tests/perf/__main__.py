"""python -m tests.perf: quicfs beside its peers in the same run, benchmark by benchmark (README.md)."""

import argparse
import json
import os
import sys
from collections.abc import Callable, Sequence
from typing import Protocol, TypeVar

from rich.console import Console

from tests.perf import exchanges, figures, memory, mount_work, nfs_calls
from tests.perf.contenders import Direction, all_contenders
from tests.perf.figures import Figure
from tests.perf.links import LINKS, LOCAL, WAN
from tests.perf.measure import Result, measure, ratios
from tests.perf.mounts import MOUNTS
from tests.perf.report import as_json, machine, markdown, print_table
from tests.perf.small import PEERS, SmallPeer

RUNS, SECONDS = 5, 3.0
QUICK_RUNS, QUICK_SECONDS = 3, 1.0
IDLE, IDLE_OF_PEERS = 10_000, 1_000
QUICK_IDLE, QUICK_IDLE_OF_PEERS = 500, 200

MEGABYTES, QUICK_MEGABYTES = 256, 64

STREAM, WIDE, HANDSHAKES, REQUESTS, MEMORY = "stream", "wan", "handshakes", "requests", "memory"
MOUNT, NFS = "mount", "nfs"
BENCHMARKS = (STREAM, WIDE, HANDSHAKES, REQUESTS, MEMORY, MOUNT, NFS)
STREAM_LINKS = {STREAM: LOCAL, WIDE: WAN}


class Peer(Protocol):
    """Who can be measured."""

    @property
    def name(self) -> str: ...

    @property
    def missing(self) -> str | None: ...


P = TypeVar("P", bound=Peer)


def parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.perf", description=__doc__)
    everybody = (*all_contenders(), *PEERS, *MOUNTS, *nfs_calls.PEERS)
    names = list(dict.fromkeys(contender.name for contender in everybody))
    parser.add_argument("--only", choices=BENCHMARKS, action="append", help="benchmarks; default: all")
    parser.add_argument(
        "--quick", action="store_true", help=f"{QUICK_RUNS} runs of about {QUICK_SECONDS:.0f} s each"
    )
    parser.add_argument("--runs", type=int, help=f"default {RUNS}")
    parser.add_argument("--seconds", type=float, help=f"aimed length of one run, default {SECONDS:.0f}")
    parser.add_argument("--link", choices=LINKS, action="append", help="of stream and wan; default: all")
    parser.add_argument(
        "--direction",
        choices=[d.value for d in Direction],
        action="append",
        help="of stream and wan; default: both",
    )
    parser.add_argument(
        "--peer", choices=names, action="append", help="contenders; default: all that are installed"
    )
    parser.add_argument("--connections", type=int, help=f"of memory, with quicfs; default {IDLE:,}")
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="every run, on stdout")
    form.add_argument("--markdown", action="store_true", help="the tables for README and docs, on stdout")
    options = parser.parse_args(arguments)
    options.only = options.only or list(BENCHMARKS)
    options.runs = options.runs or (QUICK_RUNS if options.quick else RUNS)
    options.seconds = options.seconds or (QUICK_SECONDS if options.quick else SECONDS)
    return options


def stream_results(options: argparse.Namespace, errors: Console) -> list[Result]:
    """One stream on the links that were asked for."""
    wanted = [link for name, links in STREAM_LINKS.items() if name in options.only for link in links]
    links = [link for link in wanted if options.link is None or link in options.link]
    if os.geteuid() != 0:
        for link in [link for link in links if link != "loopback"]:
            errors.print(f"{link} is left out: network namespaces need root")
            links.remove(link)
    if not links:
        return []
    contenders = [c for c in all_contenders() if options.peer is None or c.name in options.peer]
    for contender in contenders:
        if contender.missing:
            errors.print(f"{contender.name} is left out: {contender.missing}")
    contenders = [contender for contender in contenders if not contender.missing]
    directions = [d for d in Direction if options.direction is None or d.value in options.direction]
    results: list[Result] = []
    for link in links:
        results += measure(LINKS[link], contenders, directions, options.runs, options.seconds, teller(errors))
    return results


def small_figures(options: argparse.Namespace, errors: Console) -> list[Figure]:
    """Handshakes, requests and memory, as far as they were asked for."""
    peers: Sequence[SmallPeer] = [p for p in PEERS if options.peer is None or p.name in options.peer]
    peers = [peer for peer in peers if not peer.missing]
    tell = teller(errors)
    found: list[Figure] = []
    for name, cases in ((HANDSHAKES, exchanges.HANDSHAKES), (REQUESTS, exchanges.REQUESTS)):
        if name in options.only:
            found += exchanges.measure(name, cases, peers, options.runs, options.seconds, tell)
    if MEMORY in options.only:
        count, others = (QUICK_IDLE, QUICK_IDLE_OF_PEERS) if options.quick else (IDLE, IDLE_OF_PEERS)
        quic = [peer for peer in peers if peer.protocol == "udp"]
        found += memory.measure(quic, options.connections or count, others, tell)
    return found


def file_figures(options: argparse.Namespace, errors: Console) -> list[Figure]:
    """Mounts, and calls to NFS servers, as far as they were asked for."""
    found: list[Figure] = []
    settings = mount_work.Settings(options.seconds, QUICK_MEGABYTES if options.quick else MEGABYTES)
    if MOUNT in options.only:
        mounts = _there(MOUNTS, mount_work.missing(), options, errors)
        found += mount_work.measure(mounts, options.runs, settings, teller(errors))
    if NFS in options.only:
        servers = _there(nfs_calls.PEERS, nfs_calls.missing(), options, errors)
        found += nfs_calls.measure(servers, options.runs, options.seconds, teller(errors))
    return found


def _there(
    peers: Sequence[P], missing_for_all: str | None, options: argparse.Namespace, errors: Console
) -> list[P]:
    """Those that were asked for and can be measured; it is said why others cannot."""
    there = []
    for peer in peers:
        if options.peer is not None and peer.name not in options.peer:
            continue
        missing = missing_for_all or peer.missing
        if missing:
            errors.print(f"{peer.name} is left out: {missing}")
        else:
            there.append(peer)
    return there


def teller(errors: Console) -> Callable[[str], None]:
    return lambda line: errors.print(line, style="dim")


def main(arguments: list[str]) -> int:
    options = parse(arguments)
    errors = Console(stderr=True, highlight=False)
    results = stream_results(options, errors)
    found = small_figures(options, errors) + file_figures(options, errors)
    for result in results:
        if result.error:
            errors.print(f"{result.link} {result.direction.value} {result.contender} failed: {result.error}")
    for figure in found:
        if figure.error:
            errors.print(f"{figure.benchmark} {figure.case} {figure.contender} failed: {figure.error}")
    contenders = [c for c in all_contenders() if any(result.contender == c.name for result in results)]
    if options.json:
        print(
            json.dumps(
                as_json(results, contenders, options.runs) | {"figures": figures.as_json(found)}, indent=2
            )
        )
    elif options.markdown:
        parts = [markdown(results, contenders, options.runs)] if results else []
        if found:
            parts.append(
                figures.markdown(found) + f"\n\nMedians of {options.runs} runs on loopback. {machine()}.\n"
            )
        print("\n".join(parts))
    else:
        for name, ours, peer in ratios(results):
            print(f"{name} {ours:.3f} {peer:.3f} {ours / peer:.2f}")
        for name, ours, peer, ratio in figures.ratios(found):
            print(f"{name} {ours:.1f} {peer:.1f} {ratio:.2f}")
        if results:
            print_table(results, options.runs, Console())
        figures.print_tables(found, Console())
    failed = any(result.error for result in results) or any(figure.error for figure in found)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
