"""Memory of a connection that does nothing: by how much the server's process grows, divided by their number.

Resident memory of the server process alone. With quicfs the TLS handshakes were done by another process, which keeps
nothing of a connection; the others have done them in the server. The allocator's slack is in all figures.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from tests.interop.peers.processes import ProcessFailed
from tests.perf.figures import OURS, Figure
from tests.perf.small import Running, SmallPeer, running

CLIENTS = 4
WARM_UP = 20
_SETTLE_S = 1.0


def resident(pid: int) -> int:
    """Bytes."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    raise ProcessFailed(f"process {pid} has ended")


def measure(
    peers: Sequence[SmallPeer], count: int, count_of_peers: int, tell: Callable[[str], None]
) -> Iterator[Figure]:
    """`count` connections with quicfs, `count_of_peers` with the others."""
    with running(peers) as servers:
        for peer in peers:
            wanted = count if peer.name == OURS else count_of_peers
            figure = Figure(
                "memory", "idle-connection", peer.name, "KiB", smaller_is_better=True, note=f"of {wanted:,}"
            )
            server = servers[peer.name]
            try:
                if isinstance(server, ProcessFailed):
                    raise server
                grown, rate = _growth(server, wanted)
                figure.values.append(grown / wanted / 1024)
                tell(
                    f"memory {peer.name}: {wanted:,} connections, {grown / wanted / 1024:.1f} KiB each, "
                    f"{rate:.0f} handshakes a second"
                )
            except ProcessFailed as failure:
                figure.error = str(failure)
            yield figure


def _growth(server: Running, count: int) -> tuple[int, float]:
    with server.idle(WARM_UP, 1):
        before = resident(server.process.pid)
    with server.idle(count, CLIENTS) as rate:
        time.sleep(_SETTLE_S)
        return resident(server.process.pid) - before, rate
