"""What the tests of the client's caches and delegations share."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from quicfs.nfs.client.filesystem import NfsFileSystem
from quicfs.vfs.api import OpenFlags
from quicfs.vfs.status import FsError, Status
from tests.sim.nfs_calls import Site
from tests.sim.virtual_loop import run

READ, WRITE, CREATE, TRUNCATE = OpenFlags.READ, OpenFlags.WRITE, OpenFlags.CREATE, OpenFlags.TRUNCATE


def on_site(directory: Path, body: Callable[[Site], Awaitable[None]], **options: Any) -> None:
    async def main() -> None:
        async with Site(directory, **options) as site:
            await body(site)

    run(main())


async def put(fs: NfsFileSystem, name: str, data: bytes) -> None:
    file, _, _ = await fs.open(fs.root, name, CREATE | TRUNCATE | WRITE)
    await file.write(0, data)
    await file.close()


async def get(fs: NfsFileSystem, name: str) -> bytes:
    file, _, _ = await fs.open(fs.root, name, READ)
    try:
        return bytes(await file.read(0, 1 << 20))
    finally:
        await file.close()


async def status_of(work: Awaitable[object]) -> Status:
    with pytest.raises(FsError) as caught:
        await work
    return caught.value.status


def files_of(site: Site) -> int:
    assert site.rig.server is not None
    return len(site.rig.server.files)
