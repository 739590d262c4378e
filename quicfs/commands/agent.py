"""`quicfs agent`: the process that does the TLS handshakes and holds the private keys."""

from __future__ import annotations

import logging
import sys
from functools import partial
from pathlib import Path

import click

from quicfs.handshake_agent.agent import run_agent
from quicfs.handshake_agent.config import AgentConfig, load_config
from quicfs.options import FILE, examples, verbose_option
from quicfs.service import announce

__all__ = ["agent"]


@click.command(
    epilog=examples(
        "quicfs agent --config /etc/quicfs/agent.toml",
        "quicfs agent --config agent.toml --socket /tmp/agent.sock &",
        "quicfs serve /srv/projects --agent /tmp/agent.sock",
    )
)
@click.option("--config", type=FILE, metavar="FILE", help="Certificates and limits, TOML; see docs/cli.md.")
@click.option(
    "--socket",
    type=FILE,
    metavar="FILE",
    help="Listen here, not where the file says or on /run/quicfs/agent.sock.",
)
@verbose_option
def agent(config: Path | None, socket: Path | None) -> None:
    """Do TLS handshakes for servers and mounts of this machine, until SIGINT or SIGTERM.

    Whoever may connect to the socket may use the agent's certificates. A certificate that is renewed is noticed.
    """
    settings = load_config(config) if config is not None else AgentConfig()
    path = socket or settings.socket
    logging.getLogger("quicfs.handshake_agent").setLevel(logging.INFO)
    sys.exit(run_agent(settings, socket_path=path, on_ready=partial(announce, f"agent ready on {path}")))
