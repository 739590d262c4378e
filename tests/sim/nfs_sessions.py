"""What the tests of sessions share."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from quicfs.nfs.v4.const import (
    FileType,
    Op,
    Stat,
)
from quicfs.nfs.v4.operations_directories import CreateArgs, CreateType, LookupArgs, RemoveArgs
from tests.sim.nfs_rig import Operation, RawClient, Rig
from tests.sim.virtual_loop import run

ROOT: list[Operation] = [(Op.PUTROOTFH, None)]
EXPORT: list[Operation] = [(Op.PUTROOTFH, None), (Op.LOOKUP, LookupArgs("export"))]
Body = Callable[[Rig], Awaitable[None]]


def mkdir(name: str) -> list[Operation]:
    return [*EXPORT, (Op.CREATE, CreateArgs(CreateType(FileType.DIR), name, {}))]


def rmdir(name: str) -> list[Operation]:
    return [*EXPORT, (Op.REMOVE, RemoveArgs(name))]


def in_rig(tmp_path: Path, body: Body, **options: Any) -> None:
    async def main() -> None:
        async with Rig(tmp_path, **options) as rig:
            await body(rig)

    run(main())


async def refused(client: RawClient, *operations: Operation) -> Stat:
    return (await client.compound(*operations)).status
