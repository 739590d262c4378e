"""RPC over QUIC: the rules of draft-cel-nfsv4-rpc-over-quicv1-06, each named by its section."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from quicfs.nfs import limits
from quicfs.nfs.rpc.client import RpcClient, RpcLost
from quicfs.nfs.rpc.message import AuthNone, Call
from quicfs.nfs.rpc.quic import ALPN, NoMoreStreams, RpcConnection, RpcErrorCode, rpc_config, serve_connection
from quicfs.nfs.rpc.service import DropCall, Peer
from quicfs.nfs.xdr import Packer
from quicfs.transport.config import ConnectionConfig
from quicfs.transport.early_data import EarlyState
from quicfs.transport.packet import VERSION_1, VERSION_2
from quicfs.transport.quic_stream import StreamResetError
from tests.unit.nfs.rpc.streams import Echo, opaque

from .endpoints import CLIENT, SERVER
from .network import Network
from .sockets import SimSocket, connect, run

NOBODY = AuthNone()


class Rig:
    def __init__(self, client: SimSocket, server: SimSocket) -> None:
        self.client_socket, self.server_socket = client, server
        self.callbacks, self.echo = Echo(), Echo()
        self.client = RpcConnection(client, [self.callbacks])
        self.server = RpcConnection(server, [self.echo])


@asynccontextmanager
async def rig(
    network: Network, *, client: ConnectionConfig | None = None, server: ConnectionConfig | None = None
) -> AsyncIterator[Rig]:
    sockets = await connect(
        network,
        client=client or rpc_config(ConnectionConfig()),
        server=server or rpc_config(ConnectionConfig()),
        alpn=ALPN,
    )
    for sock in sockets:
        sock.channel_binding = b"b" * 32
    made = Rig(*sockets)
    try:
        yield made
    finally:
        await made.client.aclose()
        await made.server.aclose()


async def echo(client: RpcClient, data: bytes, *, timeout: float = 30) -> bytes:
    got = await client.call(Echo.number, 2, 1, NOBODY, opaque(data), timeout=timeout)
    return got.opaque(4 << 20)


def test_a_call_on_a_stream() -> None:
    async def main(network: Network) -> None:
        async with rig(network) as made:
            client = await made.client.open()
            data = bytes(range(256)) * 4096
            assert await echo(client, data) == data
            (peer,) = made.echo.peers
            assert (peer.secured, peer.binding, peer.certificate) == (True, b"b" * 32, None)
            assert peer.transport is made.server

    run(main)


def test_a_stream_that_closes_takes_only_its_calls() -> None:
    """§3.3: closing a stream means that its requests are lost; the connection and other streams go on."""

    async def main(network: Network) -> None:
        async with rig(network) as made:
            first, second = await made.client.open(), await made.client.open()
            waiting = [
                asyncio.create_task(stream.call(Echo.number, 2, 2, NOBODY, Packer(), timeout=30))
                for stream in (first, second)
            ]
            await asyncio.sleep(1)
            await first.aclose()
            with pytest.raises(RpcLost) as caught:
                await waiting[0]
            assert caught.value.sent
            assert await echo(second, b"goes on") == b"goes on"
            made.echo.go.set()
            await waiting[1]
            assert made.client.alive

    run(main)


def test_a_server_calls_back_on_a_stream_of_its_own() -> None:
    """§3.3, §3.4: either peer can create a stream."""

    async def main(network: Network) -> None:
        async with rig(network) as made:
            client = await made.client.open()
            await echo(client, b"hello")
            back = await made.echo.peers[0].open_backchannel()
            assert await echo(back, b"back") == b"back"
            assert [call.procedure for call in made.callbacks.calls] == [1]

    run(main)


def test_a_limit_on_streams() -> None:
    """§3.1.1.2: servers MAY deny new streams; clients need to be prepared for that."""

    async def main(network: Network) -> None:
        async with rig(network) as made:
            clients = [await made.client.open() for _ in range(limits.MAX_STREAMS)]
            with pytest.raises(NoMoreStreams):
                await made.client.open()
            for client in clients:
                await echo(client, b"x")
            assert made.client.alive
            await clients.pop().aclose()
            await asyncio.sleep(1)
            assert await echo(await made.client.open(), b"again") == b"again"

    run(main)


def record(*words: int, last: bool = True) -> bytes:
    body = b"".join(word.to_bytes(4, "big") for word in words)
    return (len(body) | (0x80000000 if last else 0)).to_bytes(4, "big") + body


def null_call(xid: int, flavor: int = 0) -> bytes:
    return record(xid, 0, 2, Echo.number, 2, 0, flavor, 0, 0, 0)


def null_reply(xid: int) -> bytes:
    return record(xid, 1, 0, 0, 0, 0)


def test_a_requester_that_replies() -> None:
    """§3.4: Receivers MUST silently discard RPC messages whose direction does not match their role, and MAY reset the
    stream with RPC_PROTOCOL_VIOLATION, which we do when they do not end."""

    async def main(network: Network) -> None:
        async with rig(network) as made:
            stream = made.client_socket.open_stream()
            await stream.send(null_reply(1) * limits.MAX_MISDIRECTED + null_call(2))
            assert bytes(await stream.recv()) == null_reply(2)
            await stream.send(null_reply(3))
            with pytest.raises(StreamResetError) as caught:
                await stream.recv()
            assert caught.value.code == RpcErrorCode.PROTOCOL_VIOLATION
            assert await echo(await made.client.open(), b"goes on") == b"goes on"

    run(main)


def test_a_responder_that_calls() -> None:
    """§3.4: the same of calls that come on a stream of ours."""

    async def main(network: Network) -> None:
        sockets = await connect(network, alpn=ALPN)
        callbacks = Echo()
        connection = RpcConnection(sockets[0], [callbacks])
        client = await connection.open()
        call = asyncio.create_task(client.call(Echo.number, 2, 0, NOBODY, Packer(), timeout=30))
        stream = await sockets[1].accept_stream()
        message = await stream.recv()
        xid = int.from_bytes(message[4:8], "big")
        await stream.send(null_call(1) * limits.MAX_MISDIRECTED + null_reply(xid))
        (await call).done()
        assert callbacks.calls == []
        await stream.send(null_call(2))
        with pytest.raises(StreamResetError) as caught:
            await stream.recv()
        assert caught.value.code == RpcErrorCode.PROTOCOL_VIOLATION
        assert not client.alive
        assert connection.alive
        await connection.aclose()

    run(main)


def test_roles() -> None:
    """§3.4: a Requester MUST emit only calls and a Responder only replies, on the stream of the call. So callbacks need
    streams that the server creates."""

    async def main(network: Network) -> None:
        async with rig(network) as made:
            clients = [await made.client.open() for _ in range(3)]
            await asyncio.gather(*(echo(client, b"x") for client in clients))
            names = {peer.name.rpartition(" ")[2] for peer in made.echo.peers}
            assert names == {"0", "4", "8"}
            back = await made.echo.peers[0].open_backchannel()
            await echo(back, b"y")
            assert made.callbacks.peers[0].name.endswith("stream 1")
            assert made.callbacks.peers[0].transport is made.client

    run(main)


def test_replies_come_on_the_stream_of_their_call() -> None:
    """§3.4: Responders MUST send replies on the same stream; messages MUST NOT be interleaved on one stream."""

    async def main(network: Network) -> None:
        async with rig(network) as made:
            streams = [made.client_socket.open_stream() for _ in range(3)]
            size = 300_000
            for number, stream in enumerate(streams):
                for xid in range(3):
                    data = bytes((16 * number + xid,)) * size
                    header = b"".join(
                        w.to_bytes(4, "big") for w in (xid, 0, 2, Echo.number, 2, 1, 0, 0, 0, 0, size)
                    )
                    await stream.send((0x80000000 | (len(header) + size)).to_bytes(4, "big"), header, data)
            for number, stream in enumerate(streams):
                got = bytearray()
                while len(got) < 3 * (4 + 28 + size):
                    got += await stream.recv()
                for xid in range(3):
                    reply = got[xid * (32 + size) :][: 32 + size]
                    assert reply[4:8] == xid.to_bytes(4, "big")
                    assert reply[32:] == bytes((16 * number + xid,)) * size

    run(main)


def test_a_message_in_several_records() -> None:
    """§3.4: an ordered sequence of one or more records; they bear no relationship to STREAM frames."""

    async def main(network: Network) -> None:
        async with rig(network) as made:
            stream = made.client_socket.open_stream()
            call = null_call(9)[4:]
            pieces = [call[:3], b"", call[3:20], call[20:]]
            for number, piece in enumerate(pieces):
                mark = len(piece) | (0x80000000 if number == len(pieces) - 1 else 0)
                for byte in mark.to_bytes(4, "big") + piece:
                    await stream.send(bytes((byte,)))
                    await asyncio.sleep(0.001)
            assert bytes(await stream.recv()) == null_reply(9)

    run(main)


def test_no_starttls() -> None:
    """§3.2.1: the STARTTLS mechanism of RFC 9289 §4 MUST NOT be used: a probe is answered as by a server that has
    none."""

    async def main(network: Network) -> None:
        async with rig(network) as made:
            stream = made.client_socket.open_stream()
            await stream.send(null_call(4, flavor=7))
            assert bytes(await stream.recv()) == record(4, 1, 1, 1, 1)

    run(main)


def test_no_early_data() -> None:
    """§6: RPC-over-QUIC implementations MUST NOT use 0-RTT data."""

    async def main(network: Network) -> None:
        client, server = await connect(network, alpn=ALPN)
        client.connection.early.state = EarlyState.REFUSED
        with pytest.raises(ValueError, match="early data"):
            RpcConnection(client)
        server.connection.early.state = EarlyState.ACCEPTED
        with pytest.raises(ValueError, match="early data"):
            RpcConnection(server)

    run(main)


def test_channel_binding() -> None:
    """§4: implementations MUST provide "tls-exporter" (tests/integration/test_rpc_quic.py compares with TLS)."""

    async def main(network: Network) -> None:
        async with rig(network) as made:
            assert made.client.binding == made.server.binding == b"b" * 32

    run(main)


def test_half_a_message_and_silence() -> None:
    """§3.5: RPC_UNSPECIFIED_ERROR, where no more specific error code applies; the connection goes on."""

    async def main(network: Network) -> None:
        async with rig(network, client=rpc_config(ConnectionConfig(keep_alive=10))) as made:
            stream, client = made.client_socket.open_stream(), await made.client.open()
            await stream.send(null_call(4)[:-1])
            begun = network.now
            with pytest.raises(StreamResetError) as caught:
                await stream.recv()
            assert caught.value.code == RpcErrorCode.UNSPECIFIED_ERROR
            assert limits.SILENCE_S <= network.now - begun < limits.SILENCE_S + 1
            assert await echo(client, b"x") == b"x"

    run(main)


def test_a_dropped_call() -> None:
    """§3.5: RPC_REQUEST_DROPPED, a call was discarded before there was a reply."""

    async def drop(call: Call, peer: Peer) -> Packer:
        raise DropCall("no")

    async def main(network: Network) -> None:
        async with rig(network) as made:
            made.echo.procedures = {7: drop}
            stream = made.client_socket.open_stream()
            await stream.send(record(5, 0, 2, Echo.number, 2, 7, 0, 0, 0, 0))
            with pytest.raises(StreamResetError) as caught:
                await stream.recv()
            assert caught.value.code == RpcErrorCode.REQUEST_DROPPED

    run(main)


def test_too_many_streams_at_once() -> None:
    """§3.1.1.2, §3.5: RPC_SERVER_BUSY where the transport's limit had allowed more."""

    async def main(network: Network) -> None:
        async with rig(network, server=ConnectionConfig()) as made:
            streams = []
            for xid in range(limits.MAX_STREAMS + 1):
                streams.append(made.client_socket.open_stream())
                await streams[-1].send(null_call(xid))
            for xid, stream in enumerate(streams[:-1]):
                assert bytes(await stream.recv()) == null_reply(xid)
            with pytest.raises(StreamResetError) as caught:
                await streams[-1].recv()
            assert caught.value.code == RpcErrorCode.SERVER_BUSY

    run(main)


def test_the_end_of_a_connection() -> None:
    """§3.5: a connection that closes under normal conditions says RPC_NO_ERROR."""

    async def main(network: Network) -> None:
        async with rig(network) as made:
            client = await made.client.open()
            waiting = asyncio.create_task(client.call(Echo.number, 2, 2, NOBODY, Packer(), timeout=30))
            await asyncio.sleep(1)
            over: list[RpcConnection] = []
            made.client.on_close(over.append)
            await made.server.aclose()
            with pytest.raises(RpcLost):
                await waiting
            with pytest.raises(ConnectionError):
                await made.client.open()
            assert over == [made.client]
            closed = made.client_socket.connection.closed
            assert closed is not None
            assert (closed.is_application, closed.code) == (True, RpcErrorCode.NO_ERROR)

    run(main)


def test_calls_survive_loss_and_reordering() -> None:
    async def main(network: Network) -> None:
        for link in (network.link(CLIENT[0], SERVER[0]), network.link(SERVER[0], CLIENT[0])):
            link.loss, link.reorder, link.duplicate = 0.05, 0.1, 0.02
        async with rig(network) as made:
            clients = [await made.client.open() for _ in range(4)]
            payloads = [bytes((i,)) * (1 + 997 * i) for i in range(40)]
            got = await asyncio.gather(
                *(echo(clients[i % 4], data, timeout=120) for i, data in enumerate(payloads))
            )
            assert got == payloads

    run(main, seed=3)


@pytest.mark.parametrize("ours", ["client", "server"])
def test_version_of_quic(ours: str) -> None:
    """§3: RPC-over-QUIC relies on QUIC version 1; others may come later. The other end would like version 2."""
    likes_v2 = ConnectionConfig(versions=(VERSION_2, VERSION_1), version=VERSION_2)
    configs = {"client": likes_v2, "server": likes_v2, ours: rpc_config(ConnectionConfig())}

    async def main(network: Network) -> None:
        async with rig(network, **configs) as made:
            assert made.client_socket.connection.version == VERSION_1
            assert await echo(await made.client.open(), b"x") == b"x"

    run(main)


def test_a_client_of_another_version_only() -> None:
    """§3: on a port where another protocol takes QUIC version 2."""

    async def main(network: Network) -> None:
        only_v2 = ConnectionConfig(versions=(VERSION_2,), version=VERSION_2)
        client, server = await connect(network, client=only_v2, alpn=ALPN)
        await serve_connection(server, [Echo()])
        await asyncio.sleep(1)
        closed = client.connection.closed
        assert closed is not None
        assert (closed.is_application, closed.code) == (True, RpcErrorCode.PROTOCOL_VIOLATION)

    run(main)


def test_unidirectional_streams_are_not_allowed() -> None:
    """§3.4: nor does our limit let a peer open one."""

    async def main(network: Network) -> None:
        async with rig(network) as made:
            with pytest.raises(BlockingIOError):
                made.client_socket.open_stream(unidirectional=True)

    run(main)


def test_unidirectional_streams() -> None:
    """§3.4: only bidirectional streams are used."""

    async def main(network: Network) -> None:
        async with rig(network, server=ConnectionConfig()) as made:
            stream = made.client_socket.open_stream(unidirectional=True)
            await stream.send(b"\x80\0\0\4abcd")
            await asyncio.sleep(1)
            with pytest.raises(StreamResetError) as caught:
                await stream.send(b"more")
            assert caught.value.code == RpcErrorCode.PROTOCOL_VIOLATION
            assert await echo(await made.client.open(), b"x") == b"x"

    run(main)
