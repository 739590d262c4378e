"""`quicfs serve`: publish folders."""

from __future__ import annotations

import asyncio
from pathlib import Path

import click

from quicfs.options import FILE, AddressParameter, AgentOptions, common_options, examples, server_options
from quicfs.serve import serve_until_told
from quicfs.serve_options import NOBODY, Folder, NfsOptions, ServeOptions, SmbOptions
from quicfs.url import DEFAULT_PORT, Address

__all__ = ["serve"]

_ID = click.IntRange(0, 0xFFFFFFFE)


@click.command(
    epilog=examples(
        "quicfs cert init --name files.example.org && quicfs user add alice    once, before",
        "quicfs serve /srv/projects",
        "quicfs serve /srv/projects music=/data/mp3 --nfs    SMB and NFS on one port",
        "quicfs serve /srv/projects --nfs --no-smb --client-ca ca.pem --identity-map who.map",
        "quicfs serve /srv/pub --share pub --guest --read-only --listen 192.0.2.7:443",
        "quicfs serve ~/shared --listen :8443 --cert server.pem --key server.key --users my.users",
        "quicfs serve /srv/projects --tcp 127.0.0.1:445 --nfs-tcp 127.0.0.1:2049    for programs without QUIC",
    )
)
@click.argument("directory", metavar="[NAME=]DIR...", nargs=-1, required=True)
@click.option("--share", metavar="NAME", help="What clients call it; the folder's own name if not given.")
@click.option(
    "--listen",
    type=AddressParameter(DEFAULT_PORT),
    default=f":{DEFAULT_PORT}",
    show_default=True,
    metavar="ADDR:PORT",
    help="Where to listen for QUIC (UDP).",
)
@click.option("--read-only", is_flag=True, help="Let nobody change anything.")
@click.option("--smb/--no-smb", default=True, show_default=True, help="Whether to serve SMB.")
@click.option(
    "--users",
    type=FILE,
    metavar="FILE",
    help="SMB: who may log in, made by `quicfs user add`; the default place's if it is there.",
)
@click.option("--guest", is_flag=True, help="SMB: let everybody in, without a password.")
@click.option(
    "--tcp",
    type=AddressParameter(),
    metavar="ADDR:PORT",
    help="Serve SMB on TCP as well. Signed or encrypted by SMB itself where clients ask for it.",
)
@click.option("--nfs", is_flag=True, help="Serve NFS as well (versions 4.2, 4.1 and 3), on the same port.")
@click.option(
    "--nfs-tcp",
    type=AddressParameter(),
    metavar="ADDR:PORT",
    help="Serve NFS on TCP as well, without encryption and without rpcbind.",
)
@click.option(
    "--identity-map",
    type=FILE,
    metavar="FILE",
    help="NFS: which user the owner of each certificate is, not who the client says; see docs/rpc-over-quic.md.",
)
@click.option("--no-root-squash", is_flag=True, help="NFS: let root of a client be root here.")
@click.option("--all-squash", is_flag=True, help="NFS: make everybody the anonymous user.")
@click.option("--anonuid", type=_ID, default=NOBODY, show_default=True, help="NFS: the anonymous user.")
@click.option("--anongid", type=_ID, default=NOBODY, show_default=True, help="NFS: the anonymous group.")
@server_options
@common_options
def serve(
    directory: tuple[str, ...],
    share: str | None,
    listen: Address,
    read_only: bool,
    smb: bool,
    users: Path | None,
    guest: bool,
    tcp: Address | None,
    nfs: bool,
    nfs_tcp: Address | None,
    identity_map: Path | None,
    no_root_squash: bool,
    all_squash: bool,
    anonuid: int,
    anongid: int,
    agent: AgentOptions,
) -> None:
    """Publish the folders DIR over QUIC, as SMB shares and NFS exports, until SIGINT or SIGTERM.

    The certificate is what --cert and --key name, or what `quicfs cert init` left in its default place. Over SMB, files
    are read and written with the rights of the user who runs this. Over NFS, a server that root runs acts with the
    rights of the user who calls.
    """
    if share is not None and len(directory) > 1:
        raise click.UsageError("--share is for one folder: write NAME=DIR for each of several")
    nfs = nfs or nfs_tcp is not None
    if not (smb or nfs):
        raise click.UsageError("with --no-smb there is nothing to serve: give --nfs as well")
    if not smb and tcp is not None:
        raise click.UsageError("--tcp is for SMB: give --nfs-tcp for NFS, or leave --no-smb out")
    options = ServeOptions(
        tuple(_folder(text, share or "") for text in directory),
        listen,
        read_only,
        agent,
        SmbOptions(users, guest, tcp) if smb else None,
        NfsOptions(no_root_squash, all_squash, anonuid, anongid, identity_map, nfs_tcp) if nfs else None,
    )
    asyncio.run(serve_until_told(options))


def _folder(text: str, name: str) -> Folder:
    """NAME=DIR, or DIR; a folder whose own name has a "=" in it is written with a "/" before that."""
    given, equals, directory = text.partition("=")
    if equals and "/" not in given and not name:
        return Folder(Path(directory), given)
    return Folder(Path(text), name)
