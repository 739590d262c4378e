"""Streams that their users are done with: they hold nothing, and make room for others."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from quicfs.transport.config import ConnectionConfig, default_parameters
from quicfs.transport.errors import ClosedError
from quicfs.transport.quic_stream import StreamResetError

from .network import Network
from .sockets import connect, run

AT_ONCE = 4
MANY = 20


def few_streams() -> ConnectionConfig:
    return ConnectionConfig(parameters=replace(default_parameters(), initial_max_streams_bidi=AT_ONCE))


@pytest.mark.parametrize("end", ["more", "fin", "reset"])
@pytest.mark.parametrize("gone", [False, True], ids=["reads", "stops"])
def test_what_nobody_reads_is_dropped(end: str, gone: bool) -> None:
    """The server has not read everything when it gives a stream back; some clients have given it back before."""

    async def main(network: Network) -> None:
        client, server = await connect(network, server=few_streams())
        for _ in range(MANY):
            stream = await client.wait_open_stream()
            await stream.send(bytes(50_000))
            accepted = await server.accept_stream()
            await accepted.recv(1)
            await asyncio.sleep(1)
            if end == "fin":
                await stream.send_eof()
            elif end == "reset":
                stream.reset(7)
            if gone:
                stream.stop_sending(8)
            await asyncio.sleep(1)
            if gone:
                with pytest.raises(StreamResetError):
                    await accepted.send(b"to nobody")
            await accepted.aclose()
            assert not await accepted.recv()
            await asyncio.sleep(1)
            await stream.aclose()
        await asyncio.sleep(1)
        assert not list(server.connection.streams)
        assert not list(client.connection.streams)
        window = server.connection.streams.recv_window
        assert window.consumed == server.connection.streams.received

    run(main)


def test_a_closed_socket_holds_nothing() -> None:
    async def main(network: Network) -> None:
        client, server = await connect(network)
        stream = client.open_stream()
        await stream.send(bytes(100_000))
        accepted = await server.accept_stream()
        await asyncio.sleep(1)
        kept = server.connection.streams.get(accepted.stream_id)
        assert kept is not None and kept.recv is not None and kept.recv.queue.available == 100_000
        await server.close()
        assert kept.recv.queue.available == 0
        with pytest.raises(ClosedError):  # and not an end that looks like the peer's
            await accepted.recv()

    run(main)


def test_what_came_before_the_peer_closed_can_be_read() -> None:
    async def main(network: Network) -> None:
        client, server = await connect(network)
        stream = client.open_stream()
        await stream.send(b"last words")
        accepted = await server.accept_stream()
        await stream.drained()
        await client.close()
        await asyncio.sleep(1)
        assert bytes(await accepted.recv()) == b"last words"
        with pytest.raises(ClosedError):
            await accepted.recv()

    run(main)
