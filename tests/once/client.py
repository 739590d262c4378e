"""The client's process: `python -m tests.once.client JSON`. The workload through our client; its connection, or one of
its streams, is closed about every `cut_s` seconds. At the end it says what it was told."""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from quicfs.agents import client_net
from quicfs.nfs.client.channel import Connection
from quicfs.nfs.client.filesystem import NfsFileSystem
from quicfs.nfs.client.tcp import tcp_connector
from quicfs.nfs.rpc.client import RpcClient
from quicfs.nfs.rpc.quic import ALPN, RpcConnection, rpc_config
from quicfs.nfs.rpc.service import Program
from quicfs.options import AgentOptions
from quicfs.transport.config import ConnectionConfig
from quicfs.transport.errors import ClosedError
from quicfs.transport.handshake import HandshakeRequest
from quicfs.transport.socket import QuicSocket
from quicfs.transport.uapi import AuthMode, MessageType, SockOpt
from tests.once.workload import run


class Cuttable:
    """A connection that knows its streams."""

    def __init__(self, inner: Connection) -> None:
        self.inner = inner
        self.streams: list[RpcClient] = []

    @property
    def alive(self) -> bool:
        return self.inner.alive

    async def open(self) -> RpcClient:
        stream = await self.inner.open()
        self.streams = [known for known in self.streams if known.alive] + [stream]
        return stream

    async def aclose(self) -> None:
        await self.inner.aclose()


async def main(settings: dict[str, Any]) -> None:
    dice = random.Random(settings["seed"])
    address = settings["address"], settings["port"]
    made: list[Cuttable] = []
    cuts = {"connections": 0, "streams": 0}
    async with client_net(AgentOptions(ca=Path(settings["ca"]))) as net:

        async def connect_quic(programs: Sequence[Program]) -> Connection:
            conn = QuicSocket(net.net, config=rpc_config(ConnectionConfig(keep_alive=15.0)))
            try:
                conn.setsockopt(SockOpt.ALPN, ALPN)
                conn.setsockopt(SockOpt.CONFIG, replace(conn.options, receive_session_ticket=0).pack())
                await conn.connect(address)
                request = HandshakeRequest(MessageType.CLIENTHELLO, 10_000, AuthMode.UNAUTH, address[0])
                await conn.handshake(request)
            except ClosedError as error:
                await conn.close()
                raise ConnectionError(str(error)) from error
            except BaseException:
                await conn.close()
                raise
            return RpcConnection(conn, programs)

        make = tcp_connector(*address) if settings["tcp"] else connect_quic

        async def connect(programs: Sequence[Program]) -> Connection:
            made.append(Cuttable(await make(programs)))
            del made[:-4]
            return made[-1]

        async def cut() -> None:
            while settings["cut_s"]:
                await asyncio.sleep(dice.uniform(0, 2 * settings["cut_s"]))
                connection = made[-1] if made else None
                if connection is None or not connection.alive:
                    continue
                living = [stream for stream in connection.streams if stream.alive]
                if living and dice.random() < 0.5:
                    cuts["streams"] += 1
                    await dice.choice(living).aclose()
                else:
                    cuts["connections"] += 1
                    await connection.aclose()

        fs = NfsFileSystem(connect, address[0], "/export", timeout=120.0)
        await fs.connect()
        cutting = asyncio.create_task(cut())
        begun = time.monotonic()
        try:
            outcome = await run(fs, settings["operations"], settings["workers"], settings["seed"])
        finally:
            cutting.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await cutting
        seconds = time.monotonic() - begun
        await fs.close()
    report = {
        "operations": outcome.operations,
        "done": outcome.done,
        "refused": outcome.refused,
        "faults": outcome.faults,
        "cuts": cuts,
        "seconds": seconds,
    }
    print(json.dumps(report), flush=True)


if __name__ == "__main__":
    asyncio.run(main(json.loads(sys.argv[1])))
