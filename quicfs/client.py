"""A share as a file system, from what the user gave: URL, agent, password."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final

from quicfs.agents import client_net
from quicfs.errors import UserError
from quicfs.options import AgentOptions
from quicfs.passwords import get_password
from quicfs.quic import connect_stream
from quicfs.smb.client.errors import ConnectError, ConnectProblem
from quicfs.smb.client.filesystem import SmbFileSystem
from quicfs.smb.client.link import Connect
from quicfs.smb.ntlm import Credentials
from quicfs.transport.bytestream import ByteStream
from quicfs.url import Address, Url
from quicfs.vfs import FileSystem, Node

if TYPE_CHECKING:
    from quicfs.smb.rpc import ShareEntry

__all__ = ["ALPN", "ShareFileSystem", "credentials_for", "open_share", "run_on_share", "shares_of"]

ALPN: Final = b"smb"
_GUEST: Final = "guest"


def credentials_for(url: Url, password_file: Path | None) -> Credentials:
    """Asks for the password when it has to. Without a user in the URL, a guest's."""
    if url.user is None:
        return Credentials(_GUEST)
    domain, _, user = url.user.rpartition("\\")
    password = get_password(f"the password of {url.user} at {url.address.host}", password_file)
    return Credentials(user, password, domain)


class ShareFileSystem(SmbFileSystem):
    """A share, or the part of it below the directory `top`."""

    top: Node | None = None

    @property
    def root(self) -> Node:
        return self.top if self.top is not None else super().root


@asynccontextmanager
async def _connector(address: Address, agent: AgentOptions) -> AsyncIterator[Connect]:
    async with client_net(agent) as net:

        async def connect() -> ByteStream:
            return await connect_stream(net, address, ALPN)

        yield connect


@asynccontextmanager
async def open_share(
    url: Url, agent: AgentOptions, credentials: Credentials, *, timeout: float = 30.0
) -> AsyncIterator[ShareFileSystem]:
    """Connected and logged in. Raises ConnectError and UserError."""
    async with _connector(url.address, agent) as connect:
        fs = ShareFileSystem(connect, url.address.host, url.share, credentials, timeout=timeout)
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
            yield fs
        finally:
            await fs.close()


def run_on_share(
    url: Url,
    agent: AgentOptions,
    password_file: Path | None,
    action: Callable[[FileSystem], Awaitable[None]],
) -> None:
    """The whole life of a command that connects, does one thing and ends."""
    credentials = credentials_for(url, password_file)

    async def run() -> None:
        async with open_share(url, agent, credentials) as fs:
            await action(fs)

    asyncio.run(run())


def shares_of(url: Url, agent: AgentOptions, password_file: Path | None) -> list[ShareEntry]:
    """The shares with files that the server tells this user of."""
    # Only here: the structures of DCE/RPC take longer to import than all the rest.
    from quicfs.smb.client.shares import list_shares
    from quicfs.smb.rpc import ShareEntry

    credentials = credentials_for(url, password_file)

    async def run() -> list[ShareEntry]:
        async with _connector(url.address, agent) as connect:
            return await list_shares(connect, url.address.host, credentials)

    return [share for share in asyncio.run(run()) if share.kind == ShareEntry.DISK]
