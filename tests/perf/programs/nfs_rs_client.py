"""Calls a second to an NFS server on TCP, made by nfs-rs: python -m tests.perf.programs.nfs_rs_client ...

Prints {"count", "seconds"} as JSON. One call after another, or `--parallel` of them under way on one connection.
"""

import argparse
import asyncio
import json
import os
import sys
import time
from collections.abc import Awaitable, Callable

import nfs_rs

KIB, MIB = 1 << 10, 1 << 20
FILE = "big"
FILE_SIZE = 16 * MIB
Call = Callable[[int], Awaitable[object]]


async def repeated(call: Call, parallel: int, seconds: float) -> tuple[int, float]:
    count = 0
    began = time.perf_counter()
    end = began + seconds

    async def worker() -> None:
        nonlocal count
        while time.perf_counter() < end:
            count += 1
            await call(count)

    await asyncio.gather(*(worker() for _ in range(parallel)))
    return count, time.perf_counter() - began


async def main(options: argparse.Namespace) -> None:
    client = await nfs_rs.AsyncClient.connect(
        f"nfs://{options.host}{options.export}",
        versions=[options.version],
        nfs_port=options.port,
        mount_port=options.mount_port,
        noresvport=True,
        uid=0,
        gid=0,
        connect_timeout=10.0,
        operation_timeout=30.0,
    )
    async with client:
        if options.operation == "getattr":
            # Of the export's root: no LOOKUP. With 4.1 nfs-rs wants a name, and asks for both in one COMPOUND.
            path = "" if options.version == "3" else FILE
            await client.stat(path)
            count, seconds = await repeated(lambda _: client.stat(path), options.parallel, options.seconds)
        else:
            size = options.size
            places = FILE_SIZE // size
            file = await client.open(FILE, "rb")
            async with file:
                for place in range(FILE_SIZE // MIB):  # into the server's page cache
                    await file.read_at(place * MIB, MIB)

                async def read(number: int) -> None:
                    data = await file.read_at(number * 7919 % places * size, size)
                    assert len(data) == size

                count, seconds = await repeated(read, options.parallel, options.seconds)
    print(json.dumps({"count": count, "seconds": seconds}))


def parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    parser.add_argument("operation", choices=["getattr", "read"])
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--mount-port", type=int, required=True)
    parser.add_argument("--export", required=True)
    parser.add_argument("--version", choices=["3", "4.1"], required=True)
    parser.add_argument("--size", type=int, default=4 * KIB)
    parser.add_argument("--parallel", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=3.0)
    return parser.parse_args(arguments)


if __name__ == "__main__":
    asyncio.run(main(parse(sys.argv[1:])))
    sys.stdout.flush()
    os._exit(0)  # nfs-rs has threads that can crash the interpreter while it ends
