"""The server's process: `python -m tests.once.server JSON`. NFS on QUIC and on TCP; it counts what it carries out.

A random time passes before and after each of the operations in question, so that connections are lost while they are
under way, and are asked for again while they still are. `cut_s`: about every so many seconds a connection of QUIC is
closed. When told to end it says what it has counted.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import signal
import sys
from collections import Counter
from pathlib import Path
from typing import Any, Final

from quicfs.agents import server_net
from quicfs.nfs.rpc.identity import Squash
from quicfs.nfs.rpc.quic import ALPN, rpc_config, serve_connection
from quicfs.nfs.rpc.tcp import listen_tcp
from quicfs.nfs.server import compound
from quicfs.nfs.server.context import Context, Handler
from quicfs.nfs.server.exports import Export
from quicfs.nfs.server.server import NfsServer
from quicfs.nfs.v4.const import CreateMode, Op
from quicfs.options import AgentOptions
from quicfs.transport.config import ConnectionConfig
from quicfs.transport.handshake import HandshakeRequest
from quicfs.transport.socket import QuicSocket
from quicfs.transport.uapi import AuthMode, MessageType, SockOpt
from quicfs.vfs.local import LocalTree

_KINDS: Final = {Op.OPEN: "create", Op.RENAME: "rename", Op.REMOVE: "remove", Op.LINK: "link"}
_SLOW_S: Final = 0.02


def counted(op: Op, handler: Handler, done: Counter[str], dice: random.Random) -> Handler:
    async def count(ctx: Context, args: Any) -> Any:
        if op is Op.OPEN and (args.how is None or args.how.mode == CreateMode.UNCHECKED):
            return await handler(ctx, args)
        await asyncio.sleep(dice.uniform(0, _SLOW_S))
        result = await handler(ctx, args)
        done[_KINDS[op]] += 1
        await asyncio.sleep(dice.uniform(0, _SLOW_S))
        return result

    return count


async def main(settings: dict[str, Any]) -> None:
    dice = random.Random(settings["seed"])
    done: Counter[str] = Counter()
    handlers: Any = compound.HANDLERS
    for op in _KINDS:
        handlers[op] = counted(op, handlers[op], done, dice)
    tree = LocalTree(settings["tree"])
    server = NfsServer(
        [Export("/export", tree, squash=Squash(no_root_squash=True))], state_directory=Path(settings["state"])
    )
    await server.start()
    connections: set[QuicSocket] = set()
    told = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, told.set)
    cuts = 0

    async def serve(conn: QuicSocket) -> None:
        with contextlib.suppress(OSError):
            await conn.handshake(HandshakeRequest(MessageType.SERVERHELLO, 10_000, AuthMode.X509))
            connections.add(conn)
            await serve_connection(conn, server.programs)
        connections.discard(conn)

    async def cut() -> None:
        nonlocal cuts
        while settings["cut_s"]:
            await asyncio.sleep(dice.uniform(0, 2 * settings["cut_s"]))
            if connections and done:  # mounting may fail, it is what comes after that must not
                cuts += 1
                await dice.choice(sorted(connections, key=id)).close(7, "cut")

    async with (
        server_net(AgentOptions(cert=Path(settings["cert"]), key=Path(settings["key"]))) as net,
        asyncio.TaskGroup() as tasks,
    ):
        listener = QuicSocket(net, config=rpc_config(ConnectionConfig(reset_key=bytes(range(32)))))
        listener.setsockopt(SockOpt.ALPN, ALPN)
        listener.bind((settings["address"], settings["port"]))
        listener.listen()

        async def accept() -> None:
            while True:
                tasks.create_task(serve(await listener.accept()))

        running = [tasks.create_task(accept()), tasks.create_task(cut())]
        tcp = await listen_tcp(settings["address"], settings["port"], server.programs)
        await told.wait()
        await tcp.aclose()
        for task in running:
            task.cancel()
        await listener.close()
        for conn in list(connections):
            await conn.close()
    await server.aclose()
    await tree.close()
    print(json.dumps({"done": done, "cuts": cuts}), flush=True)


if __name__ == "__main__":
    asyncio.run(main(json.loads(sys.argv[1])))
