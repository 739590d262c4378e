"""`quicfs perf`: how fast one QUIC stream is between two machines."""

from __future__ import annotations

import asyncio
import json

import click
from rich.console import Console
from rich.table import Table

from quicfs import perf as measure
from quicfs.options import (
    AddressParameter,
    AgentOptions,
    common_options,
    examples,
    peer_options,
    server_options,
)
from quicfs.transport.stats import ConnectionStats
from quicfs.url import DEFAULT_PORT, Address

__all__ = ["perf"]


@click.group(
    epilog=examples(
        "quicfs perf server --listen :8443",
        "quicfs perf client files.example.org:8443 --ca /tmp/quicfs-perf-ca.pem",
    )
)
def perf() -> None:
    """Measure the throughput of one QUIC stream, as iperf3 does for TCP."""


@perf.command(
    epilog=examples(
        "quicfs perf server",
        "quicfs perf server --listen 192.0.2.7:8443 --cert server.pem --key server.key",
    )
)
@click.option(
    "--listen",
    type=AddressParameter(DEFAULT_PORT),
    default=f":{DEFAULT_PORT}",
    show_default=True,
    metavar="ADDR:PORT",
    help="Where to listen (UDP).",
)
@server_options
@common_options
def server(listen: Address, agent: AgentOptions) -> None:
    """Send and receive for `quicfs perf client`, until SIGINT or SIGTERM.

    Without --cert and --key, a certificate for this machine's names is made for as long as the server runs,
    and the path of its authority is printed, for the client's --ca.
    """
    asyncio.run(measure.serve(listen, agent))


@perf.command(
    epilog=examples(
        "quicfs perf client files.example.org --ca ca.pem",
        "quicfs perf client localhost:8443 --ca ca.pem --bytes 10000000000 --reverse",
        "quicfs perf client localhost:8443 --ca ca.pem --json | jq .gbit_per_s",
    )
)
@click.argument("address", metavar="HOST[:PORT]", type=AddressParameter(DEFAULT_PORT))
@click.option(
    "--bytes",
    "count",
    type=click.IntRange(1, measure.MAX_BYTES),
    default=1_000_000_000,
    show_default=True,
    metavar="N",
    help="How much.",
)
@click.option("--reverse", is_flag=True, help="The server sends, and we receive.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object, for programs.")
@peer_options
@common_options
def client(address: Address, count: int, reverse: bool, as_json: bool, agent: AgentOptions) -> None:
    """Send N bytes to a `quicfs perf server` on one stream and say how fast they arrived."""
    result = asyncio.run(measure.run(address, count, agent, reverse=reverse))
    if as_json:
        click.echo(json.dumps(result.as_dict()))
        return
    table = Table()
    for title in ("direction", "MB", "seconds", "Gbit/s"):
        table.add_column(title, justify="left" if title == "direction" else "right")
    direction = "from the server" if reverse else "to the server"
    table.add_row(
        direction, f"{result.bytes / 1e6:,.1f}", f"{result.seconds:.3f}", f"{result.gbit_per_s:.3f}"
    )
    console = Console()
    console.print(table)
    console.print(_connection(result.stats))


def _connection(stats: ConnectionStats) -> Table:
    """What this end saw of the network."""
    table = Table(caption="this end of the connection")
    for title in ("RTT ms (min)", "window KiB", "MTU", "packets sent", "lost", "received"):
        table.add_column(title, justify="right")
    rtt = "unknown"
    if stats.rtt_smoothed is not None and stats.rtt_min is not None:
        rtt = f"{stats.rtt_smoothed * 1000:.3f} ({stats.rtt_min * 1000:.3f})"
    table.add_row(
        rtt,
        f"{stats.congestion_window / 1024:,.0f}",
        str(stats.mtu),
        f"{stats.packets_sent:,}",
        f"{stats.packets_lost:,} ({stats.loss:.2%})",
        f"{stats.packets_received:,}",
    )
    return table
