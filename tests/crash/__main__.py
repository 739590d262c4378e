"""`python -m tests.crash [--server N] [--client N] [--seed S] [--keep DIR]`"""

from __future__ import annotations

import argparse
import asyncio
import tempfile
import time
from pathlib import Path

from tests.crash.trials import Report, kill_the_client, kill_the_server


def _say(what: str, report: Report, began: float) -> None:
    print(f"{what} killed {report.kills} times in {time.monotonic() - began:.0f} s: {report}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser("python -m tests.crash", description=__doc__)
    parser.add_argument("--server", type=int, default=100, help="how often the server is killed")
    parser.add_argument("--client", type=int, default=100, help="how often a client is killed")
    parser.add_argument("--seed", type=int, default=int(time.time()))
    parser.add_argument("--keep", type=Path, help="a directory for logs and files")
    options = parser.parse_args()
    print(f"seed {options.seed}", flush=True)
    with tempfile.TemporaryDirectory() as directory:
        for name, trial, times in (
            ("server", kill_the_server, options.server),
            ("client", kill_the_client, options.client),
        ):
            if times:
                room = (options.keep or Path(directory)) / name
                room.mkdir(parents=True)
                began = time.monotonic()
                _say(name, asyncio.run(trial(room, times, options.seed)), began)


main()
