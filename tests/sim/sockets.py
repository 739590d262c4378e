"""asyncio in virtual time: sockets whose connections cross a simulated network.

    def test_something() -> None:
        async def main(network: Network) -> None:
            client, server = await connect(network)
            ...
        run(main, seed=7)

Sleeping and timeouts take no time; a wait for something that cannot happen any more fails at once.
"""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Awaitable, Callable
from typing import Any

from quicfs.transport.config import ConnectionConfig
from quicfs.transport.conn import Connection
from quicfs.transport.data_socket import DataSocket
from quicfs.transport.state import OPEN

from .endpoints import ALPN, CLIENT, SERVER, App, Host
from .network import Network


class _Selector(selectors.DefaultSelector):
    """Where a loop would wait, the network goes on."""

    def __init__(self, network: Network) -> None:
        super().__init__()
        self._network = network

    def select(self, timeout: float | None = None) -> list[Any]:
        ready = super().select(0)
        if ready or (timeout is not None and timeout <= 0):
            return ready
        until = None if timeout is None else self._network.now + timeout
        assert self._network.advance(until), "nothing is going to happen any more"
        return []


class SimLoop(asyncio.SelectorEventLoop):
    def __init__(self, network: Network) -> None:
        self._network = network
        super().__init__(_Selector(network))

    def time(self) -> float:
        return self._network.now


def run(main: Callable[[Network], Awaitable[None]], *, seed: int = 0) -> None:
    """Run `main` to its end; tasks that it leaves are cancelled."""
    network = Network(seed)
    with asyncio.Runner(loop_factory=lambda: SimLoop(network)) as runner:

        async def call() -> None:
            await main(network)

        runner.run(call())


class SimSocket(DataSocket):
    """A socket without a driver; what it wants to send goes out at the end of the loop's turn."""

    def __init__(self, host: Host, conn: Connection) -> None:
        super().__init__()
        self._host = host
        self._conn = conn
        self._flushing = False
        self._gone = False

    def _kick(self) -> None:
        if not self._flushing:
            self._flushing = True
            self.loop.call_soon(self._flush)

    def _flush(self) -> None:
        self._flushing = False
        self._host.flush()

    def follow(self, conn: Connection) -> None:
        """The client begins anew in another version of QUIC."""
        self._conn = conn

    def progress(self) -> None:
        """Something happened to the connection."""
        conn = self.connection
        self._note_data(conn)
        if conn.state not in OPEN and not self._gone:
            self._gone = True
            self._note_end()

    async def close(self, code: int | None = None, phrase: str | None = None) -> None:
        if self.connection.state in OPEN:
            self.connection.close(self.loop.time(), code or 0, phrase or "", frame_type=None)
            self._kick()
            self._gone = True
            self._let_go()


class SocketApp(App):
    def __init__(self, host: Host, conn: Connection) -> None:
        super().__init__(host, conn)
        self.socket = SimSocket(host, conn)

    def step(self, now: float) -> None:
        if self.conn.versions.next is not None:
            self.begin_anew()
            self.socket.follow(self.conn)
            return
        self.hand_to_tls(now)
        self.socket.progress()


class SocketHost(Host):
    app_type = SocketApp


async def connect(
    network: Network,
    *,
    client: ConnectionConfig | None = None,
    server: ConnectionConfig | None = None,
    alpn: bytes = ALPN,
    seed: int = 0,
) -> tuple[SimSocket, SimSocket]:
    """The two ends of a connection whose handshake is done."""
    server_host = SocketHost(network, SERVER, seed * 2 + 1)
    server_host.listen(server, alpn=alpn)
    client_host = SocketHost(network, CLIENT, seed * 2 + 2)
    app = client_host.connect(SERVER, client, alpn=alpn)
    while not (app.confirmed and server_host.apps and server_host.apps[0].confirmed):  # noqa: ASYNC110 - takes no time
        await asyncio.sleep(0.01)
    accepted = server_host.apps[0]
    assert isinstance(app, SocketApp)
    assert isinstance(accepted, SocketApp)
    return app.socket, accepted.socket
