"""The client's process: `python -m tests.crash.writer PORT NAME SEED` locks a file and writes records to it until it is
told to stop (a line on its input). It says on its output, a line each:

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

from quicfs.nfs.client.filesystem import NfsFileSystem
from quicfs.nfs.client.tcp import tcp_connector
from quicfs.vfs.api import LockKind, OpenFlags
from tests.crash.records import records

FLAGS = OpenFlags.READ | OpenFlags.WRITE | OpenFlags.CREATE
TIMEOUT_S = 60.0


def say(line: str) -> None:
    os.write(1, line.encode() + b"\n")


async def main(port: str, name: str, seed: str) -> None:
    fs = NfsFileSystem(tcp_connector("127.0.0.1", int(port)), "server", "/export", timeout=TIMEOUT_S)
    await fs.connect()
    file, _, _ = await fs.open(fs.root, name, FLAGS)
    await file.lock(0, 0, LockKind.EXCLUSIVE, owner=1)
    say("ready")
    told = asyncio.Event()
    asyncio.get_running_loop().add_reader(0, told.set)
    chance = random.Random(seed)
    source = records(int(seed))
    while not told.is_set():
        batch = list(islice(source, chance.randint(1, 8)))
        if chance.random() < 0.3:
            for record in batch:
                await file.write(record.offset, record.data, stable=True)
                say(f"kept {record.number + 1}")
        else:
            await asyncio.gather(*(file.write(record.offset, record.data) for record in batch))
            say(f"sent {batch[-1].number + 1}")
            if chance.random() < 0.3:
                await file.fsync()
                say(f"kept {batch[-1].number + 1}")
        await asyncio.sleep(chance.random() * 0.01)
    await file.fsync()
    say(f"kept {next(source).number}")
    await file.close()
    await fs.close()
    say("done")


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
