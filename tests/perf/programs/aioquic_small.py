"""Small exchanges with aioquic or qh3, which share the asyncio interface that aioquic began with.

python -m tests.perf.programs.aioquic_small STACK server|client ...   (arguments.py)
"""

from __future__ import annotations

import argparse
import asyncio
import importlib
import signal
import sys
import time
from typing import Any

from tests.perf.programs import arguments
from tests.perf.programs.arguments import ALPN, IDLE_S, NAME, PARALLEL, REQUEST, SAME, SIZE


class Stack:
    def __init__(self, name: str) -> None:
        self.asyncio = importlib.import_module(f"{name}.asyncio")
        self.configuration = importlib.import_module(f"{name}.quic.configuration")
        self.events = importlib.import_module(f"{name}.quic.events")

    def configure(self, *, is_client: bool) -> Any:
        return self.configuration.QuicConfiguration(
            alpn_protocols=[ALPN], is_client=is_client, idle_timeout=IDLE_S
        )


# --- server


async def serve(stack: Stack, options: argparse.Namespace) -> None:
    class Server(stack.asyncio.QuicConnectionProtocol):  # type: ignore[misc, name-defined]
        def __init__(self, *rest: Any, **named: Any) -> None:
            super().__init__(*rest, **named)
            self._rest: dict[int, int] = {}

        def quic_event_received(self, event: Any) -> None:
            if isinstance(event, stack.events.StreamDataReceived):
                stream_id = event.stream_id
                whole, rest = divmod(self._rest.pop(stream_id, 0) + len(event.data), SIZE)
                if not event.end_stream:
                    self._rest[stream_id] = rest
                self._quic.send_stream_data(stream_id, REQUEST * whole, event.end_stream)

    configuration = stack.configure(is_client=False)
    configuration.load_cert_chain(options.cert, options.key)
    tickets: dict[bytes, Any] = {}
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    server = await stack.asyncio.serve(
        options.host,
        options.port,
        configuration=configuration,
        create_protocol=Server,
        session_ticket_fetcher=tickets.get,
        session_ticket_handler=lambda ticket: tickets.update({ticket.ticket: ticket}),
    )
    await stop.wait()
    server.close()


# --- client


class Client:
    def __init__(self, stack: Stack, options: argparse.Namespace) -> None:
        self._stack = stack
        self._options = options
        self._configuration = stack.configure(is_client=True)
        self._configuration.load_verify_locations(options.ca)
        self._configuration.server_name = NAME

    def connect(self, tickets: list[Any] | None = None) -> Any:
        stack = self._stack

        class Protocol(stack.asyncio.QuicConnectionProtocol):  # type: ignore[misc, name-defined]
            def __init__(self, *rest: Any, **named: Any) -> None:
                super().__init__(*rest, **named)
                self._waiting: dict[int, tuple[asyncio.Future[None], int]] = {}

            def quic_event_received(self, event: Any) -> None:
                if isinstance(event, stack.events.StreamDataReceived):
                    done, missing = self._waiting[event.stream_id]
                    missing -= len(event.data)
                    self._waiting[event.stream_id] = done, missing
                    if not missing and not done.done():
                        done.set_result(None)

            async def ask(self, stream_id: int, *, last: bool) -> None:
                done = asyncio.get_running_loop().create_future()
                self._waiting[stream_id] = done, SIZE
                self._quic.send_stream_data(stream_id, REQUEST, last)
                self.transmit()
                await done
                if last:
                    del self._waiting[stream_id]

            def next_stream(self) -> int:
                return int(self._quic.get_next_available_stream_id())

        return stack.asyncio.connect(
            self._options.host,
            self._options.port,
            configuration=self._configuration,
            create_protocol=Protocol,
            session_ticket_handler=None if tickets is None else tickets.append,
        )

    async def use_a_ticket(self) -> None:
        tickets: list[Any] = []
        async with self.connect(tickets) as protocol:
            await protocol.ask(protocol.next_stream(), last=True)
            while not tickets:
                await protocol.ping()
        self._configuration.session_ticket = tickets[-1]

    async def handshakes(self, seconds: float, parallel: int) -> tuple[int, float]:
        resumes = self._configuration.session_ticket is not None
        closing: set[asyncio.Task[Any]] = set()
        count = 0
        began = time.perf_counter()

        async def work() -> None:
            nonlocal count
            while time.perf_counter() - began < seconds:
                connection = self.connect()
                protocol = await connection.__aenter__()
                if protocol._quic.tls.session_resumed is not resumes:
                    raise ConnectionError("resumed or not: it is not what was asked for")
                count += 1
                # Leaving waits until the connection has drained: nothing to measure.
                closing.add(asyncio.create_task(connection.__aexit__(None, None, None)))

        await asyncio.gather(*(work() for _ in range(parallel)))
        took = time.perf_counter() - began
        await asyncio.gather(*closing)
        return count, took

    async def requests(self, mode: str, seconds: float, parallel: int) -> tuple[int, float]:
        count = 0
        async with self.connect() as protocol:
            began = time.perf_counter()

            async def work() -> None:
                nonlocal count
                stream_id = protocol.next_stream()
                while time.perf_counter() - began < seconds:
                    await protocol.ask(stream_id, last=mode != SAME)
                    count += 1
                    if mode != SAME:
                        stream_id = protocol.next_stream()

            await asyncio.gather(*(work() for _ in range(parallel if mode == PARALLEL else 1)))
            return count, time.perf_counter() - began

    async def idle(self, count: int, parallel: int) -> None:
        arguments.allow_descriptors(count)
        limit = asyncio.Semaphore(parallel)
        opened = 0
        all_open = asyncio.Event()
        end = asyncio.Event()

        async def one() -> None:
            nonlocal opened
            await limit.acquire()
            async with self.connect():
                limit.release()
                opened += 1
                if opened == count:
                    all_open.set()
                await end.wait()

        began = time.perf_counter()
        async with asyncio.TaskGroup() as group:
            for _ in range(count):
                group.create_task(one())
            await all_open.wait()
            arguments.report(opened, time.perf_counter() - began)
            await asyncio.to_thread(arguments.wait_for_the_end)
            end.set()


async def connect(stack: Stack, options: argparse.Namespace) -> None:
    client = Client(stack, options)
    if options.task == "idle":
        await client.idle(options.count, options.parallel)
    elif options.task == "handshakes":
        if options.resume:
            await client.use_a_ticket()
        arguments.report(*await client.handshakes(options.seconds, options.parallel))
    else:
        arguments.report(*await client.requests(options.mode, options.seconds, options.parallel))


if __name__ == "__main__":
    name = sys.argv.pop(1)
    chosen = arguments.parse(__doc__)
    asyncio.run((serve if chosen.role == "server" else connect)(Stack(name), chosen))
