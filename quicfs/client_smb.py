"""An SMB share as a file system, from what the user gave: URL, agent, password."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Final

from quicfs.agents import client_net
from quicfs.errors import UserError
from quicfs.options import AgentOptions
from quicfs.quic import connect_stream
from quicfs.smb.client.errors import ConnectError, ConnectProblem
from quicfs.smb.client.filesystem import SmbFileSystem
from quicfs.smb.client.link import Connect
from quicfs.smb.ntlm import Credentials
from quicfs.transport.bytestream import ByteStream
from quicfs.url import Address, Url
from quicfs.vfs import FileKind, FsError, Node, Status

if TYPE_CHECKING:
    from quicfs.smb.rpc import ShareEntry

__all__ = ["ALPN", "credentials", "open_smb", "shares"]

ALPN: Final = b"smb"
_GUEST: Final = "guest"


def credentials(url: Url, password: str) -> Credentials:
    """Without a user in the URL, a guest's."""
    if url.user is None:
        return Credentials(_GUEST)
    domain, _, user = url.user.rpartition("\\")
    return Credentials(user, password, domain)


class _Share(SmbFileSystem):
    """A share, or the part of it below the directory `top`."""

    top: Node | None = None

    @property
    def root(self) -> Node:
        return self.top if self.top is not None else super().root

    async def enter(self, url: Url) -> None:
        """Make the URL's directory the root."""
        node, attr = await self.lookup(self.root, url.path, follow=True)
        if attr.kind is not FileKind.DIRECTORY:
            raise FsError(Status.NOT_DIR, str(url))
        self.top = node


@asynccontextmanager
async def _connector(address: Address, agent: AgentOptions) -> AsyncIterator[Connect]:
    async with client_net(agent) as net:

        async def connect() -> ByteStream:
            return await connect_stream(net, address, ALPN)

        yield connect


@asynccontextmanager
async def open_smb(
    url: Url, agent: AgentOptions, password: str, *, timeout: float, inside: bool
) -> AsyncIterator[SmbFileSystem]:
    """See `client.open_share`."""
    async with _connector(url.address, agent) as connect:
        fs = _Share(connect, url.address.host, url.share, credentials(url, password), timeout=timeout)
        try:
            try:
                await fs.connect()
            except ConnectError as error:
                if error.problem is not ConnectProblem.SHARE:
                    raise
                server = f"smb+quic://{url.user}@{url.address}" if url.user else f"smb+quic://{url.address}"
                raise UserError(
                    f"{str(error).partition(':')[0]}: `quicfs ls {server}` lists the shares"
                ) from error
            if inside and url.path:
                await fs.enter(url)
            yield fs
        finally:
            await fs.close()


async def shares(url: Url, agent: AgentOptions, password: str) -> list[ShareEntry]:
    """The shares with files that the server tells this user of."""
    # Only here: the structures of DCE/RPC take longer to import than all the rest.
    from quicfs.smb.client.shares import list_shares
    from quicfs.smb.rpc import ShareEntry

    async with _connector(url.address, agent) as connect:
        found = await list_shares(connect, url.address.host, credentials(url, password))
    return [share for share in found if share.kind == ShareEntry.DISK]
