"""`quicfs cert`: certificates for sites that have no authority of their own."""

from __future__ import annotations

from pathlib import Path

import click

from quicfs import certs
from quicfs.options import common_options, examples
from quicfs.places import default_directory

__all__ = ["cert"]


@click.group(epilog=examples("quicfs cert init --name files.example.org"))
def cert() -> None:
    """Make certificates."""


@cert.command(
    epilog=examples(
        "quicfs cert init --name files.example.org --name 192.0.2.7",
        "quicfs cert init --dir ~/test-ca --name localhost",
        "quicfs cert init --renew      a new server certificate; clients need not be told",
    )
)
@click.option(
    "--dir",
    "directory",
    type=click.Path(file_okay=False, path_type=Path),
    metavar="DIR",
    help="Where the files go: /etc/quicfs for root, ~/.config/quicfs for others if not given.",
)
@click.option(
    "--name",
    "names",
    multiple=True,
    metavar="HOST",
    help="A DNS name or IP address by which clients reach the server; may be repeated. "
    "This machine's name and localhost if not given.",
)
@click.option("--force", is_flag=True, help="Replace what is there. Clients must be given the new ca.pem.")
@click.option("--renew", is_flag=True, help="Keep the authority, and have it sign a new server certificate.")
@common_options
def init(directory: Path | None, names: tuple[str, ...], force: bool, renew: bool) -> None:
    """Make a private authority and a server certificate signed by it.

    Four files: ca.pem (give it to clients, for --ca), ca.key, server.pem and server.key (for `quicfs serve`,
    which takes them from the default directory by itself).
    """
    if force and renew:
        raise click.UsageError("--force and --renew exclude each other")
    directory = directory or default_directory()
    names = names or (() if renew else tuple(certs.own_names()))
    files = certs.renew(directory, names) if renew else certs.create(directory, names, force=force)
    click.echo(f"{files.cert} and {files.key}: for quicfs serve (--cert, --key)")
    click.echo(f"{files.ca}: give it to clients (--ca)")
