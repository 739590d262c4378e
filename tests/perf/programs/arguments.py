"""The command line that the programs for small exchanges share, and the words they say.

    PROGRAM server --host A --port P --cert FILE --key FILE
    PROGRAM client --host A --port P --ca FILE handshakes|requests|idle [options]

A server answers every 1,024 bytes of a stream (or connection) with 1,024 bytes. A client prints one JSON object with
`count` and `seconds`, for `idle` as soon as its connections are open: they stay so until its stdin ends.
"""

from __future__ import annotations

import argparse
import json
import resource
import sys
from typing import Final

SIZE: Final = 1024
REQUEST: Final = bytes(SIZE)
ALPN: Final = "small"
NAME: Final = "localhost"
IDLE_S: Final = 900.0

SAME, STREAMS, PARALLEL = "same", "streams", "parallel"


def parse(description: str | None, modes: tuple[str, ...] = (SAME, STREAMS, PARALLEL)) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=description)
    roles = parser.add_subparsers(dest="role", required=True)
    server, client = roles.add_parser("server"), roles.add_parser("client")
    for role in (server, client):
        role.add_argument("--host", default="127.0.0.1")
        role.add_argument("--port", type=int, required=True)
    server.add_argument("--cert", required=True)
    server.add_argument("--key", required=True)
    client.add_argument("--ca", required=True)
    tasks = client.add_subparsers(dest="task", required=True)
    handshakes, requests, idle = (tasks.add_parser(name) for name in ("handshakes", "requests", "idle"))
    for task in (handshakes, requests):
        task.add_argument("--seconds", type=float, default=3.0, help="for how long")
    handshakes.add_argument("--parallel", type=int, default=8, help="connections under way at one time")
    handshakes.add_argument("--resume", action="store_true", help="with the ticket of an earlier connection")
    requests.add_argument("--mode", choices=modes, default=modes[0])
    requests.add_argument("--parallel", type=int, default=32, help="requests under way in mode parallel")
    idle.add_argument("--count", type=int, default=1000)
    idle.add_argument("--parallel", type=int, default=32)
    return parser.parse_args()


def report(count: int, seconds: float) -> None:
    print(json.dumps({"count": count, "seconds": round(seconds, 6)}), flush=True)


def allow_descriptors(connections: int) -> None:
    """A process may open few files unless it asks; each connection of a client has a socket of its own."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = connections + 256
    resource.setrlimit(resource.RLIMIT_NOFILE, (wanted if most < 0 else min(wanted, most), most))


def wait_for_the_end() -> None:
    sys.stdin.read()
