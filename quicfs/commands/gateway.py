"""`quicfs gateway` and `quicfs connect`: QUIC for servers and clients that have none."""

from __future__ import annotations

import asyncio
from typing import Final

import click

from quicfs import connecting
from quicfs import gateway as gateways
from quicfs.options import (
    AddressParameter,
    AgentOptions,
    TargetParameter,
    common_options,
    examples,
    peer_options,
    server_options,
)
from quicfs.url import DEFAULT_PORT, Address

__all__ = ["connect", "gateway"]

_max_connections: Final = click.option(
    "--max-connections",
    type=click.IntRange(1, 65536),
    default=512,
    show_default=True,
    metavar="N",
    help="TCP connections at one time; more are refused.",
)


@click.command(
    epilog=examples(
        "quicfs gateway --to nfs://127.0.0.1",
        "quicfs gateway --to smb://files.lan:445 --listen :443 --client-ca staff-ca.pem",
        "quicfs gateway --to nfs://[2001:db8::7]:2049 --listen 192.0.2.7:443 --cert server.pem --key server.key",
    )
)
@click.option(
    "--to",
    "target",
    type=TargetParameter(gateways.PORTS),
    required=True,
    metavar="nfs|smb://HOST[:PORT]",
    help="The server on TCP; port 2049 or 445 if not given.",
)
@click.option(
    "--listen",
    type=AddressParameter(DEFAULT_PORT),
    default=f":{DEFAULT_PORT}",
    show_default=True,
    metavar="ADDR:PORT",
    help="Where to listen for QUIC (UDP).",
)
@_max_connections
@server_options
@common_options
def gateway(target: tuple[str, Address], listen: Address, max_connections: int, agent: AgentOptions) -> None:
    """Let clients reach a server over QUIC that speaks TCP only, until SIGINT or SIGTERM.

    Each QUIC stream becomes a TCP connection to the server; what passes is not looked at. The way from here to the
    server is not encrypted by us. Certificates that are renewed are noticed; connections stay.
    """
    scheme, address = target
    options = gateways.GatewayOptions(listen, scheme, address, max_connections, agent)
    asyncio.run(gateways.gateway_until_told(options))


@click.command(
    epilog=examples(
        "quicfs connect --listen 127.0.0.1:2049 --to nfs+quic://files.example.org",
        "quicfs connect --listen 127.0.0.1:4450 --to smb+quic://files.example.org --ca ca.pem",
    )
)
@click.option(
    "--to",
    "target",
    type=TargetParameter(connecting.PORTS),
    required=True,
    metavar="nfs|smb+quic://HOST[:PORT]",
    help="The server on QUIC.",
)
@click.option(
    "--listen",
    type=AddressParameter(),
    required=True,
    metavar="ADDR:PORT",
    help="Where to listen for TCP. Whoever can connect there is passed on in our name.",
)
@_max_connections
@peer_options
@common_options
def connect(target: tuple[str, Address], listen: Address, max_connections: int, agent: AgentOptions) -> None:
    """Let clients that speak TCP only reach a server on QUIC, until SIGINT or SIGTERM.

    Each TCP connection becomes a QUIC stream; what passes is not looked at.
    """
    scheme, address = target
    options = connecting.ConnectOptions(listen, scheme, address, max_connections, agent)
    asyncio.run(connecting.connect_until_told(options))
