"""What a URL names as a file system; SMB or NFS, whichever it says.

The two are imported when they are needed: no command waits for what it does not use.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from quicfs.options import AgentOptions
from quicfs.passwords import get_password
from quicfs.url import NFS, Url
from quicfs.vfs import FileSystem

if TYPE_CHECKING:
    from quicfs.smb.rpc import ShareEntry

__all__ = ["open_share", "password_for", "run_on_share", "shares_of"]


def password_for(url: Url, password_file: Path | None) -> str:
    """Asks for it when there is a user who needs one."""
    if url.user is None:
        return ""
    return get_password(f"the password of {url.user} at {url.address.host}", password_file)


@asynccontextmanager
async def open_share(
    url: Url, agent: AgentOptions, password: str, *, timeout: float = 30.0, inside: bool = False
) -> AsyncIterator[FileSystem]:
    """The share, connected and logged in. `inside`: the URL's directory is its root.

    Raises ConnectError of either protocol, UserError, and FsError when there is no such directory.
    """
    if url.scheme == NFS:
        from quicfs.client_nfs import open_nfs

        async with open_nfs(url, agent, timeout=timeout, inside=inside) as export:
            yield export
    else:
        from quicfs.client_smb import open_smb

        async with open_smb(url, agent, password, timeout=timeout, inside=inside) as share:
            yield share


def run_on_share(
    url: Url,
    agent: AgentOptions,
    password_file: Path | None,
    action: Callable[[FileSystem], Awaitable[None]],
) -> None:
    """The whole life of a command that connects, does one thing and ends."""
    password = password_for(url, password_file)

    async def run() -> None:
        async with open_share(url, agent, password) as fs:
            await action(fs)

    asyncio.run(run())


def shares_of(url: Url, agent: AgentOptions, password_file: Path | None) -> list[ShareEntry]:
    """The shares with files that an SMB server tells this user of."""
    from quicfs.client_smb import shares

    return asyncio.run(shares(url, agent, password_for(url, password_file)))
