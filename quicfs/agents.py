"""Who does the TLS handshakes for us: an agent that runs already, or one of our own.

Our own is a separate process that gets its configuration on standard input and one end of a socket pair;
certificates and keys are read by it and by nobody else. It ends when the other end of the pair does, so it
never outlives us, however we end.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from quicfs.errors import UserError
from quicfs.handshake_agent.config import DEFAULT_SOCKET
from quicfs.options import AgentOptions
from quicfs.places import existing_certificate
from quicfs.sessions import SessionCache
from quicfs.transport.handshake import HandshakeNet
from quicfs.transport.uapi import AuthMode
from quicfs.transport.wire import netlink

__all__ = [
    "ClientNet",
    "PrivateAgent",
    "client_configuration",
    "client_net",
    "server_configuration",
    "server_net",
]

_log = logging.getLogger("quicfs.agents")

_START_S: Final = 20.0
_STOP_S: Final = 2.0


def server_configuration(cert: Path, key: Path, client_ca: Path | None = None) -> str:
    """The TOML of an agent for a server; with `client_ca`, clients must have a certificate signed by it."""
    lines = _table("server", certificate=cert, private_key=key, truststore=client_ca)
    if client_ca is not None:
        lines.append('client_certificates = "required"')
    return "\n".join(lines) + "\n"


def client_configuration(ca: Path | None, cert: Path | None = None, key: Path | None = None) -> str:
    return "\n".join(_table("client", certificate=cert, private_key=key, truststore=ca)) + "\n"


def _table(role: str, **files: Path | None) -> list[str]:
    # JSON's strings are TOML's, as long as nothing is written as a surrogate pair.
    values = [
        f"x509.{name} = {json.dumps(str(path.absolute()), ensure_ascii=False)}"
        for name, path in files.items()
        if path is not None
    ]
    return [f"[authenticate.{role}]", *values]


@dataclass(frozen=True, slots=True)
class ClientNet:
    """`auth_modes` to try: with a certificate of our own, without, or what the agent has."""

    net: HandshakeNet
    auth_modes: tuple[AuthMode, ...]
    sessions: SessionCache


@asynccontextmanager
async def client_net(options: AgentOptions) -> AsyncIterator[ClientNet]:
    """For connecting. Raises UserError when there is no agent and none can be started."""
    own = options.cert is not None or options.ca is not None
    path = options.socket or (None if own else _default_agent())
    modes: tuple[AuthMode, ...] = (AuthMode.X509, AuthMode.UNAUTH)
    if path is None:
        modes = (AuthMode.UNAUTH if options.cert is None else AuthMode.X509,)
    configuration = client_configuration(options.ca, options.cert, options.key)
    async with _net(path, configuration) as net:
        yield ClientNet(net, modes, SessionCache(options))


@asynccontextmanager
async def server_net(options: AgentOptions) -> AsyncIterator[HandshakeNet]:
    """For being connected to, likewise."""
    path, cert, key = options.socket, options.cert, options.key
    if path is None and (cert is None or key is None):
        path = _default_agent()
        files = existing_certificate()
        if path is None and files is None:
            raise UserError(
                "a server needs a certificate: make one with `quicfs cert init`, or give --cert and --key"
            )
        if files is not None:
            cert, key = files.cert, files.key
    configuration = "" if cert is None or key is None else server_configuration(cert, key, options.ca)
    async with _net(path, configuration) as net:
        yield net


@asynccontextmanager
async def _net(path: Path | None, configuration: str) -> AsyncIterator[HandshakeNet]:
    """The agent that listens on `path`, or with None one of our own."""
    if path is not None:
        net = HandshakeNet(path)
        net.attach(_connect(path))
        try:
            yield net
        finally:
            net.close()
        return
    agent = PrivateAgent(configuration)

    async def revive() -> None:
        _log.warning("the agent for TLS handshakes ended; starting another")
        net.attach(await agent.start())

    net = HandshakeNet(None, revive)
    try:
        net.attach(await agent.start())
        yield net
    finally:
        net.close()
        await agent.stop()


def _default_agent() -> Path | None:
    """The agent of this machine, if one runs and lets us in."""
    try:
        _connect(DEFAULT_SOCKET).close()
    except UserError:
        return None
    return DEFAULT_SOCKET


def _connect(path: Path) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    try:
        sock.connect(os.fspath(path))
    except OSError as error:
        sock.close()
        reason = error.strerror or str(error)
        raise UserError(
            f"no agent answers on {path} ({reason}): start one with `quicfs agent --socket {path}`, "
            "or leave --agent out"
        ) from None
    return sock


class PrivateAgent:
    """The process. `start` and `stop` may be called again; it is started anew when it has ended."""

    def __init__(self, configuration: str) -> None:
        self._configuration = configuration
        self._process: asyncio.subprocess.Process | None = None
        self._listener: asyncio.Task[None] | None = None
        self._last_words = ""

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process is not None else None

    async def start(self) -> socket.socket:
        """Our end of its bus. Raises UserError with what the agent said when it cannot work."""
        await self.stop()
        if os.environ.get(
            "SSLKEYLOGFILE"
        ):  # the agent inherits it; what it says about it is seen with -v only
            _log.warning("the TLS secrets are written to %s", os.environ["SSLKEYLOGFILE"])
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ready, tell_ready = os.pipe()
        try:
            with theirs:
                await self._spawn(theirs.fileno(), tell_ready)
            os.close(tell_ready)
            tell_ready = -1
            if not await _readable(ready, _START_S) or not os.read(ready, 1):
                await self.stop()
                raise UserError(self._last_words or "the agent for TLS handshakes did not start")
        except BaseException:
            ours.close()
            raise
        finally:
            os.close(ready)
            if tell_ready >= 0:
                os.close(tell_ready)
        return ours

    async def stop(self) -> None:
        """It ends by itself when its bus is closed; after a while it is made to."""
        process, self._process = self._process, None
        if process is None:
            return
        try:
            async with asyncio.timeout(_STOP_S):
                await process.wait()
        except TimeoutError:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()
        if self._listener is not None:
            await self._listener

    async def _spawn(self, bus: int, ready: int) -> None:
        command = [sys.executable, "-m", "quicfs.handshake_agent", "--config", "-"]
        self._process = await asyncio.create_subprocess_exec(
            *command,
            f"--bus-fd={bus}",
            f"--ready-fd={ready}",
            pass_fds=(bus, ready),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
            start_new_session=True,  # Ctrl-C in our terminal is for us
        )
        stdin, stderr = self._process.stdin, self._process.stderr
        assert stdin is not None and stderr is not None, "both were asked for"
        self._listener = asyncio.create_task(self._listen(stderr))
        stdin.write(self._configuration.encode())
        stdin.close()
        netlink.prepare()  # while it starts

    async def _listen(self, stderr: asyncio.StreamReader) -> None:
        """What it says goes to our log, line by line."""
        self._last_words = ""
        async for line in stderr:
            self._last_words = line.decode(errors="replace").strip().partition(": ")[2]
            _log.info("%s", self._last_words)


async def _readable(descriptor: int, timeout: float) -> bool:
    """Wait for a byte or the end of a pipe."""
    loop = asyncio.get_running_loop()
    came = loop.create_future()
    loop.add_reader(descriptor, came.set_result, None)
    try:
        async with asyncio.timeout(timeout):
            await came
        return True
    except TimeoutError:
        return False
    finally:
        loop.remove_reader(descriptor)
