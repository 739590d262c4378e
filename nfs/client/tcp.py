"""NFS over TCP: each further "stream" is a connection of its own."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from quicfs.nfs.client.channel import Connect, Connection
from quicfs.nfs.rpc.client import RpcClient
from quicfs.nfs.rpc.service import Program
from quicfs.nfs.rpc.tcp import connect_tcp

__all__ = ["TcpConnection", "tcp_connector"]


class TcpConnection:
    """Some TCP connections to one server. Gone when all of them are."""

    def __init__(self, host: str, port: int, programs: Sequence[Program]) -> None:
        self._host = host
        self._port = port
        self._programs = programs
        self._clients: list[RpcClient] = []

    @property
    def alive(self) -> bool:
        return any(client.alive for client in self._clients)

    async def open(self) -> RpcClient:
        client = await connect_tcp(self._host, self._port, self._programs)
        self._clients.append(client)
        return client

    async def aclose(self) -> None:
        clients, self._clients = self._clients, []
        await asyncio.gather(*(client.aclose() for client in clients))


def tcp_connector(host: str, port: int = 2049) -> Connect:
    """For `NfsFileSystem`."""

    async def connect(programs: Sequence[Program]) -> Connection:
        connection = TcpConnection(host, port, programs)
        client = await connection.open()
        return _Begun(connection, client)

    return connect


class _Begun:
    """A connection whose first stream is there already."""

    def __init__(self, connection: TcpConnection, first: RpcClient) -> None:
        self._connection = connection
        self._first: RpcClient | None = first

    @property
    def alive(self) -> bool:
        return self._connection.alive

    async def open(self) -> RpcClient:
        first, self._first = self._first, None
        return first if first is not None else await self._connection.open()

    async def aclose(self) -> None:
        await self._connection.aclose()
