"""The process that stands behind a mount point until it is unmounted."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from functools import partial
from pathlib import Path

from quicfs import background
from quicfs.client import open_share, password_for
from quicfs.fuse_mount.mount import serve_mount
from quicfs.fuse_mount.options import MountOptions, parse_options
from quicfs.fuse_mount.preflight import check_mount
from quicfs.options import AgentOptions
from quicfs.service import announce, told_to_stop
from quicfs.url import Url

__all__ = ["run"]


def run(
    url: Url,
    mount_point: Path,
    words: str,
    agent: AgentOptions,
    password_file: Path | None,
    *,
    foreground: bool,
) -> None:
    """Mount and stay; without `foreground` in a child process, and leave once it is up.

    Raises MountError, ConnectError, UserError: nothing is mounted then.
    """
    options = parse_options(words, MountOptions(fsname=str(url)))
    check_mount(str(mount_point), options)
    password = password_for(url, password_file)  # while there is a terminal to ask at
    where = mount_point.absolute()
    ready = partial(announce, f"{url} is mounted on {where}") if foreground else background.fork().ready
    asyncio.run(_serve(url, where, options, agent, password, ready))


async def _serve(
    url: Url,
    mount_point: Path,
    options: MountOptions,
    agent: AgentOptions,
    password: str,
    ready: Callable[[], None],
) -> None:
    told = told_to_stop()
    async with open_share(url, agent, password, timeout=options.deadline, inside=True) as fs:
        mounted = asyncio.create_task(serve_mount(fs, str(mount_point), options, ready=ready))
        stop = asyncio.create_task(told.wait())
        try:
            await asyncio.wait({mounted, stop}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            stop.cancel()
            if not mounted.done():
                mounted.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await mounted
