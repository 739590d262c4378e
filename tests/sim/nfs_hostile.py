"""What the tests of hostile clients share."""

from __future__ import annotations

import asyncio
import logging
import struct
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from quicfs.nfs.rpc.message import AuthSys, call_header
from quicfs.nfs.rpc.service import Peer, serve
from quicfs.nfs.v4.const import (
    PROGRAM,
    VERSION,
    Stat,
)
from quicfs.nfs.xdr import Packer
from tests.sim.nfs_files import (
    close,
    made,
    read,
    write,
)
from tests.sim.nfs_rig import COMPOUND, Operation, Pipe, RawClient, Rig, pipe
from tests.sim.virtual_loop import run

Body = Callable[[Rig], Awaitable[None]]
HUGE = 0xFFFFFFFF
EDGES = ((1 << 63) - 1, 1 << 63, (1 << 63) + 1, (1 << 64) - 4096, (1 << 64) - 1)
RECORD = struct.Struct(">I")
LAST = 0x80000000


@pytest.fixture
def nothing_unforeseen(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """No traceback, and nothing that an administrator would be woken up for."""
    caplog.set_level(logging.INFO, "quicfs")
    yield
    for record in caplog.get_records("call"):
        assert record.levelno < logging.WARNING and not record.exc_info, record.getMessage()


def in_rig(tmp_path: Path, body: Body, **options: Any) -> None:
    async def main() -> None:
        async with Rig(tmp_path, **options) as rig:
            await body(rig)

    run(main())


async def status(client: RawClient, *operations: Operation) -> Stat:
    return (await client.call(*operations)).status


async def bare(client: RawClient, *operations: Operation) -> Stat:
    """Without a SEQUENCE."""
    return (await client.compound(*operations)).status


async def well(client: RawClient, name: str = "well") -> None:
    """Who does no harm gets what is due."""
    file = await made(client, name)
    await write(client, file, b"content")
    assert await read(client, file) == (True, b"content")
    await close(client, file)


def raw_stream(rig: Rig) -> tuple[Pipe, asyncio.Task[None]]:
    """A stream on which a test says anything, and who serves it."""
    assert rig.server is not None
    ours, theirs = pipe("hostile")
    task = asyncio.get_running_loop().create_task(serve(theirs, rig.server.programs, Peer("hostile")))
    return ours, task


def record(message: bytes, claimed: int | None = None) -> bytes:
    return RECORD.pack(LAST | (len(message) if claimed is None else claimed)) + message


def rpc_call(
    args: bytes, *, xid: int = 1, program: int = PROGRAM, version: int = VERSION, procedure: int = COMPOUND
) -> bytes:
    return call_header(xid, program, version, procedure, AuthSys(1, "hostile", 0, 0, ())) + args


def header(count: int, tag: bytes = b"", minor: int = 2) -> bytes:
    packer = Packer()
    packer.opaque(tag)
    packer.uint32(minor)
    packer.uint32(count)
    return packer.getvalue()
