"""The kernel's part of net/handshake: consumers file requests here, agents take them.

A request is announced to all agents (READY); the first ACCEPT gets it together with a descriptor, on which
the agent makes the calls of a QUIC socket; DONE ends it. Nothing here knows what TLS is.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import itertools
import logging
import os
import socket
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, Protocol

from quicfs.transport.handshake_errors import HandshakeError, handshake_error
from quicfs.transport.uapi import (
    AuthMode,
    Config,
    ConnectionClose,
    CryptoLevel,
    HandlerClass,
    MessageType,
    SockOpt,
)
from quicfs.transport.wire import descriptor as calls
from quicfs.transport.wire import netlink
from quicfs.transport.wire.channel import Channel
from quicfs.transport.wire.descriptor import Op, Record

__all__ = [
    "HandshakeError",
    "HandshakeNet",
    "HandshakePort",
    "HandshakeRequest",
    "HandshakeResult",
    "tls_client_hello_anon",
    "tls_client_hello_x509",
    "tls_server_hello_x509",
]

_log = logging.getLogger("quicfs.transport")

DEFAULT_TIMEOUT_MS: Final = 10_000
MAX_PENDING: Final = 1024
"""Handshakes at one time, waiting or under way."""
MAX_AGENTS: Final = 64

_AFTERWARDS: Final = frozenset({SockOpt.SESSION_TICKET, SockOpt.CONNECTION_CLOSE})
"""What an agent that collects session tickets may set after DONE."""

CryptoReader = Callable[[int, bytes], None]


class HandshakePort(Protocol):
    """The connection, as its handshake sees it. `optname` is uapi.SockOpt, `level` uapi.CryptoLevel."""

    def getsockopt(self, optname: int) -> bytes:
        """ALPN: what is asked for, comma separated. TRANSPORT_PARAM_EXT: our encoded parameters. CONFIG:
        uapi.Config. SESSION_TICKET: a client's ticket to resume with (wire.ticket), a server's 64 secret bytes to
        derive ticket keys from; empty for none. Raises OSError."""

    def setsockopt(self, optname: int, value: bytes) -> None:
        """TRANSPORT_PARAM_EXT: the peer's encoded parameters. ALPN: the chosen protocol. CRYPTO_SECRET:
        uapi.CryptoSecret; level EARLY with cipher type 0 says that the server refused the early data, and comes
        before its parameters. SESSION_TICKET: a new ticket, also after `handshake_done`. CONNECTION_CLOSE: why
        it failed. CHANNEL_BINDING, PEER_CERTIFICATE: what TLS has to say of the peer, before `handshake_done`.
        Raises OSError, which fails the handshake."""

    def send_crypto(self, level: int, data: bytes) -> None:
        """Send CRYPTO bytes after those sent at this level before. Raises OSError."""

    def attach_crypto_reader(self, callback: CryptoReader | None) -> None:
        """From now on hand CRYPTO bytes in order to `callback`, starting with those that came before."""

    def handshake_done(self) -> None:
        """TLS is complete: called once, when an agent has reported success."""

    def tls_failed(self) -> None:
        """After `handshake_done` the peer broke a rule of TLS: the connection ends as CONNECTION_CLOSE, set before,
        says."""


@dataclass(frozen=True, slots=True)
class HandshakeRequest:
    """What a consumer asks for. `timeout_ms` 0: the default of the net. `peername`: the name that the
    server's certificate must hold, and what errors call the peer."""

    message_type: int = MessageType.CLIENTHELLO
    timeout_ms: int = 0
    auth_mode: int = AuthMode.UNAUTH
    peername: str = ""
    keyring: int = netlink.KEY_SERIAL_NONE
    certificates: tuple[netlink.Certificate, ...] = ()
    peer_identities: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class HandshakeResult:
    status: int = 0
    remote_auth: tuple[int, ...] = ()


class _Pending:
    """One request, from filing to its end."""

    def __init__(self, port: HandshakePort, request: HandshakeRequest) -> None:
        self.port = port
        self.request = request
        self.agent: _Agent | None = None  # who took it
        self.number = -1  # the sockfd that the agent was told
        self.descriptor: _Descriptor | None = None
        self.collects_s = 0  # how long the descriptor stays open for session tickets once TLS is done
        self.outcome: asyncio.Future[HandshakeResult] = asyncio.get_running_loop().create_future()

    @property
    def reason(self) -> ConnectionClose | None:
        return self.descriptor.reason if self.descriptor is not None else None

    def finish(self, status: int, remote_auth: tuple[int, ...] = ()) -> None:
        if status == 0 and not self.outcome.done():
            if self.request.message_type == MessageType.CLIENTHELLO:
                self.collects_s = _wants_tickets(self.port)
            self.outcome.set_result(HandshakeResult(0, remote_auth))
        elif status:
            self.fail(_error(status, self.request, self.reason))

    def fail(self, error: Exception) -> None:
        if not self.outcome.done():
            self.outcome.set_exception(error)

    def release(self) -> None:
        if not self.outcome.cancel() and not self.outcome.cancelled():
            self.outcome.exception()  # may have come too late for anybody to see
        if self.descriptor is not None:
            self.descriptor.close()


class _Descriptor:
    """The kernel's end of an agent's descriptor: carries the agent's calls out on the port."""

    def __init__(self, sock: socket.socket, pending: _Pending) -> None:
        self.reason: ConnectionClose | None = None
        self._pending = pending
        self._port = pending.port
        self._channel = Channel(sock, self._on_message, self._on_close, max_message=calls.MAX_MESSAGE)

    def attach(self) -> None:
        """Let CRYPTO bytes flow to the agent, once it has been told of the descriptor."""
        self._port.attach_crypto_reader(self._on_crypto)

    def close(self) -> None:
        if not self._channel.closed:
            self._channel.close()
        self._port.attach_crypto_reader(None)

    def _on_crypto(self, level: int, data: bytes) -> None:
        try:
            for message in calls.messages(calls.build_crypto(Op.RECVMSG, level, data)):
                self._channel.send(message)
        except OSError as error:
            self._finish(error.errno or errno.EIO)

    def _finish(self, status: int) -> None:
        """The agent has closed its end, which is no failure if it had said DONE before."""
        if self._pending.agent is not None:
            self._pending.agent.read_now()
        self._pending.finish(status)

    def _on_message(self, data: bytes, fds: list[int]) -> None:
        for fd in fds:
            os.close(fd)
        batch = calls.parse(data)
        if any(call.op not in calls.CALLS for call in batch):
            raise ValueError("something that is not a call")
        replies = [self._carry_out(call) for call in batch]
        if not self._channel.closed:  # the port may have given up in a call
            with contextlib.suppress(OSError):  # a closed channel says so to `_on_close`
                for message in calls.messages(replies):
                    self._channel.send(message)

    def _carry_out(self, call: Record) -> bytes:
        """The call's reply."""
        code, value = 0, b""
        try:
            value = self._call(call)
        except OSError as error:
            code = error.errno or errno.EIO
        except Exception as error:  # a mistake in the port: show it where the handshake was asked for
            self._pending.fail(error)
            code = errno.EIO
        return calls.build(Record(Op.REPLY, seq=call.seq, errno=code, payload=value))

    def _call(self, call: Record) -> bytes:
        if self._pending.outcome.done() and not (
            self._pending.collects_s and call.op is Op.SETSOCKOPT and call.optname in _AFTERWARDS
        ):
            raise OSError(errno.ENOTCONN, "the handshake is over")
        match call.op:
            case Op.GETSOCKOPT if call.optname in calls.GETTABLE:
                return self._port.getsockopt(call.optname)
            case Op.SETSOCKOPT if call.optname == SockOpt.CONNECTION_CLOSE:
                self._close_reason(call.payload)
            case Op.SETSOCKOPT if call.optname in calls.SETTABLE:
                self._port.setsockopt(call.optname, call.payload)
            case Op.SENDMSG:
                self._port.send_crypto(CryptoLevel(call.level), call.payload)
            case _:
                raise OSError(errno.ENOPROTOOPT, "no such option for a handshake")
        return b""

    def _close_reason(self, value: bytes) -> None:
        try:
            self.reason = ConnectionClose.unpack(value)
        except ValueError:
            raise OSError(errno.EINVAL, "malformed CONNECTION_CLOSE") from None
        self._port.setsockopt(SockOpt.CONNECTION_CLOSE, value)
        if self._pending.outcome.done():
            self._port.tls_failed()

    def _on_close(self, error: Exception | None) -> None:
        if error is not None:
            _log.warning("an agent broke the descriptor's protocol: %s", error)
        self._finish(errno.ECONNRESET)
        if self._pending.collects_s:
            self._port.attach_crypto_reader(None)


class _Agent:
    """One agent's bus."""

    def __init__(self, sock: socket.socket, net: HandshakeNet) -> None:
        self._net = net
        self.taken: dict[int, _Pending] = {}  # by the sockfd that the agent was told
        self._channel = Channel(sock, self._on_message, self._on_close, max_message=netlink.MAX_MESSAGE)

    def send(self, message: netlink.Message, *, seq: int = 0, fds: tuple[int, ...] = ()) -> bool:
        """False when the agent is gone, or does not read; it is dropped then."""
        try:
            self._channel.send(netlink.build(message, seq=seq), fds)
        except OSError as error:
            self.close()
            self._on_close(error)
            return False
        return True

    def read_now(self) -> None:
        self._channel.read_ready()

    def close(self) -> None:
        self._channel.close()

    def _on_message(self, data: bytes, fds: list[int]) -> None:
        for fd in fds:
            os.close(fd)
        header, message = netlink.parse(data)
        match message:
            case netlink.Accept(handler_class):
                self._net.accept(self, handler_class, header.seq)
            case netlink.Done():
                # A DONE for a request that was cancelled meanwhile finds nothing.
                pending = self.taken.pop(message.sockfd, None)
                if pending is not None:
                    pending.finish(message.status, message.remote_auth)
            case _:
                raise ValueError(f"{type(message).__name__} is not for a kernel")

    def _on_close(self, error: Exception | None) -> None:
        if error is not None:
            _log.warning("dropped a handshake agent: %s", error)
        self._net.agent_gone(self)


def _wants_tickets(port: HandshakePort) -> int:
    """For how many seconds after the handshake."""
    try:
        return Config.unpack(port.getsockopt(SockOpt.CONFIG)).receive_session_ticket
    except (OSError, ValueError):
        return 0  # it has no such option


def _error(status: int, request: HandshakeRequest, reason: ConnectionClose | None = None) -> HandshakeError:
    return handshake_error(status, request.peername, request.message_type, reason)


def _checked(request: HandshakeRequest) -> HandshakeRequest:
    """The request as it can be said to an agent. Raises HandshakeError (EINVAL)."""
    name = request.peername
    try:
        if not name.isascii():
            request = replace(request, peername=name.encode("idna").decode())
        if not name.isprintable() or len(request.peername) > netlink.MAX_PEERNAME:
            raise ValueError
        netlink.build(_answer(request, 0))
    except ValueError:  # UnicodeError is one
        raise handshake_error(errno.EINVAL, name[:64], request.message_type) from None
    return request


def _answer(request: HandshakeRequest, number: int) -> netlink.Request:
    return netlink.Request(
        number,
        request.message_type,
        request.peername,
        request.timeout_ms,
        request.keyring,
        request.auth_mode,
        request.peer_identities,
        request.certificates,
    )


class HandshakeNet:
    """The agents and the requests of one process.

    `agent_path`: socket of an agent that runs already; connected to when a request finds none. `revive`:
    called (once at a time) when there is still none; it should `attach` one, and what it raises reaches the
    consumers. Belongs to one event loop.
    """

    def __init__(
        self,
        agent_path: str | Path | None = None,
        revive: Callable[[], Awaitable[None]] | None = None,
        *,
        default_timeout_ms: int = DEFAULT_TIMEOUT_MS,
        max_pending: int = MAX_PENDING,
    ) -> None:
        self._agent_path = agent_path
        self._revive = revive
        self._reviving: asyncio.Future[None] | None = None
        self._default_timeout_ms = default_timeout_ms
        self._max_pending = max_pending
        self._agents: dict[_Agent, None] = {}
        self._requests: set[_Pending] = set()
        self._queue: OrderedDict[_Pending, None] = OrderedDict()  # those that nobody took, oldest first
        self._collecting: dict[HandshakePort, tuple[_Pending, asyncio.TimerHandle]] = {}
        self._numbers = itertools.cycle(range(3, 0x7FFFFFFF))
        self._closed = False

    @property
    def agents(self) -> int:
        """How many agents are attached."""
        return len(self._agents)

    def attach(self, sock: socket.socket) -> None:
        """Add the agent at the other end of `sock` (AF_UNIX SOCK_SEQPACKET, connected); takes it over."""
        if self._closed or len(self._agents) >= MAX_AGENTS:
            sock.close()
            raise OSError(errno.EUSERS, "no more handshake agents are taken")
        netlink.prepare()
        agent = _Agent(sock, self)
        self._agents[agent] = None
        for _ in self._queue:
            agent.send(netlink.Ready())

    async def handshake(self, port: HandshakePort, request: HandshakeRequest) -> HandshakeResult:
        """Have an agent do the handshake on `port`. Raises HandshakeError; cancelling is allowed.

        If the port's CONFIG asks for session tickets, the agent may still set SESSION_TICKET for as many seconds
        after the return, unless `release` is called.
        """
        if self._closed:
            raise _error(errno.ESRCH, request)
        if len(self._requests) >= self._max_pending:
            raise _error(errno.EAGAIN, request)
        request = _checked(replace(request, timeout_ms=request.timeout_ms or self._default_timeout_ms))
        pending = _Pending(port, request)
        self._requests.add(pending)
        try:
            async with asyncio.timeout(request.timeout_ms / 1000):
                await self._announce(pending)
                result = await pending.outcome
            port.handshake_done()
            self._collect(pending)
            return result
        except TimeoutError:
            raise _error(errno.ETIMEDOUT, request, pending.reason) from None
        finally:
            self._forget(pending)

    def _collect(self, pending: _Pending) -> None:
        if pending.collects_s and len(self._collecting) < self._max_pending:
            loop = asyncio.get_running_loop()
            timer = loop.call_later(pending.collects_s, self.release, pending.port)
            self._collecting[pending.port] = pending, timer

    def release(self, port: HandshakePort) -> None:
        """The port is gone, or wants no more session tickets. Twice is allowed."""
        if port in self._collecting:
            pending, timer = self._collecting.pop(port)
            timer.cancel()
            pending.release()

    def close(self) -> None:
        """Drop the agents and fail what is under way. Twice is allowed."""
        self._closed = True
        for port in list(self._collecting):
            self.release(port)
        for agent in list(self._agents):
            agent.close()
        self._agents.clear()
        if self._reviving is not None:
            self._reviving.cancel()
        for pending in list(self._requests):
            pending.finish(errno.ECANCELED)

    def accept(self, agent: _Agent, handler_class: int, seq: int) -> None:
        """An agent asks for a request: the oldest one that nobody took, or EAGAIN."""
        if handler_class != HandlerClass.TLSHD or not self._queue:
            agent.send(netlink.Error(errno.EAGAIN, seq), seq=seq)
            return
        pending, _ = self._queue.popitem(last=False)
        try:
            ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        except OSError as error:  # no descriptors left
            pending.finish(error.errno or errno.EMFILE)
            agent.send(netlink.Error(error.errno or errno.EMFILE, seq), seq=seq)
            return
        with theirs:
            pending.number = next(self._numbers)
            pending.agent = agent
            pending.descriptor = _Descriptor(ours, pending)
            agent.taken[pending.number] = pending
            if agent.send(_answer(pending.request, pending.number), seq=seq, fds=(theirs.fileno(),)):
                pending.descriptor.attach()

    def agent_gone(self, agent: _Agent) -> None:
        self._agents.pop(agent, None)
        for pending in agent.taken.values():
            pending.finish(errno.ECONNRESET)
        agent.taken.clear()
        if not self._agents:
            for pending in list(self._queue):
                pending.finish(errno.ESRCH)

    async def _announce(self, pending: _Pending) -> None:
        """Tell every agent, after finding one if there is none, and queue the request."""
        for _ in range(2):  # an agent that died unnoticed is found out by the first round
            if not self._agents:
                await self._find_agent(pending.request)
            heard = [agent.send(netlink.Ready()) for agent in list(self._agents)]
            if any(heard):
                self._queue[pending] = None
                return
        raise _error(errno.ESRCH, pending.request)

    async def _find_agent(self, request: HandshakeRequest) -> None:
        detail = ""
        if self._agent_path is not None:
            try:
                self._connect(self._agent_path)
            except OSError as error:
                detail = f"no TLS handshake agent answers on {self._agent_path} ({error.strerror})"
        if not self._agents and self._revive is not None:
            if self._reviving is None:
                self._reviving = asyncio.ensure_future(self._revive())
                self._reviving.add_done_callback(self._revived)
            await asyncio.shield(self._reviving)
        if not self._agents:
            raise handshake_error(errno.ESRCH, request.peername, request.message_type, why=detail)

    def _revived(self, future: asyncio.Future[None]) -> None:
        self._reviving = None
        if not future.cancelled():
            future.exception()  # whoever still waits has got it

    def _connect(self, path: str | Path) -> None:
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            sock.setblocking(False)  # a full backlog is EAGAIN then, not a wait
            sock.connect(os.fspath(path))
        except OSError:
            sock.close()
            raise
        self.attach(sock)

    def _forget(self, pending: _Pending) -> None:
        self._requests.discard(pending)
        self._queue.pop(pending, None)
        if pending.agent is not None:
            pending.agent.taken.pop(pending.number, None)
        if pending.port not in self._collecting:
            pending.release()


async def tls_client_hello_anon(
    net: HandshakeNet, port: HandshakePort, peername: str, *, timeout_ms: int = 0
) -> HandshakeResult:
    """Client handshake without a certificate of our own; the server's is checked against `peername`."""
    request = HandshakeRequest(MessageType.CLIENTHELLO, timeout_ms, AuthMode.UNAUTH, peername)
    return await net.handshake(port, request)


async def tls_client_hello_x509(
    net: HandshakeNet, port: HandshakePort, peername: str, *, timeout_ms: int = 0
) -> HandshakeResult:
    """Client handshake with the agent's client certificate, for servers that want one."""
    request = HandshakeRequest(MessageType.CLIENTHELLO, timeout_ms, AuthMode.X509, peername)
    return await net.handshake(port, request)


async def tls_server_hello_x509(
    net: HandshakeNet, port: HandshakePort, *, timeout_ms: int = 0
) -> HandshakeResult:
    """Server handshake with the agent's server certificate."""
    return await net.handshake(port, HandshakeRequest(MessageType.SERVERHELLO, timeout_ms, AuthMode.X509))
