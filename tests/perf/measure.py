"""Interleaved runs of several contenders on one link, with a byte count that suits the speed of each."""

import statistics
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from quicfs import certs
from tests.interop.peers.processes import ProcessFailed, free_port, server
from tests.perf.contenders import Contender, Direction
from tests.perf.links import Link

SMALLEST_SIZE = 64 << 10
LARGEST_SIZE = 8 << 30
SETTLE_RATIO = 4.0  # a trial shorter than the aimed time by more than this is repeated with more bytes


@dataclass
class Result:
    """Runs of one contender, on one link, in one direction."""

    link: str
    direction: Direction
    contender: str
    size: int = 0
    gbit_per_s: list[float] = field(default_factory=list)
    error: str | None = None

    @property
    def median(self) -> float | None:
        return statistics.median(self.gbit_per_s) if self.gbit_per_s else None


Transfer = Callable[[int], float]


def suitable_size(transfer: Transfer, seconds: float, first: int) -> int:
    """How many bytes take about `seconds`, found with growing trials from `first` on."""
    size = first
    while True:
        took = transfer(size)
        wanted = min(max(int(size * seconds / took) >> 16 << 16, SMALLEST_SIZE), LARGEST_SIZE)
        if took * SETTLE_RATIO >= seconds or wanted <= size:
            return wanted
        size = min(wanted, size * 16)


def measure(
    make_link: Callable[[], AbstractContextManager[Link]],
    contenders: Sequence[Contender],
    directions: Sequence[Direction],
    runs: int,
    seconds: float,
    tell: Callable[[str], None],
) -> list[Result]:
    """All contenders on one link. Servers stay up for all runs; runs are interleaved: every contender once,
    then again, so that a change in the machine's mood meets all of them alike."""
    results: list[Result] = []
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="quicfs-perf-")))
        link = stack.enter_context(make_link())
        certificates = certs.create(folder / "certificates", ["localhost", link.server_address])
        transfers: dict[tuple[str, Direction], Transfer] = {}
        for contender in contenders:
            if contender.links is not None and link.name not in contender.links:
                continue
            port = free_port()
            command = [
                *link.server_prefix,
                *contender.server_command(link.server_address, port, certificates),
            ]
            try:
                stack.enter_context(
                    server(command, contender.protocol, port, folder / f"{contender.name}.log")
                )
            except ProcessFailed as failure:
                results += [
                    Result(link.name, direction, contender.name, error=str(failure))
                    for direction in directions
                ]
                continue
            for direction in directions:
                results.append(Result(link.name, direction, contender.name))

                def transfer(
                    size: int,
                    contender: Contender = contender,
                    port: int = port,
                    direction: Direction = direction,
                ) -> float:
                    return contender.transfer(
                        link.client_prefix, link.server_address, port, certificates, direction, size
                    )

                transfers[contender.name, direction] = transfer
        for direction in directions:
            now = [result for result in results if result.direction is direction and result.error is None]
            for result in now:
                with _noted(result):
                    result.size = suitable_size(
                        transfers[result.contender, direction], seconds * link.stretch, link.first_size
                    )
            for number in range(1, runs + 1):
                for result in now:
                    if result.error is not None:
                        continue
                    with _noted(result):
                        took = transfers[result.contender, direction](result.size)
                        result.gbit_per_s.append(result.size * 8 / took / 1e9)
                        tell(
                            f"{link.name} {direction.value} {result.contender}: run {number} of {runs}, "
                            f"{result.size / 1e6:,.1f} MB, {result.gbit_per_s[-1]:.3f} Gbit/s"
                        )
    return results


class _noted(AbstractContextManager[None]):
    """A failure of one contender belongs into its result and does not end the others' measurement."""

    def __init__(self, result: Result) -> None:
        self._result = result

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> bool:
        if isinstance(error, ProcessFailed):
            self._result.error = str(error)
            return True
        return False


def ratios(results: Sequence[Result], ours: str = "quicfs") -> Iterator[tuple[str, float, float]]:
    """(name, ours, peer) in Gbit/s for every peer that was measured where ours was."""
    by_key = {(result.link, result.direction, result.contender): result.median for result in results}
    for (link, direction, contender), median in by_key.items():
        own = by_key.get((link, direction, ours))
        if contender != ours and median and own:
            yield f"stream.{link}.{direction.value}.{contender}", own, median
