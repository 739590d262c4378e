"""The kernel's part, with agents that are plain sockets in the test's hand."""

from __future__ import annotations

import asyncio
import errno
import os
import socket
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from quicfs.transport import handshake as hs
from quicfs.transport.handshake import HandshakeError, HandshakeNet, HandshakeRequest, HandshakeResult
from quicfs.transport.handshake_errors import handshake_error, peer_alert_error
from quicfs.transport.uapi import AuthMode, ConnectionClose, HandlerClass, MessageType, SockOpt
from quicfs.transport.wire import descriptor as calls
from quicfs.transport.wire import netlink
from quicfs.transport.wire.descriptor import Op, Record

NAME = "klab.test"
PATIENCE_S = 10


class Port:
    """Remembers what was done to it."""

    def __init__(self) -> None:
        self.set: list[tuple[int, bytes]] = []
        self.sent: list[tuple[int, bytes]] = []
        self.reader: Callable[[int, bytes], None] | None = None
        self.done = False

    def getsockopt(self, optname: int) -> bytes:
        if optname == SockOpt.ALPN:
            return b"smb"
        raise OSError(errno.ENOPROTOOPT, "no such option")

    def setsockopt(self, optname: int, value: bytes) -> None:
        if value == b"bad":
            raise OSError(errno.EINVAL, "a bad value")
        if value == b"bug":
            raise ZeroDivisionError("a mistake in the port")
        self.set.append((optname, value))

    def send_crypto(self, level: int, data: bytes) -> None:
        self.sent.append((level, data))

    def handshake_done(self) -> None:
        self.done = True

    def attach_crypto_reader(self, callback: Callable[[int, bytes], None] | None) -> None:
        self.reader = callback
        if callback is not None:
            callback(1, b"came before")


class Agent:
    """The agent's end of a bus."""

    def __init__(self, net: HandshakeNet | None = None, sock: socket.socket | None = None) -> None:
        if net is not None:
            ours, sock = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            net.attach(ours)
        assert sock is not None
        self.sock = sock
        self.sock.setblocking(False)

    async def read(self) -> tuple[netlink.Header, netlink.Message]:
        loop = asyncio.get_running_loop()
        return netlink.parse(await asyncio.wait_for(loop.sock_recv(self.sock, 4096), PATIENCE_S))

    async def ready(self) -> None:
        assert (await self.read())[1] == netlink.Ready(HandlerClass.TLSHD)

    def send(self, message: netlink.Message, seq: int = 0) -> None:
        self.sock.send(netlink.build(message, seq=seq))

    async def take(self) -> tuple[netlink.Request, Descriptor]:
        """Wait for READY and accept; the request and the descriptor."""
        await self.ready()
        self.send(netlink.Accept(), seq=77)
        readable = asyncio.Event()
        loop = asyncio.get_running_loop()
        loop.add_reader(self.sock, readable.set)
        await asyncio.wait_for(readable.wait(), PATIENCE_S)
        loop.remove_reader(self.sock)
        data, fds, _, _ = socket.recv_fds(self.sock, 4096, 4)
        header, request = netlink.parse(data)
        assert header.seq == 77
        assert isinstance(request, netlink.Request)
        (fd,) = fds
        return request, Descriptor(socket.socket(fileno=fd))

    def close(self) -> None:
        self.sock.close()


class Descriptor:
    """The agent's end of a descriptor."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.sock.setblocking(False)
        self._records: list[Record] = []

    async def read(self) -> Record:
        loop = asyncio.get_running_loop()
        if not self._records:
            data = await asyncio.wait_for(loop.sock_recv(self.sock, calls.MAX_MESSAGE), PATIENCE_S)
            self._records += calls.parse(data)
        return self._records.pop(0)

    async def call(self, message: Record) -> Record:
        self.sock.send(calls.build(message))
        while (reply := await self.read()).op is not Op.REPLY:
            pass
        assert reply.seq == message.seq
        return reply

    def close(self) -> None:
        self.sock.close()


def run(
    main: Callable[[HandshakeNet], Awaitable[None]], net_options: dict[str, object] | None = None
) -> None:
    async def wrapped() -> None:
        net = HandshakeNet(**(net_options or {}))  # type: ignore[arg-type]
        try:
            await asyncio.wait_for(main(net), 60)
        finally:
            net.close()

    asyncio.run(wrapped())


def file(net: HandshakeNet, port: Port, **fields: object) -> asyncio.Future[HandshakeResult]:
    request = HandshakeRequest(**{"peername": NAME, **fields})  # type: ignore[arg-type]
    return asyncio.ensure_future(net.handshake(port, request))


async def fails(outcome: Awaitable[HandshakeResult], code: int, *words: str) -> None:
    with pytest.raises(HandshakeError) as caught:
        await asyncio.wait_for(outcome, PATIENCE_S)
    assert caught.value.errno == code
    for word in words:
        assert word in str(caught.value)


def test_whole_contract() -> None:
    async def main(net: HandshakeNet) -> None:
        agent, port = Agent(net), Port()
        outcome = file(net, port, auth_mode=AuthMode.X509, timeout_ms=4321, keyring=5, peer_identities=(6,))
        request, descriptor = await agent.take()
        assert request == netlink.Request(
            request.sockfd, MessageType.CLIENTHELLO, NAME, 4321, 5, AuthMode.X509, (6,)
        )
        assert await descriptor.read() == Record(Op.RECVMSG, level=1, payload=b"came before")
        assert port.reader is not None
        port.reader(2, b"x" * (calls.MAX_PAYLOAD + 1))
        assert [len((await descriptor.read()).payload) for _ in range(2)] == [calls.MAX_PAYLOAD, 1]

        got = await descriptor.call(Record(Op.GETSOCKOPT, optname=SockOpt.ALPN, seq=1))
        assert (got.errno, got.payload) == (0, b"smb")
        done = await descriptor.call(Record(Op.SETSOCKOPT, optname=SockOpt.ALPN, seq=2, payload=b"smb"))
        assert done.errno == 0
        assert (await descriptor.call(Record(Op.SENDMSG, level=2, seq=3, payload=b"fin"))).errno == 0
        assert port.set == [(SockOpt.ALPN, b"smb")]
        assert port.sent == [(2, b"fin")]

        agent.send(netlink.Done(0, request.sockfd, (8, 9)))
        assert await outcome == HandshakeResult(0, (8, 9))
        assert port.reader is None
        with pytest.raises(OSError, match=r"pipe|reset"):
            await descriptor.call(Record(Op.GETSOCKOPT, optname=SockOpt.ALPN, seq=4))
        descriptor.close()
        agent.close()

    run(main)


def test_crypto_that_comes_when_the_agent_is_done_already() -> None:
    """A session ticket overtakes the agent's word: its end of the descriptor is closed then, and DONE unread."""

    async def main(net: HandshakeNet) -> None:
        agent, port = Agent(net), Port()
        outcome = file(net, port)
        request, descriptor = await agent.take()
        assert port.reader is not None
        agent.send(netlink.Done(0, request.sockfd))
        descriptor.close()
        port.reader(0, b"a session ticket")
        assert await outcome == HandshakeResult()
        assert port.done
        agent.close()

    run(main)


def test_calls_that_fail() -> None:
    async def main(net: HandshakeNet) -> None:
        agent, port = Agent(net), Port()
        outcome = file(net, port)
        request, descriptor = await agent.take()
        for call, code in (
            (Record(Op.GETSOCKOPT, optname=SockOpt.CONFIG, seq=1), errno.ENOPROTOOPT),  # the port's word
            (Record(Op.GETSOCKOPT, optname=SockOpt.CRYPTO_SECRET, seq=2), errno.ENOPROTOOPT),
            (Record(Op.SETSOCKOPT, optname=SockOpt.CONFIG, seq=3, payload=b"x"), errno.ENOPROTOOPT),
            (Record(Op.SETSOCKOPT, optname=999, seq=4, payload=b"x"), errno.ENOPROTOOPT),
            (Record(Op.SETSOCKOPT, optname=SockOpt.ALPN, seq=5, payload=b"bad"), errno.EINVAL),
            (Record(Op.SETSOCKOPT, optname=SockOpt.CONNECTION_CLOSE, seq=6, payload=b"?"), errno.EINVAL),
        ):
            assert (await descriptor.call(call)).errno == code, call
        assert port.set == []
        agent.send(netlink.Done(errno.EPROTO, request.sockfd))
        await fails(outcome, errno.EPROTO, NAME)
        descriptor.close()
        agent.close()

    run(main)


def test_mistake_in_the_port_reaches_who_asked() -> None:
    async def main(net: HandshakeNet) -> None:
        agent, port = Agent(net), Port()
        outcome = file(net, port)
        _, descriptor = await agent.take()
        descriptor.sock.send(calls.build(Record(Op.SETSOCKOPT, optname=SockOpt.ALPN, seq=1, payload=b"bug")))
        with pytest.raises(ZeroDivisionError):
            await outcome
        descriptor.close()
        agent.close()

    run(main)


def test_reason_comes_before_done() -> None:
    async def main(net: HandshakeNet) -> None:
        agent, port = Agent(net), Port()
        outcome = file(net, port)
        request, descriptor = await agent.take()
        close = ConnectionClose(0x100 + 45, 6, b"certificate of klab.test has expired")
        call = Record(Op.SETSOCKOPT, optname=SockOpt.CONNECTION_CLOSE, seq=1, payload=close.pack())
        assert (await descriptor.call(call)).errno == 0
        agent.send(netlink.Done(errno.EKEYEXPIRED, request.sockfd))
        descriptor.close()
        await fails(outcome, errno.EKEYEXPIRED, "certificate of klab.test has expired; ask")
        assert port.set == [(SockOpt.CONNECTION_CLOSE, close.pack())]
        agent.close()

    run(main)


def test_no_agent_is_an_error_at_once(tmp_path: Path) -> None:
    async def main(net: HandshakeNet) -> None:
        await fails(file(net, Port()), errno.ESRCH, NAME, "quicfs agent")

    run(main)
    run(main, {"agent_path": tmp_path / "nobody"})


def test_path_is_connected_to_again(tmp_path: Path) -> None:
    path = tmp_path / "agent.sock"

    async def main(net: HandshakeNet) -> None:
        for _ in range(2):
            with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
                listener.bind(str(path))
                listener.listen()
                listener.setblocking(False)
                outcome = file(net, Port())
                loop = asyncio.get_running_loop()
                sock, _ = await asyncio.wait_for(loop.sock_accept(listener), PATIENCE_S)
                agent = Agent(sock=sock)
                request, descriptor = await agent.take()
                agent.send(netlink.Done(0, request.sockfd))
                assert await outcome == HandshakeResult()
                descriptor.close()
                agent.close()
            path.unlink()

    run(main, {"agent_path": path})


def test_revive_runs_once_for_many() -> None:
    calls_of_revive = 0

    async def main_with_revive() -> None:
        agents = []

        async def revive() -> None:
            nonlocal calls_of_revive
            calls_of_revive += 1
            await asyncio.sleep(0)
            agents.append(Agent(net))

        net = HandshakeNet(revive=revive)
        outcomes = [file(net, Port(), timeout_ms=200) for _ in range(3)]
        for outcome in outcomes:
            await fails(outcome, errno.ETIMEDOUT, "no answer in time")
        net.close()
        agents[0].close()

    asyncio.run(main_with_revive())
    assert calls_of_revive == 1


def test_what_revive_raises_reaches_the_consumer() -> None:
    class NotStarted(Exception):
        pass

    async def revive() -> None:
        raise NotStarted

    async def main(net: HandshakeNet) -> None:
        with pytest.raises(NotStarted):
            await file(net, Port())

    run(main, {"revive": revive})


def test_two_agents_race() -> None:
    async def main(net: HandshakeNet) -> None:
        first, second = Agent(net), Agent(net)
        outcome = file(net, Port())
        request, descriptor = await first.take()
        await second.ready()
        second.send(netlink.Accept(), seq=9)
        _, message = await second.read()
        assert message == netlink.Error(errno.EAGAIN, 9)
        # Only who took a request may end it.
        second.send(netlink.Done(0, request.sockfd))
        second.send(netlink.Accept(), seq=10)
        await second.read()
        assert not outcome.done()
        first.send(netlink.Done(0, request.sockfd))
        assert await outcome == HandshakeResult()
        for thing in (first, second, descriptor):
            thing.close()

    run(main)


def test_agent_that_comes_later_hears_of_waiting_requests() -> None:
    async def main(net: HandshakeNet) -> None:
        idle = Agent(net)
        outcome = file(net, Port())
        await idle.ready()
        late = Agent(net)
        request, descriptor = await late.take()
        late.send(netlink.Done(0, request.sockfd))
        assert await outcome == HandshakeResult()
        for thing in (idle, late, descriptor):
            thing.close()

    run(main)


@pytest.mark.parametrize("what", ["bus", "descriptor"])
def test_closed_before_done(what: str) -> None:
    async def main(net: HandshakeNet) -> None:
        agent = Agent(net)
        outcome = file(net, Port())
        _, descriptor = await agent.take()
        (agent if what == "bus" else descriptor).close()
        await fails(outcome, errno.ECONNRESET, NAME, "stopped in the middle")
        agent.close()
        descriptor.close()

    run(main)


def test_agent_gone_before_it_took_anything() -> None:
    async def main(net: HandshakeNet) -> None:
        agent = Agent(net)
        outcome = file(net, Port())
        await agent.ready()
        agent.close()
        await fails(outcome, errno.ESRCH, NAME)
        await fails(file(net, Port()), errno.ESRCH, NAME)

    run(main)


def test_late_done_is_ignored() -> None:
    async def main(net: HandshakeNet) -> None:
        agent, port = Agent(net), Port()
        cancelled = file(net, port)
        old, descriptor = await agent.take()
        cancelled.cancel()
        with pytest.raises(asyncio.CancelledError):
            await cancelled
        assert port.reader is None
        outcome = file(net, Port())
        new, second = await agent.take()
        assert new.sockfd != old.sockfd
        agent.send(netlink.Done(errno.EIO, old.sockfd))
        agent.send(netlink.Done(0, new.sockfd))
        assert await outcome == HandshakeResult()
        for thing in (agent, descriptor, second):
            thing.close()

    run(main)


def test_cancelled_before_it_was_taken() -> None:
    async def main(net: HandshakeNet) -> None:
        agent = Agent(net)
        outcome = file(net, Port())
        await agent.ready()
        outcome.cancel()
        with pytest.raises(asyncio.CancelledError):
            await outcome
        agent.send(netlink.Accept(), seq=3)
        assert (await agent.read())[1] == netlink.Error(errno.EAGAIN, 3)
        agent.close()

    run(main)


def test_timeouts() -> None:
    async def main(net: HandshakeNet) -> None:
        agent = Agent(net)
        outcome = file(net, Port())  # the default of this net
        request, descriptor = await agent.take()
        assert request.timeout_ms == 150
        await fails(outcome, errno.ETIMEDOUT, NAME)
        await fails(hs.tls_server_hello_x509(net, Port(), timeout_ms=50), errno.ETIMEDOUT, "the client")
        agent.close()
        descriptor.close()

    run(main, {"default_timeout_ms": 150})


def test_requests_are_bounded() -> None:
    async def main(net: HandshakeNet) -> None:
        agent = Agent(net)
        waiting = [file(net, Port(), timeout_ms=300) for _ in range(3)]
        await agent.ready()
        await fails(file(net, Port()), errno.EAGAIN, "too many handshakes")
        for outcome in waiting:
            await fails(outcome, errno.ETIMEDOUT)
        agent.close()

    run(main, {"max_pending": 3})


def test_close_fails_what_is_under_way() -> None:
    async def main(net: HandshakeNet) -> None:
        agent = Agent(net)
        outcome = file(net, Port())
        await agent.ready()
        net.close()
        await fails(outcome, errno.ECANCELED)
        await fails(file(net, Port()), errno.ESRCH)
        agent.close()

    run(main)


@pytest.mark.parametrize(
    "garbage",
    [b"x", os.urandom(300), bytes(9000), netlink.build(netlink.Ready()), netlink.build(netlink.Request(3))],
    ids=["short", "random", "too long", "READY", "a kernel's"],
)
def test_garbage_on_the_bus(garbage: bytes) -> None:
    async def main(net: HandshakeNet) -> None:
        good, bad = Agent(net), Agent(net)
        outcome = file(net, Port())
        request, descriptor = await good.take()
        bad.sock.send(garbage)
        await bad.ready()
        assert await asyncio.get_running_loop().sock_recv(bad.sock, 10) == b""
        assert net.agents == 1
        good.send(netlink.Done(0, request.sockfd))
        assert await outcome == HandshakeResult()
        for thing in (good, bad, descriptor):
            thing.close()

    run(main)


@pytest.mark.parametrize(
    "garbage",
    [b"x", b"\xff" * 100, bytes(70000), calls.build(Record(Op.REPLY, seq=1))],
    ids=["short", "ones", "too long", "a reply"],
)
def test_garbage_on_the_descriptor(garbage: bytes) -> None:
    async def main(net: HandshakeNet) -> None:
        agent = Agent(net)
        outcome = file(net, Port())
        _, descriptor = await agent.take()
        descriptor.sock.send(garbage)
        await fails(outcome, errno.ECONNRESET)
        assert net.agents == 1
        agent.close()
        descriptor.close()

    run(main)


def test_descriptors_from_an_agent_are_closed() -> None:
    async def main(net: HandshakeNet) -> None:
        agent = Agent(net)
        reader, writer = os.pipe()
        socket.send_fds(agent.sock, [netlink.build(netlink.Accept(), seq=1)], [writer])
        os.close(writer)
        await agent.read()
        assert os.read(reader, 1) == b""  # nobody holds the other end any more
        os.close(reader)
        agent.close()

    run(main)


def test_agent_that_does_not_read_is_not_waited_for() -> None:
    async def main(net: HandshakeNet) -> None:
        agent, port = Agent(net), Port()
        outcome = file(net, port)
        _, descriptor = await agent.take()
        assert port.reader is not None
        for _ in range(100):
            if port.reader is not None:
                port.reader(2, bytes(calls.MAX_PAYLOAD))
        await fails(outcome, errno.ENOBUFS)
        agent.close()
        descriptor.close()

    run(main)


def test_helpers_ask_for_the_right_thing() -> None:
    async def main(net: HandshakeNet) -> None:
        agent = Agent(net)
        for start, expected in (
            (hs.tls_client_hello_anon(net, Port(), NAME), (MessageType.CLIENTHELLO, AuthMode.UNAUTH, NAME)),
            (hs.tls_client_hello_x509(net, Port(), NAME), (MessageType.CLIENTHELLO, AuthMode.X509, NAME)),
            (hs.tls_server_hello_x509(net, Port()), (MessageType.SERVERHELLO, AuthMode.X509, "")),
        ):
            outcome = asyncio.ensure_future(start)
            request, descriptor = await agent.take()
            assert (request.message_type, request.auth_mode, request.peername) == expected
            agent.send(netlink.Done(0, request.sockfd))
            await outcome
            descriptor.close()
        agent.close()

    run(main)


def test_every_sentence_names_peer_and_is_one_line() -> None:
    for code in errno.errorcode:
        for message_type, peer in ((1, NAME), (2, "the client")):
            text = str(handshake_error(code, NAME, message_type))
            assert peer in text and "\n" not in text and "{" not in text
    for alert in range(256):
        close = ConnectionClose(0x100 + alert, 0, b"\x1b[2Jwords\n")
        error = peer_alert_error(close, NAME)
        assert NAME in str(error) and str(error).isprintable()
        assert error.errno


@pytest.mark.parametrize("name", ["h" * 256, "a\0b.test", "a\nb", "ü" * 300, "\udcff.test"])
def test_names_that_cannot_be_sent(name: str) -> None:
    """They are refused before an agent hears of them, which would hang up on such a request."""

    async def main(net: HandshakeNet) -> None:
        agent = Agent(net)
        await fails(file(net, Port(), peername=name), errno.EINVAL)
        await fails(file(net, Port(), timeout_ms=1 << 40), errno.EINVAL, NAME)
        assert net.agents == 1
        agent.close()

    run(main)


def test_international_name() -> None:
    async def main(net: HandshakeNet) -> None:
        agent = Agent(net)
        outcome = file(net, Port(), peername="bücher.example")
        request, descriptor = await agent.take()
        assert request.peername == "xn--bcher-kva.example"
        agent.send(netlink.Done(errno.EACCES, request.sockfd))
        await fails(outcome, errno.EACCES, "xn--bcher-kva.example")
        descriptor.close()
        agent.close()

    run(main)
