"""The ways to a server: `tcp:PORT`, or `quic:PORT:CA-FILE` as the command line goes."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from quicfs.client_nfs import open_nfs
from quicfs.nfs.client.filesystem import NfsFileSystem
from quicfs.nfs.client.tcp import tcp_connector
from quicfs.options import AgentOptions
from quicfs.url import parse_url

TIMEOUT_S = 60.0


@asynccontextmanager
async def mounted(where: str) -> AsyncIterator[NfsFileSystem]:
    how, port, ca = (where + ":").split(":")[:3]
    if how == "quic":
        url = parse_url(f"nfs+quic://localhost:{port}/export")
        async with open_nfs(url, AgentOptions(ca=Path(ca)), timeout=TIMEOUT_S, inside=False) as fs:
            yield fs
        return
    fs = NfsFileSystem(tcp_connector("127.0.0.1", int(port)), "server", "/export", timeout=TIMEOUT_S)
    await fs.connect()
    try:
        yield fs
    finally:
        await fs.close()
