"""The server's process: `python -m tests.crash.server TREE STATE PORT LEASE`, NFS on TCP."""

from __future__ import annotations

import asyncio
import logging
import sys
from pathlib import Path

from quicfs.nfs.rpc.identity import Squash
from quicfs.nfs.rpc.tcp import listen_tcp
from quicfs.nfs.server.exports import Export
from quicfs.nfs.server.server import NfsServer
from tests.crash.forgetful import ForgetfulTree


async def main(tree: str, state: str, port: str, lease: str) -> None:
    export = Export("/export", ForgetfulTree(tree), squash=Squash(no_root_squash=True))
    server = NfsServer([export], state_directory=Path(state), lease=float(lease))
    await server.start()
    await listen_tcp("127.0.0.1", int(port), server.programs)
    print("serving", flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(message)s")
    asyncio.run(main(*sys.argv[1:]))
