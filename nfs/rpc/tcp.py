"""RPC on TCP (RFC 5531 §11): one connection, calls in both directions. No rpcbind: the port is known."""

from __future__ import annotations

from collections.abc import Sequence

from quicfs.nfs.rpc.client import RpcClient
from quicfs.nfs.rpc.service import Peer, Program, serve
from quicfs.transport import tcp_stream
from quicfs.transport.tcp_stream import TcpListener, TcpStream

__all__ = ["TcpListener", "TcpPeer", "connect_tcp", "listen_tcp", "serve_tcp"]


class TcpPeer(Peer):
    """A client on TCP: it is called back on the connection that it made."""

    def __init__(self, stream: TcpStream) -> None:
        super().__init__(stream.peer)
        self._back = RpcClient(stream, peer=self, shared=True)

    @property
    def requester(self) -> RpcClient:
        return self._back

    async def open_backchannel(self) -> RpcClient:
        if not self._back.alive:
            raise ConnectionError(f"{self.name} is gone")
        return self._back


async def serve_tcp(stream: TcpStream, programs: Sequence[Program]) -> None:
    """Answer the calls of one connection until it ends."""
    await serve(stream, programs, TcpPeer(stream))


async def listen_tcp(host: str | None, port: int, programs: Sequence[Program]) -> TcpListener:
    """Serve `programs` on every address of `host` (None: all of this machine). Port 0 takes a free one.

    Raises OSError whose text names the address.
    """

    async def on_stream(stream: TcpStream) -> None:
        await serve_tcp(stream, programs)

    return await tcp_stream.listen_tcp(host, port, on_stream)


async def connect_tcp(
    host: str, port: int, programs: Sequence[Program] = (), *, timeout: float = 10.0
) -> RpcClient:
    """A requester; `programs` answer what the server calls. Raises ConnectionError with a sentence naming the host."""
    return RpcClient(await tcp_stream.connect_tcp(host, port, timeout=timeout), programs=programs)
