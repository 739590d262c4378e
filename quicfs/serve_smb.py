"""The SMB part of a server."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AsyncExitStack
from typing import Final

from quicfs.errors import UserError
from quicfs.listen import Protocol, one_stream
from quicfs.places import default_users
from quicfs.serve_options import SmbOptions
from quicfs.smb.auth import NtlmAuthenticator
from quicfs.smb.ntlm import TargetNames
from quicfs.smb.server import Share, SmbServer
from quicfs.smb.users import UserDb
from quicfs.transport.tcp_stream import listen_tcp
from quicfs.url import Address
from quicfs.vfs import FileSystem

__all__ = ["start_smb"]

ALPN: Final = b"smb"


async def start_smb(
    options: SmbOptions,
    trees: Mapping[str, FileSystem],
    host: str,
    cleanup: AsyncExitStack,
    *,
    read_only: bool,
) -> tuple[Protocol, list[str]]:
    """What listens on QUIC for it, and the TCP addresses where it serves already."""
    authenticator = NtlmAuthenticator(_users(options), TargetNames(host))
    shares = {name: Share(name, tree, read_only=read_only) for name, tree in trees.items()}
    server = SmbServer(shares, authenticator, guest=options.guest, server_name=host)
    addresses: list[str] = []
    if options.tcp is not None:
        tcp = await listen_tcp(options.tcp.host or None, options.tcp.port, server.serve_stream)
        cleanup.push_async_callback(tcp.aclose)
        addresses = [str(Address(*pair)) for pair in tcp.addresses]
    # Samba's client (4.25) breaks the connection off when a session ticket comes.
    return Protocol(ALPN, one_stream(server.serve_stream), session_tickets=False), addresses


def _users(options: SmbOptions) -> UserDb | None:
    path = options.users or default_users()
    if options.users is not None or path.exists():
        return UserDb.load(path)
    if not options.guest:
        raise UserError(
            "nobody could log in: add a user with `quicfs user add NAME`, name a file with --users, "
            "or let everybody in with --guest"
        )
    return None
