"""A server: one folder, as one share, on QUIC and, when asked, on TCP."""

from __future__ import annotations

import socket
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from quicfs.agents import server_net
from quicfs.errors import UserError
from quicfs.options import AgentOptions
from quicfs.places import default_users, state_directory
from quicfs.quic import listen_streams
from quicfs.reset_key import kept_reset_key
from quicfs.service import announce, reachable, tell_service_manager, told_to_stop
from quicfs.smb.auth import NtlmAuthenticator
from quicfs.smb.ntlm import TargetNames
from quicfs.smb.server import Share, SmbServer
from quicfs.smb.users import UserDb
from quicfs.transport.tcp_stream import listen_tcp
from quicfs.url import Address, Url
from quicfs.vfs.local import LocalTree

__all__ = ["ServeOptions", "serve_until_told"]

ALPN: Final = b"smb"


@dataclass(frozen=True, slots=True)
class ServeOptions:
    directory: Path
    share: str | None
    listen: Address
    tcp: Address | None
    users: Path | None
    guest: bool
    read_only: bool
    agent: AgentOptions


async def serve_until_told(options: ServeOptions) -> None:
    """Until SIGINT or SIGTERM. Prints one line when it serves. Raises UserError when it cannot."""
    async with AsyncExitStack() as cleanup:
        told = told_to_stop()
        directory, name = _folder(options)
        host = socket.gethostname().partition(".")[0]
        users = _users(options)
        tree = LocalTree(directory, read_only=options.read_only)
        cleanup.push_async_callback(tree.close)
        authenticator = NtlmAuthenticator(users, TargetNames(host))
        share = Share(name, tree, read_only=options.read_only)
        server = SmbServer({name: share}, authenticator, guest=options.guest, server_name=host)

        net = await cleanup.enter_async_context(server_net(options.agent))
        key = kept_reset_key(state_directory())
        # Samba's client (4.25) breaks the connection off when a session ticket comes.
        listener = await listen_streams(
            net, options.listen, ALPN, server.serve_stream, reset_key=key, session_tickets=False
        )
        cleanup.push_async_callback(listener.aclose)
        url = Url(reachable(options.listen, listener.address.port), name)
        also = ""
        if options.tcp is not None:
            tcp = await listen_tcp(options.tcp.host or None, options.tcp.port, server.serve_stream)
            cleanup.push_async_callback(tcp.aclose)
            also = ", and on TCP " + ", ".join(str(Address(*pair)) for pair in tcp.addresses)
        announce(f"serving {directory} as {url}{also}; mount it with: quicfs mount {url} MOUNTPOINT")
        await told.wait()
        tell_service_manager("STOPPING=1")


def _folder(options: ServeOptions) -> tuple[Path, str]:
    directory = options.directory
    if not directory.is_dir():
        what = "is no directory" if directory.exists() else "does not exist"
        raise UserError(f"{directory} {what}: name the folder to serve")
    directory = directory.resolve()
    name = options.share or directory.name
    if not name:
        raise UserError(f"{directory} has no name that a share could have: give --share NAME")
    if any(character in '\\/:*?"<>|' or not character.isprintable() for character in name) or len(name) > 80:
        raise UserError(f"{name!r} cannot be a share's name: give another with --share")
    return directory, name


def _users(options: ServeOptions) -> UserDb | None:
    path = options.users or default_users()
    if options.users is not None or path.exists():
        return UserDb.load(path)
    if not options.guest:
        raise UserError(
            "nobody could log in: add a user with `quicfs user add NAME`, name a file with --users, "
            "or let everybody in with --guest"
        )
    return None
