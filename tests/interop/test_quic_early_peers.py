"""Resumption, 0-RTT and tokens with aioquic as server and as client, both in the test's own loop."""

from __future__ import annotations

import asyncio
import importlib.util
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from quicfs.agents import AgentOptions, client_net, server_net
from quicfs.certs import CertificateFiles
from quicfs.transport.early_data import EarlyState
from quicfs.transport.handshake import HandshakeNet, HandshakeRequest
from quicfs.transport.socket import QuicSocket
from quicfs.transport.uapi import AuthMode, Config, Event, EventOption, MessageType, MsgFlags, SockOpt

pytestmark = [pytest.mark.interop, pytest.mark.timeout(60)]

ALPN = b"hq-interop"
REQUEST = b"GET /file\r\n"


@pytest.fixture(autouse=True)
def _aioquic(need: Callable[[bool, str], None]) -> None:
    need(importlib.util.find_spec("aioquic") is not None, "aioquic (pip install -e '.[peers]')")


# --- our client


@asynccontextmanager
async def aioquic_server(files: CertificateFiles, *, retry: bool) -> AsyncIterator[tuple[int, list[Any]]]:
    """A server that answers in capitals; its port, and its HandshakeCompleted events."""
    from aioquic.asyncio import QuicConnectionProtocol, serve
    from aioquic.quic.configuration import QuicConfiguration
    from aioquic.quic.events import HandshakeCompleted, QuicEvent, StreamDataReceived

    completed: list[Any] = []
    tickets: dict[bytes, Any] = {}

    class Server(QuicConnectionProtocol):  # type: ignore[misc,unused-ignore]
        def quic_event_received(self, event: QuicEvent) -> None:
            if isinstance(event, HandshakeCompleted):
                completed.append(event)
            elif isinstance(event, StreamDataReceived):
                self._quic.send_stream_data(event.stream_id, event.data.upper(), event.end_stream)
                self.transmit()

    configuration = QuicConfiguration(alpn_protocols=[ALPN.decode()], is_client=False)
    configuration.load_cert_chain(files.cert, files.key)
    server = await serve(
        "127.0.0.1",
        0,
        configuration=configuration,
        create_protocol=Server,
        session_ticket_fetcher=lambda label: tickets.pop(label, None),
        session_ticket_handler=lambda ticket: tickets.__setitem__(ticket.ticket, ticket),
        retry=retry,
    )
    try:
        yield server._transport.get_extra_info("sockname")[1], completed
    finally:
        server.close()


async def ask_it(
    net: HandshakeNet, port: int, ticket: bytes, token: bytes, *, early: bool
) -> tuple[EarlyState, bool, bytes, bytes]:
    """One request; what became of the early data, whether there was a Retry, and what is for the next time."""
    conn = QuicSocket(net)
    config = Config(receive_session_ticket=5, early_data=early)
    conn.setsockopt(SockOpt.CONFIG, config.pack())
    conn.setsockopt(SockOpt.ALPN, ALPN)
    conn.setsockopt(SockOpt.SESSION_TICKET, ticket)
    conn.setsockopt(SockOpt.TOKEN, token)
    conn.setsockopt(SockOpt.EVENT, EventOption(Event.NEW_SESSION_TICKET, 1).pack())
    await conn.connect(("127.0.0.1", port))
    try:
        handshake = asyncio.ensure_future(
            conn.handshake(HandshakeRequest(MessageType.CLIENTHELLO, peername="localhost"))
        )
        stream = await conn.wait_open_stream()
        await stream.send(REQUEST)
        await stream.send_eof()
        answer = b""
        while piece := await stream.recv():
            answer += piece
        assert answer == REQUEST.upper()
        await handshake
        async with asyncio.timeout(10):
            while not (await conn.recvmsg()).flags & MsgFlags.NOTIFICATION:
                pass
        return (
            conn.early_data,
            conn.connection.retry_scid is not None,
            conn.getsockopt(SockOpt.SESSION_TICKET),
            conn.getsockopt(SockOpt.TOKEN),
        )
    finally:
        await conn.close()


@pytest.mark.parametrize("early", [False, True])
@pytest.mark.parametrize("retry", [False, True])
def test_our_client_resumes(certificates: CertificateFiles, early: bool, retry: bool) -> None:
    async def main() -> None:
        async with (
            aioquic_server(certificates, retry=retry) as (port, completed),
            client_net(AgentOptions(ca=certificates.ca)) as client,
        ):
            ticket = token = b""
            for number in range(3):
                state, _, ticket, token = await ask_it(client.net, port, ticket, token, early=early)
                assert completed[-1].session_resumed is (number > 0)
                assert completed[-1].early_data_accepted is (early and number > 0)
                assert state is (EarlyState.ACCEPTED if early and number else EarlyState.NONE)

    asyncio.run(main())


# --- our server


class Served:
    """A QuicSocket server that answers in capitals."""

    def __init__(self, net: HandshakeNet, config: Config) -> None:
        self.listener = QuicSocket(net)
        self.listener.setsockopt(SockOpt.ALPN, ALPN)
        self.listener.setsockopt(SockOpt.CONFIG, config.pack())
        self.listener.bind(("127.0.0.1", 0))
        self.listener.listen()
        self.early: list[bool] = []
        self._accepted: list[QuicSocket] = []
        self._tasks = {asyncio.ensure_future(self._accept())}

    async def _accept(self) -> None:
        while True:
            conn = await self.listener.accept()
            self._accepted.append(conn)
            self._tasks.add(asyncio.ensure_future(self._answer(conn)))
            self._tasks.add(
                asyncio.ensure_future(
                    conn.handshake(HandshakeRequest(MessageType.SERVERHELLO, auth_mode=AuthMode.X509))  # type: ignore[arg-type]
                )
            )

    async def _answer(self, conn: QuicSocket) -> None:
        stream = await conn.accept_stream()
        data = b""
        while piece := await stream.recv():
            data += piece
        self.early.append(stream.early)
        await stream.send(data.upper())
        await stream.send_eof()

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for sock in (*self._accepted, self.listener):
            await sock.close()
        await self.listener.wait_closed()


async def aioquic_asks(
    port: int, files: CertificateFiles, ticket: Any, token: bytes
) -> tuple[Any, Any, bytes, bool]:
    """The HandshakeCompleted event, the new ticket and token, and whether there was a Retry."""
    from aioquic.asyncio import QuicConnectionProtocol, connect
    from aioquic.quic.configuration import QuicConfiguration
    from aioquic.quic.events import HandshakeCompleted, QuicEvent, StreamDataReceived

    loop = asyncio.get_running_loop()
    completed, answered = loop.create_future(), loop.create_future()
    new_ticket, new_token = loop.create_future(), loop.create_future()

    class Client(QuicConnectionProtocol):  # type: ignore[misc,unused-ignore]
        answer = b""

        def quic_event_received(self, event: QuicEvent) -> None:
            if isinstance(event, HandshakeCompleted):
                completed.set_result(event)
            elif isinstance(event, StreamDataReceived):
                self.answer += event.data
                if event.end_stream:
                    answered.set_result(self.answer)

    configuration = QuicConfiguration(
        alpn_protocols=[ALPN.decode()],
        is_client=True,
        server_name="localhost",
        session_ticket=ticket,
        token=token,
    )
    configuration.load_verify_locations(str(files.ca))
    async with connect(
        "127.0.0.1",
        port,
        configuration=configuration,
        create_protocol=Client,
        session_ticket_handler=new_ticket.set_result,
        token_handler=new_token.set_result,
        wait_connected=False,
    ) as client:
        if ticket is None:
            client.transmit()
            await client.wait_connected()
        client._quic.send_stream_data(client._quic.get_next_available_stream_id(), REQUEST, True)
        client.transmit()
        async with asyncio.timeout(10):
            assert await answered == REQUEST.upper()
            return await completed, await new_ticket, await new_token, client._quic._retry_count > 0


@pytest.mark.parametrize("early", [False, True])
def test_our_server_resumes(certificates: CertificateFiles, early: bool) -> None:
    async def main() -> None:
        async with server_net(AgentOptions(cert=certificates.cert, key=certificates.key)) as net:
            served = Served(net, Config(early_data=early, validate_peer_address=1))
            try:
                port = served.listener.getsockname()[1]
                ticket, token = None, b""
                for number in range(3):
                    event, ticket, token, retried = await aioquic_asks(port, certificates, ticket, token)
                    assert event.session_resumed is (number > 0)
                    assert event.early_data_accepted is (early and number > 0)
                    assert served.early[-1] is (early and number > 0)
                    assert retried is (number == 0)
            finally:
                await served.close()

    asyncio.run(main())
