"""quicfs as an endpoint of the public QUIC interop runner: `python -m tests.interop.endpoint`.

An application on QuicSocket; TLS is done by an agent in a child process, as for everything in quicfs. What the runner
says in the environment is read by contract.py.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import socket
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Final

from quicfs.agents import client_net, server_net
from quicfs.errors import UserError
from quicfs.options import AgentOptions
from quicfs.transport import sockaddr, uapi
from quicfs.transport.config import ConnectionConfig, default_parameters
from quicfs.transport.handshake import HandshakeNet, HandshakeRequest
from quicfs.transport.qlog.directory import QlogDirectory
from quicfs.transport.socket import QuicSocket
from quicfs.transport.uapi import AuthMode, MessageType, SockOpt, TlsCipher
from tests.interop.contract import H3, Contract, Request, Unsupported, run
from tests.interop.web import Dialect, FileServer, Http09, fetch_all

HANDSHAKE_MS: Final = 30_000
IDLE_MS: Final = 120_000
MAX_CONNECTIONS: Final = 256
RUNNER_CLIENTS: Final = ((socket.AF_INET, "193.167.0.100"), (socket.AF_INET6, "fd00:cafe:cafe::100"))
"""The client's addresses in the runner."""
PATIENCE_S: Final = 10.0
STEP_S: Final = 0.005
CLIENT_WINDOW: Final = 256 * 1024
"""For a stream; the connection has twice as much. Small, so that a file of 1 MB needs more of it (case "transfer")."""

_log = logging.getLogger("quicfs.interop")


class Client:
    """Connections to the server that the requests name."""

    def __init__(self, net: HandshakeNet, contract: Contract) -> None:
        self._net = net
        self.contract = contract

    @asynccontextmanager
    async def connected(self, ticket: bytes = b"") -> AsyncIterator[QuicSocket]:
        """A connection whose handshake is complete; closed without an error at the end.

        `ticket`: resumes the session that it is of.
        """
        async with self._opened(ticket) as sock:
            await self._handshake(sock)
            yield sock

    @asynccontextmanager
    async def connecting(self, ticket: bytes) -> AsyncIterator[QuicSocket]:
        """A connection that may be written to while its handshake goes on: what is written goes out in 0-RTT packets.
        At the end the handshake is complete."""
        async with self._opened(ticket) as sock, asyncio.TaskGroup() as group:
            group.create_task(self._handshake(sock))
            yield sock

    @asynccontextmanager
    async def _opened(self, ticket: bytes) -> AsyncIterator[QuicSocket]:
        target = self.contract.requests[0]
        sock = make_socket(self._net, self.contract)
        try:
            configure(sock, self.contract)
            window = uapi.TransportParam(max_data=2 * CLIENT_WINDOW, max_stream_data_bidi_local=CLIENT_WINDOW)
            sock.setsockopt(SockOpt.TRANSPORT_PARAM, window.pack())
            if ticket:
                sock.setsockopt(SockOpt.SESSION_TICKET, ticket)
            await sock.connect((target.host, target.port))
            yield sock
        finally:
            await sock.close()

    async def _handshake(self, sock: QuicSocket) -> None:
        host = self.contract.requests[0].host
        await sock.handshake(HandshakeRequest(MessageType.CLIENTHELLO, HANDSHAKE_MS, AuthMode.UNAUTH, host))

    async def fetch(self, sock: QuicSocket, requests: Sequence[Request]) -> None:
        """All that this connection is asked for."""
        dialect = speak(self.contract)
        await dialect.start(sock)
        await fetch_all(sock, dialect, requests, self.contract.downloads)


async def on_one_connection(client: Client) -> None:
    async with client.connected() as sock:
        await client.fetch(sock, client.contract.requests)


async def on_one_connection_each(client: Client) -> None:
    for request in client.contract.requests:
        async with client.connected() as sock:
            await client.fetch(sock, [request])


async def with_key_update(client: Client) -> None:
    """An update as early as RFC 9001 §6.1 allows one, which is when the handshake is confirmed."""
    async with client.connected() as sock, asyncio.TaskGroup() as group:
        group.create_task(client.fetch(sock, client.contract.requests))
        await until(lambda: _update_keys(sock), "the handshake is not confirmed")


def _update_keys(sock: QuicSocket) -> bool:
    try:
        sock.setsockopt(SockOpt.KEY_UPDATE, b"")
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        return False
    return True


async def resumed(client: Client) -> None:
    """The first file on a connection of its own, which brings a ticket, the others on a second one with it."""
    first, *others = client.contract.requests
    async with client.connected(await _ticket(client, first)) as sock:
        await client.fetch(sock, others)


async def early(client: Client) -> None:
    """The same, and the others are asked for before the handshake."""
    first, *others = client.contract.requests
    async with client.connecting(await _ticket(client, first)) as sock:
        await client.fetch(sock, others)


async def _ticket(client: Client, request: Request) -> bytes:
    async with client.connected() as sock:
        await client.fetch(sock, [request])
        await until(
            lambda: bool(sock.getsockopt(SockOpt.SESSION_TICKET)), "the server sent no session ticket"
        )
        return sock.getsockopt(SockOpt.SESSION_TICKET)


async def until(condition: Callable[[], bool], otherwise: str) -> None:
    """Wait a while for something that the peer does. Raises ConnectionError."""
    for _ in range(int(PATIENCE_S / STEP_S)):
        if condition():
            return
        await asyncio.sleep(STEP_S)
    raise ConnectionError(otherwise)


FLOWS: Final[dict[str, Callable[[Client], Awaitable[None]]]] = {
    "multiconnect": on_one_connection_each,
    "keyupdate": with_key_update,
    "resumption": resumed,
    "zerortt": early,
}
"""What a client does in a case; on_one_connection where none is named."""


def speak(contract: Contract) -> Dialect:
    """The protocol of one connection. Raises Unsupported if HTTP/3 is asked for and cannot be had."""
    if contract.alpn != H3:
        return Http09()
    try:
        from tests.interop.h3 import Http3
    except ImportError as error:
        raise Unsupported(f"HTTP/3 needs the Python package pylsqpack ({error})") from None
    return Http3()


def make_socket(net: HandshakeNet, contract: Contract) -> QuicSocket:
    # A third of all datagrams lost: probes that back off must not meet the idle timeout within the case's time.
    parameters = replace(default_parameters(), max_idle_timeout_ms=IDLE_MS)
    config = ConnectionConfig(parameters, trace=QlogDirectory.from_environment())
    if contract.case == "v2":
        # The client begins with version 1 and says that it would rather speak version 2; the server obliges.
        begin = uapi.QUIC_VERSION_2 if contract.is_server else uapi.QUIC_VERSION_1
        config = replace(config, versions=(uapi.QUIC_VERSION_2, uapi.QUIC_VERSION_1), version=begin)
    return QuicSocket(net, config=config)


def configure(sock: QuicSocket, contract: Contract) -> None:
    sock.setsockopt(SockOpt.ALPN, contract.alpn.encode())
    options = uapi.Config.unpack(sock.getsockopt(SockOpt.CONFIG))
    if contract.case == "chacha20":
        options = replace(options, payload_cipher_type=TlsCipher.CHACHA20_POLY1305)
    if contract.case == "retry" and contract.is_server:
        options = replace(options, validate_peer_address=1)
    if contract.case in ("resumption", "zerortt") and not contract.is_server:
        options = replace(options, receive_session_ticket=int(PATIENCE_S))
    if contract.case == "zerortt":
        options = replace(options, early_data=1)
    sock.setsockopt(SockOpt.CONFIG, options.pack())


async def run_client(contract: Contract) -> None:
    async with client_net(AgentOptions(ca=contract.certs / "ca.pem")) as agent:
        await FLOWS.get(contract.case, on_one_connection)(Client(agent.net, contract))


async def run_server(contract: Contract) -> None:
    speak(contract)  # if not at all, then before anybody connects
    options = AgentOptions(cert=contract.certs / "cert.pem", key=contract.certs / "priv.key")
    async with server_net(options) as net:
        listener = make_socket(net, contract)
        configure(listener, contract)
        if contract.case == "connectionmigration":
            for preferred in _preferred(contract):
                listener.setsockopt(SockOpt.CONNECTION_MIGRATION, sockaddr.pack(preferred))
        listener.bind((contract.address, contract.port))
        listener.listen()
        files = FileServer(contract.www)
        try:
            await _accept(listener, contract, files)
        finally:
            await listener.close()
            files.close()


def _preferred(contract: Contract) -> list[tuple[str, int]]:
    """Where clients are invited to: what PREFERRED says, or else another port of this machine's own addresses."""
    if contract.preferred:
        host, _, port = contract.preferred.rpartition(":")
        return [(host.strip("[]"), int(port))]
    found = []
    for family, client in RUNNER_CLIENTS:
        with socket.socket(family, socket.SOCK_DGRAM) as probe, contextlib.suppress(OSError):
            probe.connect((client, contract.port))  # sends nothing, but chooses the address to send from
            found.append((str(probe.getsockname()[0]), contract.port + 1))
    return found


async def _accept(listener: QuicSocket, contract: Contract, files: FileServer) -> None:
    room = asyncio.Semaphore(MAX_CONNECTIONS)
    async with asyncio.TaskGroup() as group:
        while True:
            await room.acquire()
            sock = await listener.accept()
            group.create_task(_serve(sock, speak(contract), files)).add_done_callback(
                lambda _: room.release()
            )


async def _serve(sock: QuicSocket, dialect: Dialect, files: FileServer) -> None:
    peer = sock.peer
    try:
        async with asyncio.TaskGroup() as group:  # requests may come before the handshake is complete
            group.create_task(files.serve(sock, dialect))
            await sock.handshake(HandshakeRequest(MessageType.SERVERHELLO, HANDSHAKE_MS, AuthMode.X509))
    except* OSError as errors:  # this client's; others go on
        _log.info("%s: %s", peer, errors.exceptions[0])
    finally:
        await sock.close()


def main() -> int:
    try:
        return run(run_client, run_server)
    except UserError as error:
        raise SystemExit(f"failed: {error}") from None


if __name__ == "__main__":
    sys.exit(main())
