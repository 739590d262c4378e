"""Small exchanges with quicfs: connections, requests of 1 KiB, and connections that do nothing."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import signal
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

from quicfs.agents import PrivateAgent, client_configuration, server_configuration
from quicfs.transport.config import ConnectionConfig, default_parameters
from quicfs.transport.handshake import HandshakeNet, HandshakeRequest
from quicfs.transport.quic_stream import QuicStream
from quicfs.transport.socket import QuicSocket
from quicfs.transport.uapi import AuthMode, Event, MessageType, SockOpt
from tests.perf.programs import arguments
from tests.perf.programs.arguments import ALPN, IDLE_S, NAME, PARALLEL, REQUEST, SAME, SIZE

TICKET_S = 5


def config() -> ConnectionConfig:
    parameters = default_parameters()
    parameters.max_idle_timeout_ms = int(IDLE_S * 1000)
    return ConnectionConfig(parameters=parameters)


@asynccontextmanager
async def net_with(configuration: str) -> AsyncIterator[HandshakeNet]:
    agent = PrivateAgent(configuration)
    net = HandshakeNet()
    try:
        net.attach(await agent.start())
        yield net
    finally:
        net.close()
        await agent.stop()


# --- server


async def serve(options: argparse.Namespace) -> None:
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    async with net_with(server_configuration(Path(options.cert), Path(options.key))) as net:
        listener = QuicSocket(net, config=config())
        listener.setsockopt(SockOpt.ALPN, ALPN.encode())
        listener.bind((options.host, options.port))
        listener.listen(4096)
        accepting = asyncio.create_task(accept(listener))
        await stop.wait()
        accepting.cancel()
        await listener.close()


async def accept(listener: QuicSocket) -> None:
    async with asyncio.TaskGroup() as group:
        while True:
            group.create_task(serve_connection(await listener.accept()))


async def serve_connection(conn: QuicSocket) -> None:
    try:
        await conn.handshake(HandshakeRequest(MessageType.SERVERHELLO, 30_000, AuthMode.X509))
        async with asyncio.TaskGroup() as group:
            while True:
                group.create_task(answer(await conn.accept_stream()))
    except* OSError:
        pass  # the client is done
    finally:
        await conn.close()


async def answer(stream: QuicStream) -> None:
    rest = 0
    with contextlib.suppress(OSError):
        while piece := await stream.recv():
            whole, rest = divmod(rest + len(piece), SIZE)
            if whole:
                await stream.send(REQUEST * whole)
        await stream.send_eof()


# --- client


class Client:
    def __init__(self, net: HandshakeNet, options: argparse.Namespace) -> None:
        self._net = net
        self._address = (options.host, options.port)
        self._ticket = b""

    async def connect(self, *, wants_ticket: bool = False) -> QuicSocket:
        conn = QuicSocket(self._net, config=config())
        conn.setsockopt(SockOpt.ALPN, ALPN.encode())
        if wants_ticket:
            conn.setsockopt(SockOpt.CONFIG, replace(conn.options, receive_session_ticket=TICKET_S).pack())
        if self._ticket:
            conn.setsockopt(SockOpt.SESSION_TICKET, self._ticket)
        await conn.connect(self._address)
        await conn.handshake(HandshakeRequest(MessageType.CLIENTHELLO, 30_000, peername=NAME))
        return conn

    async def use_a_ticket(self) -> None:
        conn = await self.connect(wants_ticket=True)
        conn.subscribe(Event.NEW_SESSION_TICKET, on=True)
        async with asyncio.timeout(TICKET_S):
            while not conn.getsockopt(SockOpt.SESSION_TICKET):
                await conn.recvmsg()
        self._ticket = conn.getsockopt(SockOpt.SESSION_TICKET)
        await conn.close()

    async def handshakes(self, seconds: float, parallel: int) -> tuple[int, float]:
        count = 0
        began = time.perf_counter()

        async def work() -> None:
            nonlocal count
            while time.perf_counter() - began < seconds:
                conn = await self.connect()
                count += 1
                await conn.close()

        await asyncio.gather(*(work() for _ in range(parallel)))
        return count, time.perf_counter() - began

    async def requests(self, mode: str, seconds: float, parallel: int) -> tuple[int, float]:
        conn = await self.connect()
        count = 0
        began = time.perf_counter()

        async def same() -> None:
            nonlocal count
            stream = conn.open_stream()
            while time.perf_counter() - began < seconds:
                await stream.send(REQUEST)
                got = 0
                while got < SIZE:
                    got += len(await stream.recv())
                count += 1

        async def streams() -> None:
            nonlocal count
            while time.perf_counter() - began < seconds:
                stream = await conn.wait_open_stream()
                await stream.send(REQUEST)
                await stream.send_eof()
                got = 0
                while piece := await stream.recv():
                    got += len(piece)
                assert got == SIZE
                count += 1

        work = same if mode == SAME else streams
        await asyncio.gather(*(work() for _ in range(parallel if mode == PARALLEL else 1)))
        took = time.perf_counter() - began
        await conn.close()
        return count, took

    async def idle(self, count: int, parallel: int) -> None:
        arguments.allow_descriptors(count)
        limit = asyncio.Semaphore(parallel)

        async def one() -> QuicSocket:
            async with limit:
                return await self.connect()

        began = time.perf_counter()
        conns = await asyncio.gather(*(one() for _ in range(count)))
        arguments.report(len(conns), time.perf_counter() - began)
        await asyncio.to_thread(arguments.wait_for_the_end)
        for conn in conns:
            await conn.close()


async def connect(options: argparse.Namespace) -> None:
    async with net_with(client_configuration(Path(options.ca))) as net:
        client = Client(net, options)
        if options.task == "idle":
            await client.idle(options.count, options.parallel)
        elif options.task == "handshakes":
            if options.resume:
                await client.use_a_ticket()
            arguments.report(*await client.handshakes(options.seconds, options.parallel))
        else:
            arguments.report(*await client.requests(options.mode, options.seconds, options.parallel))


if __name__ == "__main__":
    chosen = arguments.parse(__doc__)
    asyncio.run((serve if chosen.role == "server" else connect)(chosen))
