"""The NFS part of a server."""

from __future__ import annotations

import fcntl
from collections.abc import Mapping
from contextlib import AsyncExitStack
from pathlib import Path

from quicfs.errors import UserError
from quicfs.listen import Protocol
from quicfs.nfs.rpc.identity import IdentityMap, Squash
from quicfs.nfs.rpc.quic import ALPN, rpc_config, serve_connection
from quicfs.nfs.rpc.tcp import listen_tcp
from quicfs.nfs.server.exports import Export
from quicfs.nfs.server.server import NfsServer
from quicfs.places import state_directory
from quicfs.serve_options import NfsOptions
from quicfs.transport.socket import QuicSocket
from quicfs.url import Address
from quicfs.vfs import FileSystem

__all__ = ["start_nfs"]


async def start_nfs(
    options: NfsOptions,
    trees: Mapping[str, FileSystem],
    listen: Address,
    cleanup: AsyncExitStack,
    *,
    read_only: bool,
) -> tuple[Protocol, list[str]]:
    """What listens on QUIC for it, and the TCP addresses where it serves already."""
    identities = IdentityMap.load(options.identities) if options.identities is not None else None
    squash = Squash(options.no_root_squash, options.all_squash, options.anonuid, options.anongid)
    exports = [Export(f"/{name}", tree, read_only=read_only, squash=squash) for name, tree in trees.items()]
    state = _state_directory(listen, cleanup)
    server = NfsServer(exports, state_directory=state, identities=identities)
    await server.start()
    cleanup.push_async_callback(server.aclose)
    addresses: list[str] = []
    if options.tcp is not None:
        tcp = await listen_tcp(options.tcp.host or None, options.tcp.port, server.programs)
        cleanup.push_async_callback(tcp.aclose)
        addresses = [str(Address(*pair)) for pair in tcp.addresses]

    async def serve(conn: QuicSocket) -> None:
        await serve_connection(conn, server.programs)

    return Protocol(ALPN, serve, shape=rpc_config), addresses


def _state_directory(listen: Address, cleanup: AsyncExitStack) -> Path | None:
    """A place for each address: several servers of one machine have nothing in common. None on a port that is another
    one each time, where no client comes back."""
    if not listen.port:
        return None
    directory = state_directory() / "nfs" / str(listen)
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    lock = cleanup.enter_context((directory / "lock").open("wb"))
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise UserError(
            f"another server keeps its state in {directory}: stop it, or listen elsewhere with --listen"
        ) from None
    return directory
