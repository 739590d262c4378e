"""The agent: takes handshake requests from its buses, runs TLS on them, reports."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import os
import signal
import socket
import stat
from collections.abc import Callable
from pathlib import Path

from quicfs.handshake_agent.bus import Bus, ModelBus
from quicfs.handshake_agent.config import AgentConfig
from quicfs.handshake_agent.descriptor import QuicDescriptor, open_descriptor
from quicfs.handshake_agent.failures import AgentError, Failure
from quicfs.handshake_agent.gnutls_library import load as load_gnutls
from quicfs.handshake_agent.resumption import TicketCollector
from quicfs.handshake_agent.tls_session import Handshaker, failure_of
from quicfs.transport.uapi import MessageType
from quicfs.transport.wire import netlink
from quicfs.transport.wire.netlink import Request

_log = logging.getLogger("quicfs.handshake_agent")

MAX_BUSES = 256
MAX_COLLECTING = 256
"""Handshakes that are done and whose session tickets are still awaited; one more gets none."""
MAX_WAITING = 65536
"""READYs of one consumer that are remembered while all places are taken."""
_LISTEN_BACKLOG = 64
_ACCEPT_PAUSE_S = 1.0
_SOCKET_MODE = 0o660
"""Whoever can connect may use our certificates: the owner and the group of the socket."""


class Agent:
    """Serves any number of buses in one event loop, at most `config.max_handshakes` handshakes at a time.

    Raises AgentError when GnuTLS or a file that the configuration names cannot be used.
    """

    def __init__(self, config: AgentConfig) -> None:
        self._config = config
        load_gnutls()
        netlink.prepare()
        self._handshaker = Handshaker(config)
        self._handshaker.preload()
        self._buses: dict[Bus, int] = {}  # with the number of ACCEPTs that were not answered
        self._waiting: dict[Bus, int] = {}  # with the number of READYs that were not followed up
        self._tasks: set[asyncio.Task[None]] = set()
        self._collecting: set[asyncio.Task[None]] = set()
        self.idle = asyncio.Event()
        """Set while no bus is attached."""
        self.idle.set()

    def attach(self, sock: socket.socket) -> None:
        """Serve the consumer at the other end of `sock` (SOCK_SEQPACKET); takes it over."""
        if len(self._buses) >= MAX_BUSES:
            _log.warning("more than %d consumers: the newest was sent away", MAX_BUSES)
            sock.close()
            return
        self._buses[ModelBus(sock, self)] = 0
        self.idle.clear()

    async def close(self) -> None:
        """Drop all buses; handshakes under way are broken off."""
        for bus in list(self._buses):
            bus.close()
            self.on_bus_closed(bus)
        tasks = self._tasks | self._collecting
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def on_ready(self, bus: Bus) -> None:
        self._waiting[bus] = min(self._waiting.get(bus, 0) + 1, MAX_WAITING)
        self._accept_more()

    def on_request(self, bus: Bus, request: Request, fd: int) -> None:
        if not self._buses[bus]:
            os.close(fd)
            raise ValueError("a request that was not asked for")
        self._buses[bus] -= 1
        task = asyncio.create_task(self._serve(bus, request, fd))
        self._tasks.add(task)
        task.add_done_callback(self._finished)
        self._accept_more()

    def on_nothing(self, bus: Bus) -> None:
        if self._buses[bus]:
            self._buses[bus] -= 1
        self._waiting.pop(bus, None)
        self._accept_more()

    def on_bus_closed(self, bus: Bus) -> None:
        self._buses.pop(bus, None)
        self._waiting.pop(bus, None)
        if not self._buses:
            self.idle.set()
        self._accept_more()

    def _accept_more(self) -> None:
        """One ACCEPT for each READY as long as there are free places, from all buses in turn."""
        while self._waiting and len(self._tasks) + sum(self._buses.values()) < self._config.max_handshakes:
            bus = next(iter(self._waiting))
            readies = self._waiting.pop(bus)
            if readies > 1:
                self._waiting[bus] = readies - 1
            self._buses[bus] += 1
            bus.accept()

    def _finished(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        self._accept_more()

    async def _serve(self, bus: Bus, request: Request, fd: int) -> None:
        status = errno.ECANCELED
        descriptor = None
        collector: TicketCollector | None = None
        limit = request.timeout_ms / 1000 if request.timeout_ms else self._config.timeout_s
        try:
            descriptor = open_descriptor(fd)
            async with asyncio.timeout(limit):
                collector = await self._handshaker.run(request, descriptor)
            status = 0
        except Exception as error:
            status = failure_of(error)
            self._log_failure(request, error)
        finally:
            bus.done(request, status)
            if descriptor is not None:
                self._finish(descriptor, collector)

    def _finish(self, descriptor: QuicDescriptor, collector: TicketCollector | None) -> None:
        """Tickets come after the handshake is done; waiting for them takes nobody's place."""
        if collector is None or len(self._collecting) >= MAX_COLLECTING:
            if collector is not None:
                collector.close()
            descriptor.close()
            return
        task = asyncio.create_task(collector.run())
        self._collecting.add(task)

        def collected(task: asyncio.Task[None]) -> None:
            self._collecting.discard(task)
            collector.close()
            descriptor.close()
            if not task.cancelled() and (error := task.exception()) is not None:
                _log.error("taking a session ticket failed", exc_info=error)

        task.add_done_callback(collected)

    def _log_failure(self, request: Request, error: Exception) -> None:
        if request.message_type == MessageType.SERVERHELLO:
            what = "handshake with a client"
        else:
            what = f"handshake with {request.peername}"
        if isinstance(error, (Failure, OSError)):
            _log.info("%s failed: %s", what, str(error) or "no answer in time")
        else:
            _log.error("%s failed", what, exc_info=error)


def run_agent(
    config: AgentConfig,
    *,
    socket_path: Path | str | None = None,
    bus_fd: int | None = None,
    on_ready: Callable[[], None] = lambda: None,
) -> int:
    """Serve until SIGTERM or SIGINT; returns the exit status 0. `on_ready` is called once requests are taken.

    With `bus_fd`, a connected SOCK_SEQPACKET that was inherited, for one consumer, until that closes it.
    Else on the socket `socket_path` or, without it, `config.socket`. Raises AgentError: a sentence for the
    user.
    """
    agent = Agent(config)
    asyncio.run(_main(agent, Path(socket_path or config.socket), bus_fd, on_ready))
    return 0


async def _main(agent: Agent, path: Path, bus_fd: int | None, on_ready: Callable[[], None]) -> None:
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    try:
        if bus_fd is not None:
            agent.attach(_inherited(bus_fd))
            on_ready()
            await _either(stop, agent.idle)
        else:
            with _listen(path) as listener:
                loop.add_reader(listener, _accept, listener, agent)
                try:
                    _log.info("waiting for handshakes on %s", path)
                    on_ready()
                    await stop.wait()
                finally:
                    loop.remove_reader(listener)
                    _unlink_socket(path)
    finally:
        await agent.close()


async def _either(*events: asyncio.Event) -> None:
    waits = [asyncio.ensure_future(event.wait()) for event in events]
    try:
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for wait in waits:
            wait.cancel()


def _inherited(fd: int) -> socket.socket:
    try:
        sock = socket.socket(fileno=fd)
    except (OSError, ValueError) as error:
        raise AgentError(f"file descriptor {fd} is no socket: {error}") from None
    if sock.family != socket.AF_UNIX or sock.type != socket.SOCK_SEQPACKET:
        raise AgentError(f"file descriptor {fd} is no AF_UNIX SOCK_SEQPACKET socket")
    sock.set_inheritable(False)
    return sock


def _accept(listener: socket.socket, agent: Agent) -> None:
    try:
        sock, _ = listener.accept()
    except BlockingIOError:
        return
    except OSError as error:
        _log.warning("cannot take a connection: %s", error.strerror)
        loop = asyncio.get_running_loop()
        loop.remove_reader(listener)  # it stays readable; others may give descriptors back meanwhile
        loop.call_later(_ACCEPT_PAUSE_S, _resume, listener, agent)
        return
    agent.attach(sock)


def _resume(listener: socket.socket, agent: Agent) -> None:
    if listener.fileno() >= 0:
        asyncio.get_running_loop().add_reader(listener, _accept, listener, agent)


def _listen(path: Path) -> socket.socket:
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    try:
        listener.setblocking(False)
        path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        _remove_stale(path)
        mask = os.umask(0o777 & ~_SOCKET_MODE)
        try:
            listener.bind(os.fspath(path))
        finally:
            os.umask(mask)
        listener.listen(_LISTEN_BACKLOG)
    except OSError as error:
        listener.close()
        reason = error.strerror or str(error)
        raise AgentError(f"cannot listen on {path}: {reason}; choose another with --socket") from None
    return listener


def _remove_stale(path: Path) -> None:
    """A socket that nobody listens on is what a killed agent left behind."""
    try:
        if not stat.S_ISSOCK(path.lstat().st_mode):
            raise AgentError(f"{path} exists and is no socket; choose another with --socket")
    except FileNotFoundError:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as probe:
        try:
            probe.connect(os.fspath(path))
        except ConnectionRefusedError:
            path.unlink()
            return
    raise AgentError(f"another agent listens on {path}; stop it, or choose another with --socket")


def _unlink_socket(path: Path) -> None:
    with contextlib.suppress(FileNotFoundError):
        path.unlink()
