"""Resumption, 0-RTT and tokens over real UDP, with TLS done by real agents."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from quicfs.transport.early_data import EarlyState
from quicfs.transport.handshake import HandshakeNet, HandshakeRequest
from quicfs.transport.socket import QuicSocket
from quicfs.transport.uapi import AuthMode, Config, Event, EventOption, MessageType, MsgFlags, SockOpt
from quicfs.transport.wire.ticket import SessionTicket
from tests.integration.handshake_rig import NAME, Agents, Pki, toml

ALPN = b"hq-interop"
PLAIN = Config(receive_session_ticket=5)
EARLY = Config(receive_session_ticket=5, early_data=1)
REQUEST = b"GET /file\r\n"


class Rig:
    """One server that answers each stream with what it got, and clients."""

    def __init__(self, net: HandshakeNet, server: Config) -> None:
        self.net = net
        self.listener = QuicSocket(net)
        self.listener.setsockopt(SockOpt.ALPN, ALPN)
        self.listener.setsockopt(SockOpt.CONFIG, server.pack())
        self.listener.bind(("127.0.0.1", 0))
        self.listener.listen()
        self.accepted: list[QuicSocket] = []
        self.early: list[bool] = []
        """Of each stream: whether something of it came in 0-RTT packets."""
        self._tasks: set[asyncio.Task[None]] = set()
        self._spawn(self._accept())

    def _spawn(self, work: Awaitable[None]) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _accept(self) -> None:
        while True:
            conn = await self.listener.accept()
            self.accepted.append(conn)
            self._spawn(self._serve(conn))

    async def _serve(self, conn: QuicSocket) -> None:
        self._spawn(self._streams(conn))
        await conn.handshake(HandshakeRequest(MessageType.SERVERHELLO, auth_mode=AuthMode.X509))

    async def _streams(self, conn: QuicSocket) -> None:
        try:
            while True:
                stream = await conn.accept_stream()
                data = b""
                while piece := await stream.recv():
                    data += piece
                self.early.append(stream.early)
                await stream.send(data.upper())
                await stream.send_eof()
        except OSError:
            return  # the connection is over

    async def dial(
        self, *, ticket: bytes = b"", token: bytes = b"", config: Config = PLAIN, events: bool = False
    ) -> QuicSocket:
        """A connected socket whose handshake has not begun."""
        conn = QuicSocket(self.net)
        conn.setsockopt(SockOpt.CONFIG, config.pack())
        conn.setsockopt(SockOpt.ALPN, ALPN)
        if ticket:
            conn.setsockopt(SockOpt.SESSION_TICKET, ticket)
        if token:
            conn.setsockopt(SockOpt.TOKEN, token)
        if events:
            for event in (Event.NEW_TOKEN, Event.NEW_SESSION_TICKET):
                conn.setsockopt(SockOpt.EVENT, EventOption(event, 1).pack())
        await conn.connect(self.listener.getsockname()[:2])
        return conn

    async def shake(self, conn: QuicSocket) -> None:
        await conn.handshake(HandshakeRequest(MessageType.CLIENTHELLO, peername=NAME, timeout_ms=8000))

    async def keepsakes(self, conn: QuicSocket) -> tuple[bytes, bytes]:
        """Ticket and token, once both have come; the socket was dialled with `events`."""
        missing = {Event.NEW_TOKEN, Event.NEW_SESSION_TICKET}
        async with asyncio.timeout(8):
            while missing:
                received = await conn.recvmsg()
                if received.flags & MsgFlags.NOTIFICATION:
                    missing.discard(Event(received.data[0]))
        return conn.getsockopt(SockOpt.SESSION_TICKET), conn.getsockopt(SockOpt.TOKEN)

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for conn in (*self.accepted, self.listener):
            await conn.close()
        await self.listener.wait_closed()


def with_rig(
    agents: Agents, pki: Pki, body: Callable[[Rig], Awaitable[None]], server: Config = PLAIN
) -> None:
    async def main() -> None:
        net = HandshakeNet()
        net.attach(agents.private(toml(truststore=pki.ca.path, server=pki.server))[0])
        rig = Rig(net, server)
        try:
            async with asyncio.timeout(60):
                await body(rig)
        finally:
            await rig.close()
            net.close()

    asyncio.run(main())


async def ask(conn: QuicSocket, data: bytes = REQUEST) -> bytes:
    stream = conn.open_stream()
    await stream.send(data)
    await stream.send_eof()
    answer = b""
    while piece := await stream.recv():
        answer += piece
    return answer


def server_bytes(conn: QuicSocket) -> int:
    """CRYPTO bytes of the server's Handshake level: with a certificate or without."""
    return conn.connection.handshake.crypto_in.read


def test_resumption(agents: Agents, pki: Pki) -> None:
    async def body(rig: Rig) -> None:
        ticket = token = b""
        sizes = []
        for _ in range(3):
            conn = await rig.dial(ticket=ticket, token=token, events=True)
            await rig.shake(conn)
            ticket, token = await rig.keepsakes(conn)
            assert await ask(conn) == REQUEST.upper()
            sizes.append(server_bytes(conn))
            await conn.close()
        assert max(sizes[1:]) < sizes[0] - 200  # reserved transport parameters vary in size
        assert conn.early_data is EarlyState.NONE
        assert all(not early for early in rig.early)

    with_rig(agents, pki, body)


def test_a_listener_without_tickets(agents: Agents, pki: Pki) -> None:
    """What its CONFIG says holds for the connections that it accepts; a token comes all the same."""

    async def body(rig: Rig) -> None:
        for _ in range(2):
            conn = await rig.dial(events=True)
            await rig.shake(conn)
            received = await conn.recvmsg()
            assert received.data[0] == Event.NEW_TOKEN
            assert await ask(conn) == REQUEST.upper()
            assert not conn.getsockopt(SockOpt.SESSION_TICKET)
            await conn.close()

    with_rig(agents, pki, body, Config(no_session_ticket=1))


def test_a_token_saves_the_retry(agents: Agents, pki: Pki) -> None:
    async def body(rig: Rig) -> None:
        first = await rig.dial(events=True)
        await rig.shake(first)
        assert first.connection.retry_scid is not None
        _, token = await rig.keepsakes(first)
        for expected in (False, True):  # it counts once
            conn = await rig.dial(token=token)
            await rig.shake(conn)
            assert (conn.connection.retry_scid is not None) is expected
            await conn.close()
        await first.close()

    with_rig(agents, pki, body, Config(validate_peer_address=1))


def test_early_data(agents: Agents, pki: Pki) -> None:
    """The request is answered although the client has not even begun to wait for its handshake."""

    async def body(rig: Rig) -> None:
        ticket = b""
        for number in range(3):
            conn = await rig.dial(ticket=ticket, config=EARLY, events=True)
            if number:
                asking = asyncio.ensure_future(ask(conn))
                await asyncio.sleep(0)
                await rig.shake(conn)
                assert await asking == REQUEST.upper()
                assert conn.early_data is EarlyState.ACCEPTED
                assert rig.early[-1]
            else:
                with pytest.raises(BlockingIOError):
                    conn.open_stream()
                await rig.shake(conn)
            ticket, _ = await rig.keepsakes(conn)
            assert SessionTicket.unpack(ticket).early_data
            assert SessionTicket.unpack(ticket).parameters
            await conn.close()

    with_rig(agents, pki, body, EARLY)


def test_a_ticket_used_twice(agents: Agents, pki: Pki) -> None:
    """Not a replay: another ClientHello with the same ticket. Every one of them is answered."""

    async def body(rig: Rig) -> None:
        conn = await rig.dial(config=EARLY, events=True)
        await rig.shake(conn)
        ticket, _ = await rig.keepsakes(conn)
        await conn.close()
        for _ in range(3):
            conn = await rig.dial(ticket=ticket, config=EARLY)
            asking = asyncio.ensure_future(ask(conn, bytes(50_000)))
            await asyncio.sleep(0)
            await rig.shake(conn)
            assert len(await asking) == 50_000
            await conn.close()

    with_rig(agents, pki, body, EARLY)


@pytest.mark.parametrize("why", ["server", "client", "ticket"])
def test_early_data_need_consent(agents: Agents, pki: Pki, why: str) -> None:
    async def body(rig: Rig) -> None:
        conn = await rig.dial(config=EARLY, events=True)
        await rig.shake(conn)
        ticket, _ = await rig.keepsakes(conn)
        await conn.close()
        if why == "server":  # another listener, of the same agent, that does not take them
            other = Rig(rig.net, PLAIN)
            conn = await other.dial(ticket=ticket, config=EARLY)
            asking = asyncio.ensure_future(ask(conn))
            await asyncio.sleep(0)
            await other.shake(conn)
            assert await asking == REQUEST.upper()
            assert conn.early_data is EarlyState.REFUSED
            assert other.early == [False]
            await conn.close()
            await other.close()
            return
        if why == "ticket":
            content = SessionTicket.unpack(ticket)
            ticket = SessionTicket(
                content.identity, content.alpn, content.parameters, content.session, early_data=False
            ).pack()
        conn = await rig.dial(ticket=ticket, config=PLAIN if why == "client" else EARLY)
        with pytest.raises(BlockingIOError):
            conn.open_stream()
        await rig.shake(conn)
        assert await ask(conn) == REQUEST.upper()
        assert conn.early_data is EarlyState.NONE
        assert rig.early == [False]
        await conn.close()

    with_rig(agents, pki, body, EARLY)


def test_options_that_are_no_tickets(agents: Agents, pki: Pki) -> None:
    async def body(rig: Rig) -> None:
        conn = QuicSocket(rig.net)
        for option, value in ((SockOpt.SESSION_TICKET, b"nonsense"), (SockOpt.TOKEN, bytes(600))):
            with pytest.raises(OSError, match="Errno 22"):
                conn.setsockopt(option, value)

    with_rig(agents, pki, body)
