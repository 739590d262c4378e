"""`python -m tests.crash [--server N] [--quic N] [--client N] [--seed S] [--keep DIR]`"""

from __future__ import annotations

import argparse
import asyncio
import tempfile
import time
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

from tests.crash.processes import QuicfsServe, Server
from tests.crash.trials import Report, kill_the_client, kill_the_server

Trial = Callable[[Server, int, int], Coroutine[Any, Any, Report]]


def _say(what: str, report: Report, began: float) -> None:
    print(f"{what} killed {report.kills} times in {time.monotonic() - began:.0f} s: {report}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser("python -m tests.crash", description=__doc__)
    parser.add_argument("--server", type=int, default=100, help="how often the server is killed")
    parser.add_argument("--quic", type=int, default=100, help="how often `quicfs serve --nfs` is killed")
    parser.add_argument("--client", type=int, default=100, help="how often a client is killed")
    parser.add_argument("--seed", type=int, default=int(time.time()))
    parser.add_argument("--keep", type=Path, help="a directory for logs and files")
    options = parser.parse_args()
    print(f"seed {options.seed}", flush=True)
    with tempfile.TemporaryDirectory() as directory:
        room = options.keep or Path(directory)
        trials: list[tuple[str, int, Trial, Callable[[Path], Server]]] = [
            ("server", options.server, kill_the_server, lambda place: Server(place, 30.0)),
            ("quicfs serve", options.quic, kill_the_server, QuicfsServe),
            ("client", options.client, kill_the_client, lambda place: Server(place, 2.0)),
        ]
        for name, times, trial, server in trials:
            if times:
                place = room / name.replace(" ", "-")
                place.mkdir(parents=True)
                began = time.monotonic()
                _say(name, asyncio.run(trial(server(place), times, options.seed)), began)


main()
