"""`quicfs serve`: publish a folder."""

from __future__ import annotations

import asyncio
from pathlib import Path

import click

from quicfs.options import FILE, AddressParameter, AgentOptions, common_options, examples, server_options
from quicfs.serve import ServeOptions, serve_until_told
from quicfs.url import DEFAULT_PORT, Address

__all__ = ["serve"]


@click.command(
    epilog=examples(
        "quicfs cert init --name files.example.org && quicfs user add alice    once, before",
        "quicfs serve /srv/projects",
        "quicfs serve /srv/pub --share pub --guest --read-only --listen 192.0.2.7:443",
        "quicfs serve ~/shared --listen :8443 --cert server.pem --key server.key --users my.users",
        "quicfs serve /srv/projects --tcp 127.0.0.1:445    the same on TCP, for programs without QUIC",
    )
)
@click.argument("directory", metavar="DIR", type=click.Path(path_type=Path))
@click.option("--share", metavar="NAME", help="What clients call it; the folder's own name if not given.")
@click.option(
    "--listen",
    type=AddressParameter(DEFAULT_PORT),
    default=f":{DEFAULT_PORT}",
    show_default=True,
    metavar="ADDR:PORT",
    help="Where to listen for QUIC (UDP).",
)
@click.option(
    "--tcp",
    type=AddressParameter(),
    metavar="ADDR:PORT",
    help="Serve the same on TCP as well. Signed or encrypted by SMB itself where clients ask for it.",
)
@click.option(
    "--users",
    type=FILE,
    metavar="FILE",
    help="Who may log in, made by `quicfs user add`; the default place's if it is there.",
)
@click.option("--guest", is_flag=True, help="Let everybody in, without a password.")
@click.option("--read-only", is_flag=True, help="Let nobody change anything.")
@server_options
@common_options
def serve(
    directory: Path,
    share: str | None,
    listen: Address,
    tcp: Address | None,
    users: Path | None,
    guest: bool,
    read_only: bool,
    agent: AgentOptions,
) -> None:
    """Publish the folder DIR as an SMB share over QUIC, until SIGINT or SIGTERM.

    The certificate is what --cert and --key name, or what `quicfs cert init` left in its default place.
    Files are read and written with the rights of the user who runs this.
    """
    options = ServeOptions(directory, share, listen, tcp, users, guest, read_only, agent)
    asyncio.run(serve_until_told(options))
