"""RPC on TCP, over loopback."""

from __future__ import annotations

import asyncio

import pytest

from quicfs.nfs.rpc.client import RpcLost
from quicfs.nfs.rpc.message import AuthNone
from quicfs.nfs.rpc.tcp import connect_tcp, listen_tcp
from quicfs.nfs.xdr import Packer
from tests.unit.nfs.rpc.streams import Echo, opaque

NOBODY = AuthNone()


def test_calls_in_both_directions() -> None:
    async def main() -> None:
        here, there = Echo(), Echo()
        listener = await listen_tcp("127.0.0.1", 0, [there])
        client = await connect_tcp("127.0.0.1", listener.port, [here])
        data = bytes(range(256)) * 4096
        got = await client.call(Echo.number, 2, 1, NOBODY, opaque(data), timeout=20)
        assert got.opaque(1 << 20) == data
        (peer,) = there.peers
        assert (peer.secured, peer.binding, peer.certificate, peer.transport) == (False, None, None, peer)
        back = await peer.open_backchannel()
        got = await back.call(Echo.number, 2, 1, NOBODY, opaque(data), timeout=20)
        assert got.opaque(1 << 20) == data
        await back.aclose()
        await back.call(Echo.number, 2, 0, NOBODY, Packer(), timeout=20)
        await client.aclose()
        while not peer.closed:  # noqa: ASYNC110 - it is a moment
            await asyncio.sleep(0.01)
        with pytest.raises(ConnectionError):
            await peer.open_backchannel()
        await listener.aclose()

    asyncio.run(main())


def test_a_server_that_goes() -> None:
    async def main() -> None:
        echo = Echo()
        listener = await listen_tcp("127.0.0.1", 0, [echo])
        client = await connect_tcp("127.0.0.1", listener.port)
        call = asyncio.create_task(client.call(Echo.number, 2, 2, NOBODY, Packer(), timeout=20))
        while not echo.calls:  # noqa: ASYNC110 - it is a moment
            await asyncio.sleep(0.01)
        await listener.aclose()
        with pytest.raises(RpcLost):
            await call
        assert not client.alive
        await client.aclose()

    asyncio.run(main())


def test_nobody_listens() -> None:
    async def main() -> None:
        listener = await listen_tcp("127.0.0.1", 0, [])
        port = listener.port
        await listener.aclose()
        with pytest.raises(ConnectionError, match="refuses connections"):
            await connect_tcp("127.0.0.1", port)

    asyncio.run(main())
