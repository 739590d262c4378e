"""aioquic or qh3 as an endpoint of the interop runner: `python -m tests.interop.peers.hq_peer aioquic`.

Both keep the asyncio interface that aioquic began with, so one program drives either. It keeps the contract of
tests/interop/contract.py. What a stack does not offer is an unsupported case, see UNSUPPORTED.
"""

from __future__ import annotations

import asyncio
import importlib
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import ExitStack, asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any, Final, TextIO

from tests.interop.contract import HQ, Contract, ContractError, Request, Unsupported, requested_path, run

TICKET_S: Final = 5.0
"""How long to wait for the session ticket of a first connection."""
CLIENT_WINDOW: Final = 256 * 1024
PARALLEL: Final = 64
"""Files of one connection under way at one time."""

UNSUPPORTED: Final[dict[tuple[str, str, str], str]] = {
    ("aioquic", "server", "ecn"): "aioquic neither reads nor sets the ECN bits of its datagrams",
    ("aioquic", "client", "ecn"): "aioquic neither reads nor sets the ECN bits of its datagrams",
    ("aioquic", "server", "connectionmigration"): "aioquic's server cannot name a preferred address",
    ("qh3", "server", "ecn"): "qh3 neither reads nor sets the ECN bits of its datagrams",
    ("qh3", "client", "ecn"): "qh3 neither reads nor sets the ECN bits of its datagrams",
    ("qh3", "server", "connectionmigration"): "qh3's server cannot name a preferred address",
}
"""By stack, role and case: what the library has no means for."""


class Stack:
    """The modules of a stack that this program uses."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.asyncio = importlib.import_module(f"{name}.asyncio")
        self.configuration = importlib.import_module(f"{name}.quic.configuration")
        self.events = importlib.import_module(f"{name}.quic.events")
        self.packet = importlib.import_module(f"{name}.quic.packet")
        self.tls = importlib.import_module(f"{name}.tls")


class Endpoint:
    """What both roles share: the stack, and its configuration for the case."""

    def __init__(self, stack: Stack, contract: Contract) -> None:
        reason = UNSUPPORTED.get((stack.name, contract.role, contract.case))
        if reason is not None:
            raise Unsupported(reason)
        if contract.alpn != HQ:
            raise Unsupported("this program speaks HTTP/0.9 only")
        self.stack = stack
        self.contract = contract
        self._files = ExitStack()
        self._key_log: TextIO | None = None

    @contextmanager
    def open(self) -> Iterator[None]:
        """While the key log is open."""
        with self._files:
            if self.contract.key_log is not None:
                self._key_log = self._files.enter_context(self.contract.key_log.open("a", buffering=1))
            yield

    def configuration(self) -> Any:
        stack, contract = self.stack, self.contract
        configuration = stack.configuration.QuicConfiguration(
            alpn_protocols=[HQ], is_client=not contract.is_server, secrets_log_file=self._key_log
        )
        versions = stack.packet.QuicProtocolVersion
        configuration.supported_versions = [versions.VERSION_1]
        if contract.case == "v2":
            configuration.supported_versions = [versions.VERSION_2, versions.VERSION_1]
            if not contract.is_server:
                configuration.original_version = versions.VERSION_1
        if contract.case == "chacha20":
            configuration.cipher_suites = [stack.tls.CipherSuite.CHACHA20_POLY1305_SHA256]
        if contract.is_server:
            configuration.load_cert_chain(contract.certs / "cert.pem", contract.certs / "priv.key")
        else:
            configuration.load_verify_locations(str(contract.certs / "ca.pem"))
            configuration.max_stream_data = CLIENT_WINDOW
            configuration.max_data = 2 * CLIENT_WINDOW
        return configuration


# --- the server


def server_protocol(stack: Stack, www: Path) -> type:
    """The stack's protocol class, extended by answers to requests."""

    class Server(stack.asyncio.QuicConnectionProtocol):  # type: ignore[misc, name-defined]
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            self._lines: dict[int, bytes] = {}

        def quic_event_received(self, event: Any) -> None:
            if isinstance(event, stack.events.StreamDataReceived):
                line = self._lines.get(event.stream_id, b"") + event.data
                self._lines[event.stream_id] = line
                if event.end_stream:
                    self._quic.send_stream_data(event.stream_id, _content(www, line), end_stream=True)

    return Server


def _content(www: Path, line: bytes) -> bytes:
    """The file that is asked for, nothing if there is none."""
    path = requested_path(line)
    if path is None or b"/" in path or path in (b".", b".."):
        return b""
    file = www / path.decode(errors="replace")
    return file.read_bytes() if file.is_file() else b""


class Tickets:
    """The session tickets of a server, each for one use."""

    def __init__(self) -> None:
        self._tickets: dict[bytes, Any] = {}

    def add(self, ticket: Any) -> None:
        self._tickets[ticket.ticket] = ticket

    def take(self, label: bytes) -> Any:
        return self._tickets.pop(label, None)


async def serve(endpoint: Endpoint) -> None:
    contract, stack = endpoint.contract, endpoint.stack
    tickets = Tickets()
    with endpoint.open():
        server = await stack.asyncio.serve(
            contract.address or "::",
            contract.port,
            configuration=endpoint.configuration(),
            create_protocol=server_protocol(stack, contract.www),
            session_ticket_fetcher=tickets.take,
            session_ticket_handler=tickets.add,
            retry=contract.case == "retry",
        )
        try:
            await asyncio.get_running_loop().create_future()
        finally:
            server.close()


# --- the client


def client_protocol(stack: Stack) -> type:
    """The stack's protocol class, extended by requests."""

    class Client(stack.asyncio.QuicConnectionProtocol):  # type: ignore[misc, name-defined]
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            self._received: dict[int, tuple[bytearray, asyncio.Future[None]]] = {}
            self._ended: ConnectionError | None = None

        async def fetch(self, requests: Sequence[Request], folder: Path) -> None:
            """PARALLEL at a time. Raises ConnectionError when the connection ends before."""
            left = iter(requests)
            await asyncio.gather(*(self._fetch_in_turn(left, folder) for _ in range(PARALLEL)))

        async def _fetch_in_turn(self, left: Iterator[Request], folder: Path) -> None:
            for request in left:
                if self._ended is not None:
                    raise self._ended
                stream_id = self._quic.get_next_available_stream_id()
                received, done = bytearray(), asyncio.get_running_loop().create_future()
                self._received[stream_id] = received, done
                line = b"GET " + request.path.encode() + b"\r\n"
                self._quic.send_stream_data(stream_id, line, end_stream=True)
                self._transmit_soon()
                await done
                (folder / request.file_name).write_bytes(received)

        def quic_event_received(self, event: Any) -> None:
            if isinstance(event, stack.events.StreamDataReceived) and event.stream_id in self._received:
                received, done = self._received[event.stream_id]
                received += event.data
                if event.end_stream and not done.done():
                    done.set_result(None)
            elif isinstance(event, stack.events.ConnectionTerminated):
                self._ended = ConnectionError(
                    f"the connection ended: error {event.error_code:#x} {event.reason_phrase}".strip()
                )
                for _, done in self._received.values():
                    if not done.done():
                        done.set_exception(self._ended)

    return Client


class Client:
    """Connections to the server that the requests name."""

    def __init__(self, endpoint: Endpoint) -> None:
        self.endpoint = endpoint
        self.contract = endpoint.contract
        self._protocol = client_protocol(endpoint.stack)

    @asynccontextmanager
    async def connected(
        self, *, ticket: Any = None, on_ticket: Callable[[Any], None] = lambda _: None, wait: bool = True
    ) -> AsyncIterator[Any]:
        target = self.contract.requests[0]
        configuration = self.endpoint.configuration()
        configuration.session_ticket = ticket
        configuration.server_name = target.host
        async with self.endpoint.stack.asyncio.connect(
            target.host,
            target.port,
            configuration=configuration,
            create_protocol=self._protocol,
            session_ticket_handler=on_ticket,
            wait_connected=wait,
        ) as protocol:
            yield protocol

    async def fetch(self, protocol: Any, requests: Sequence[Request]) -> None:
        await protocol.fetch(requests, self.contract.downloads)


async def on_one_connection(client: Client) -> None:
    async with client.connected() as protocol:
        await client.fetch(protocol, client.contract.requests)


async def on_one_connection_each(client: Client) -> None:
    for request in client.contract.requests:
        async with client.connected() as protocol:
            await client.fetch(protocol, [request])


async def with_key_update(client: Client) -> None:
    """The stacks refuse an update before the handshake is confirmed, which the first answer shows it is."""
    async with client.connected() as protocol:
        await protocol.ping()
        protocol.request_key_update()
        await client.fetch(protocol, client.contract.requests)


async def resumed(client: Client, *, early: bool = False) -> None:
    """The first file on a connection of its own, which brings a ticket, the others on a second one with it."""
    first, *others = client.contract.requests
    ticket: asyncio.Future[Any] = asyncio.get_running_loop().create_future()

    def keep(value: Any) -> None:
        if not ticket.done():
            ticket.set_result(value)

    async with client.connected(on_ticket=keep) as protocol:
        await client.fetch(protocol, [first])
        try:
            async with asyncio.timeout(TICKET_S):
                value = await ticket
        except TimeoutError:
            raise ContractError("the server sent no session ticket") from None
    async with client.connected(ticket=value, wait=not early) as protocol:
        await client.fetch(protocol, others)


async def early(client: Client) -> None:
    await resumed(client, early=True)


FLOWS: Final[dict[str, Callable[[Client], Awaitable[None]]]] = {
    "multiconnect": on_one_connection_each,
    "keyupdate": with_key_update,
    "resumption": resumed,
    "zerortt": early,
}


async def fetch(endpoint: Endpoint) -> None:
    with endpoint.open():
        await FLOWS.get(endpoint.contract.case, on_one_connection)(Client(endpoint))


def main(arguments: list[str]) -> int:
    if len(arguments) != 1 or arguments[0] not in ("aioquic", "qh3"):
        raise SystemExit("usage: python -m tests.interop.peers.hq_peer aioquic|qh3")
    stack = Stack(arguments[0])

    async def run_client(contract: Contract) -> None:
        await fetch(Endpoint(stack, contract))

    async def run_server(contract: Contract) -> None:
        await serve(Endpoint(stack, contract))

    return run(run_client, run_server)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
