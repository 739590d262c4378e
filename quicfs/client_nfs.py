"""An export of NFS as a file system, from what the user gave: URL and agent."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from quicfs.agents import ClientNet, client_net
from quicfs.nfs.client.filesystem import NfsFileSystem
from quicfs.nfs.rpc.quic import ALPN, RpcConnection, rpc_config
from quicfs.nfs.rpc.service import Program
from quicfs.options import AgentOptions
from quicfs.quic import dial
from quicfs.url import Address, Url
from quicfs.vfs import FileKind, FsError, Status

__all__ = ["connect_rpc", "open_nfs"]


async def connect_rpc(net: ClientNet, address: Address, programs: Sequence[Program] = ()) -> RpcConnection:
    """Connect to an NFS server; `programs` answer what it calls. ConnectionError with a sentence."""
    conn, keep = await dial(net, address, ALPN, rpc_config)
    connection = RpcConnection(conn, programs)
    connection.on_close(lambda _: keep())
    return connection


@asynccontextmanager
async def open_nfs(
    url: Url, agent: AgentOptions, *, timeout: float, inside: bool
) -> AsyncIterator[NfsFileSystem]:
    """See `client.open_share`."""
    async with client_net(agent) as net:

        async def connect(programs: Sequence[Program]) -> RpcConnection:
            return await connect_rpc(net, url.address, programs)

        export = f"{url.share}/{url.path}" if inside else url.share
        # A mount remembers attributes itself, nearer to who asks. What is known under a delegation stays known.
        fs = NfsFileSystem(connect, url.address.host, f"/{export}", timeout=timeout, attr_timeout=0.0)
        try:
            await fs.connect()
            if inside and url.path and (await fs.getattr(fs.root)).kind is not FileKind.DIRECTORY:
                raise FsError(Status.NOT_DIR, str(url))
            yield fs
        finally:
            await fs.close()
