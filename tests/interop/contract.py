"""The contract of the public QUIC interop runner: what an endpoint is told, and how it answers.

https://github.com/quic-interop/quic-interop-runner: everything comes in environment variables, and the exit status
is the answer. Every endpoint here keeps it, ours (endpoint.py) and the peers' (peers/).
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

EXIT_OK: Final = 0
EXIT_FAILED: Final = 1
EXIT_UNSUPPORTED: Final = 127

HQ: Final = "hq-interop"
H3: Final = "h3"
PORT: Final = 443
TRANSFER: Final = "transfer"

CASES: Final = frozenset(
    {
        "handshake",
        TRANSFER,
        "chacha20",
        "retry",
        "resumption",
        "zerortt",
        "multiconnect",
        "keyupdate",
        "ecn",
        "v2",
        "connectionmigration",
        "http3",
        # What the runner itself calls by one of the names above; whoever starts an endpoint by hand need not know.
        "longrtt",
        "multiplexing",
        "blackhole",
        "amplificationlimit",
        "handshakeloss",
        "transferloss",
        "handshakecorruption",
        "transfercorruption",
        "ipv6",
        "rebind-port",
        "rebind-addr",
    }
)

ALIASES: Final = {"handshakeloss": "multiconnect", "handshakecorruption": "multiconnect"}


class Unsupported(Exception):
    """The case is not offered; its text says why."""


class ContractError(Exception):
    """The environment makes no sense; its text is a sentence."""


@dataclass(frozen=True, slots=True)
class Request:
    """One file: from where, and below which name it is kept."""

    host: str
    port: int
    path: str

    @property
    def file_name(self) -> str:
        return self.path.rpartition("/")[2]


@dataclass(frozen=True, slots=True)
class Contract:
    """The environment, read.

    Not the runner's but for runs by hand: `address` (IP) and `port` (PORT) that a server listens on, an empty address
    is every one of the machine; `preferred` (PREFERRED), the address:port to which it invites clients; `alpn` (ALPN).
    """

    role: str
    case: str
    requests: tuple[Request, ...]
    www: Path
    downloads: Path
    certs: Path
    key_log: Path | None
    qlog: Path | None
    address: str
    port: int
    preferred: str
    alpn: str

    @property
    def is_server(self) -> bool:
        return self.role == "server"


def read_contract(environment: Mapping[str, str]) -> Contract:
    """Raises ContractError, or Unsupported for a case that is not in CASES."""
    role = environment.get("ROLE", "")
    if role not in ("client", "server"):
        raise ContractError(f"ROLE must be client or server, not {role!r}")
    case = environment.get("TESTCASE", TRANSFER)
    if case not in CASES:
        raise Unsupported(f"there is no case {case!r} here")
    requests = tuple(_request(url) for url in environment.get("REQUESTS", "").split())
    if role == "client" and not requests:
        raise ContractError("REQUESTS must name the files to fetch, such as https://server4:443/file")

    def path(name: str, default: str) -> Path:
        return Path(environment.get(name) or default)

    def optional(name: str) -> Path | None:
        return Path(environment[name]) if environment.get(name) else None

    return Contract(
        role=role,
        case=ALIASES.get(case, case),
        requests=requests,
        www=path("WWW", "/www"),
        downloads=path("DOWNLOADS", "/downloads"),
        certs=path("CERTS", "/certs"),
        key_log=optional("SSLKEYLOGFILE"),
        qlog=optional("QLOGDIR"),
        address=environment.get("IP", ""),
        port=int(environment.get("PORT") or PORT),
        preferred=environment.get("PREFERRED", ""),
        alpn=H3 if case == "http3" else environment.get("ALPN") or HQ,
    )


def _request(url: str) -> Request:
    parts = urlsplit(url)
    if parts.scheme != "https" or not parts.hostname or len(parts.path) <= 1 or parts.path.endswith("/"):
        raise ContractError(f"{url!r} does not name a file as https://host:port/path does")
    return Request(parts.hostname, parts.port or PORT, parts.path)


def requested_path(line: bytes) -> bytes | None:
    """The path below WWW that a line of HTTP/0.9 asks for, without its slash; None if it is no request."""
    method, _, path = line.rstrip(b"\r\n").partition(b" ")
    if method != b"GET" or not path.startswith(b"/") or b"\0" in path:
        return None
    return path.lstrip(b"/") or None


Role = Callable[[Contract], Coroutine[Any, Any, None]]


def run(client: Role, server: Role, environment: Mapping[str, str] = os.environ) -> int:
    """Do what the environment says; the exit status. A server ends well at SIGTERM or SIGINT.

    What roles raise for reasons of their own is a failure: OSError and ContractError with a sentence, the rest with
    a traceback, since it is a mistake of theirs.
    """
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(message)s", stream=sys.stderr)
    try:
        contract = read_contract(environment)
        asyncio.run(_until_told(server(contract)) if contract.is_server else client(contract))
    except Unsupported as reason:
        print(f"unsupported: {reason}", file=sys.stderr)
        return EXIT_UNSUPPORTED
    except (ContractError, OSError) as error:
        print(f"failed: {str(error) or type(error).__name__}", file=sys.stderr)
        return EXIT_FAILED
    return EXIT_OK


async def _until_told(server: Coroutine[Any, Any, None]) -> None:
    task = asyncio.ensure_future(server)
    told = False

    def stop() -> None:
        nonlocal told
        told = True
        task.cancel()

    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop)
    try:
        await task
    except asyncio.CancelledError:
        if not told:
            raise
