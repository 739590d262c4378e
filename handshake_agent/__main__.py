"""`python -m quicfs.handshake_agent`: the agent without the command line of quicfs."""

from __future__ import annotations

import argparse
import functools
import logging
import os
import sys
from pathlib import Path

from quicfs.handshake_agent.agent import run_agent
from quicfs.handshake_agent.config import AgentConfig, load_config, parse_config
from quicfs.handshake_agent.failures import AgentError


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="quicfs-handshake-agent", description="TLS for QUIC consumers.")
    parser.add_argument("--config", metavar="FILE", help="TOML; - reads it from standard input")
    where = parser.add_mutually_exclusive_group()
    where.add_argument(
        "--socket", type=Path, metavar="PATH", help="listen here instead of where the file says"
    )
    where.add_argument("--bus-fd", type=int, metavar="N", help="serve the consumer at this inherited socket")
    parser.add_argument(
        "--ready-fd",
        type=int,
        metavar="N",
        help="write a byte to this inherited pipe when ready, and close it",
    )
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(name)s: %(message)s")
    try:
        return run_agent(
            _config(options.config),
            socket_path=options.socket,
            bus_fd=options.bus_fd,
            on_ready=functools.partial(_tell, options.ready_fd),
        )
    except AgentError as error:
        sys.stderr.write(f"{parser.prog}: {error}\n")
        return 1


def _tell(ready_fd: int | None) -> None:
    if ready_fd is not None:
        os.write(ready_fd, b"\n")
        os.close(ready_fd)


def _config(name: str | None) -> AgentConfig:
    if name is None:
        return AgentConfig()
    if name == "-":
        return parse_config(sys.stdin.read(), source="standard input")
    return load_config(Path(name))


if __name__ == "__main__":
    sys.exit(main())
