"""Handshakes per second, and requests per second of 1 KiB each way: interleaved runs on loopback."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from tests.interop.peers.processes import ProcessFailed
from tests.perf.figures import Figure
from tests.perf.small import Running, SmallPeer, running


class Case(NamedTuple):
    name: str
    arguments: tuple[str, ...]
    possible: Callable[[SmallPeer], bool] = lambda peer: True


HANDSHAKES = (
    Case("full", ("handshakes",)),
    Case("resumed", ("handshakes", "--resume")),
)
REQUESTS = (
    Case("one-stream", ("requests", "--mode", "same")),
    Case("a-stream-each", ("requests", "--mode", "streams"), lambda peer: peer.streams),
    Case("32-at-a-time", ("requests", "--mode", "parallel")),
)


def measure(
    benchmark: str,
    cases: Sequence[Case],
    peers: Sequence[SmallPeer],
    runs: int,
    seconds: float,
    tell: Callable[[str], None],
) -> Iterator[Figure]:
    with running(peers) as servers:
        for case in cases:
            figures = [
                Figure(benchmark, case.name, peer.name, "per second") for peer in peers if case.possible(peer)
            ]
            for number in range(1, runs + 1):
                for figure in figures:
                    if figure.error is None:
                        _run(figure, servers[figure.contender], case, seconds)
                        if figure.error is None:
                            told = f"{figure.values[-1]:,.0f} a second"
                            tell(
                                f"{benchmark} {case.name} {figure.contender}: run {number} of {runs}, {told}"
                            )
            yield from figures


def _run(figure: Figure, server: Running | ProcessFailed, case: Case, seconds: float) -> None:
    try:
        if isinstance(server, ProcessFailed):
            raise server
        figure.values.append(server.rate(*case.arguments, "--seconds", str(seconds)))
    except ProcessFailed as failure:
        figure.error = str(failure)
