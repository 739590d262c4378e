"""The client's process: `python -m tests.crash.writer WHERE NAME SEED` locks a file and writes records to it until it
is told to stop (a line on its input). It says on its output, a line each:

    ready       it has the lock
    sent N      the first N records are written, as far as the server says
    kept N      the first N records are committed, or were written stable
    done        it was told to stop, and has closed the file
"""

from __future__ import annotations

import asyncio
import os
import random
import sys
from itertools import islice

from quicfs.vfs.api import LockKind, OpenFile, OpenFlags
from tests.crash.mounting import mounted
from tests.crash.records import records

FLAGS = OpenFlags.READ | OpenFlags.WRITE | OpenFlags.CREATE


def say(line: str) -> None:
    os.write(1, line.encode() + b"\n")


async def main(where: str, name: str, seed: str) -> None:
    async with mounted(where) as fs:
        file, _, _ = await fs.open(fs.root, name, FLAGS)
        await file.lock(0, 0, LockKind.EXCLUSIVE, owner=1)
        say("ready")
        told = asyncio.Event()
        asyncio.get_running_loop().add_reader(0, told.set)
        try:
            await write(file, int(seed), told)
        finally:
            asyncio.get_running_loop().remove_reader(0)
        await file.close()
    say("done")


async def write(file: OpenFile, seed: int, told: asyncio.Event) -> None:
    chance, source, count = random.Random(seed), records(seed), 0
    while not told.is_set():
        batch = list(islice(source, chance.randint(1, 8)))
        count += len(batch)
        if chance.random() < 0.3:
            for record in batch:
                await file.write(record.offset, record.data, stable=True)
                say(f"kept {record.number + 1}")
        else:
            await asyncio.gather(*(file.write(record.offset, record.data) for record in batch))
            say(f"sent {count}")
            if chance.random() < 0.3:
                await file.fsync()
                say(f"kept {count}")
        await asyncio.sleep(chance.random() * 0.01)
    await file.fsync()
    say(f"kept {count}")


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
