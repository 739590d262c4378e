"""The whole socket interface over real UDP: options, control messages, flags, events, shutdown."""

from __future__ import annotations

import asyncio
import errno
import socket
import struct
from pathlib import Path

import pytest

from quicfs.transport import limits
from quicfs.transport.errors import ClosedError
from quicfs.transport.handshake import HandshakeNet
from quicfs.transport.messages import Message
from quicfs.transport.socket import QuicSocket
from quicfs.transport.uapi import (
    SOL_QUIC,
    CmsgType,
    Config,
    ConnectionClose,
    CryptoLevel,
    ErrInfo,
    Event,
    EventOption,
    HandshakeInfo,
    MsgFlags,
    SockOpt,
    StreamFlags,
    StreamInfo,
    StreamState,
    StreamUpdate,
    TransportParam,
)
from tests.integration.handshake_rig import Agents, Pki
from tests.integration.test_quic_socket import dial, net_of, serve_one, with_pair

VECTORS = Path(__file__).parents[1] / "vectors"


def info(stream_id: int, flags: int = 0) -> list[tuple[int, int, bytes]]:
    return [(SOL_QUIC, CmsgType.STREAM_INFO, StreamInfo(stream_id, flags).pack())]


def stream_of(message: Message) -> StreamInfo:
    ((level, kind, data),) = message.ancdata
    assert (level, kind) == (SOL_QUIC, CmsgType.STREAM_INFO)
    return StreamInfo.unpack(data)


async def event(sock: QuicSocket) -> tuple[Event, bytes]:
    message = await sock.recvmsg()
    assert message.flags == MsgFlags.NOTIFICATION and not message.ancdata
    return Event(message.data[0]), bytes(message.data[1:])


def subscribe(sock: QuicSocket, *events: Event) -> None:
    for each in events:
        sock.setsockopt(SockOpt.EVENT, EventOption(each, 1).pack())


def refused(number: int, call: object, *arguments: object) -> str:
    with pytest.raises(OSError) as caught:
        call(*arguments)  # type: ignore[operator]
    assert caught.value.errno == number, caught.value
    return str(caught.value)


def test_messages_with_control_messages(agents: Agents, pki: Pki) -> None:
    async def body(client: QuicSocket, server: QuicSocket) -> None:
        assert await client.sendmsg([b"one", b" two"], info(-1, StreamFlags.NEW)) == 7
        assert await client.sendmsg([b"!"], (), StreamFlags.FIN) == 1  # on the stream that was used last
        data = b""
        while True:
            message = await server.recvmsg(3)
            assert len(message.data) <= 3 and stream_of(message).stream_id == 0
            data += message.data
            if stream_of(message).flags & StreamFlags.FIN:
                break
        assert data == b"one two!"
        with pytest.raises(BlockingIOError):
            await server.recvmsg(flags=socket.MSG_DONTWAIT)
        for ancdata, flags in (
            (info(0, StreamFlags.UNI), 0),
            (info(0, 1), 0),
            ([(SOL_QUIC, 9, b"")], 0),
            ([(SOL_QUIC, CmsgType.STREAM_INFO, b"short")], 0),
            ([(SOL_QUIC, CmsgType.HANDSHAKE_INFO, HandshakeInfo(9).pack())], 0),
            (info(0), MsgFlags.DATAGRAM),
            ((), MsgFlags.NOTIFICATION),
            (info(400, StreamFlags.NEW), 0),
        ):
            with pytest.raises(OSError) as caught:
                await client.sendmsg([b"x"], ancdata, flags)
            assert caught.value.errno == errno.EINVAL

    with_pair(agents, pki, body)


def test_streams_are_opened_by_option_and_flag(agents: Agents, pki: Pki) -> None:
    async def main() -> None:
        async with net_of(agents, pki) as net:
            listener = QuicSocket(net)
            listener.setsockopt(SockOpt.ALPN, b"one")
            listener.setsockopt(
                SockOpt.TRANSPORT_PARAM, TransportParam(max_streams_bidi=2, max_streams_uni=1).pack()
            )
            listener.bind(("127.0.0.1", 0))
            listener.listen()
            accepting = asyncio.ensure_future(serve_one(listener))
            client = await dial(net, listener.getsockname()[1], b"one")
            server = await accepting
            subscribe(client, Event.STREAM_MAX_STREAM)
            opened = client.getsockopt(SockOpt.STREAM_OPEN, StreamInfo(-1, StreamFlags.UNI).pack())
            assert StreamInfo.unpack(opened) == StreamInfo(2, StreamFlags.UNI)
            assert StreamInfo.unpack(client.getsockopt(SockOpt.STREAM_OPEN)).stream_id == 0
            refused(errno.EINVAL, client.getsockopt, SockOpt.STREAM_OPEN, StreamInfo(8).pack())
            await client.send(b"x", 0, StreamFlags.FIN)
            _, second = await client.send(b"y", -1, StreamFlags.NEW | StreamFlags.FIN)
            refused(errno.EAGAIN, client.getsockopt, SockOpt.STREAM_OPEN)
            with pytest.raises(BlockingIOError):
                await client.send(b"z", -1, StreamFlags.NEW | StreamFlags.DONTWAIT)
            waiting = asyncio.ensure_future(client.send(b"z", -1, StreamFlags.NEW | StreamFlags.SNDBLOCK))
            for _ in range(2):
                stream = await server.accept_stream()
                while stream.stream_id == 2:
                    stream = await server.accept_stream()
                while await stream.recv():
                    pass
                await stream.send_eof()
            assert await waiting == (1, 8) and second == 4
            kind, payload = await event(client)
            assert kind is Event.STREAM_MAX_STREAM and struct.unpack("@Q", payload)[0] >= 8
            for sock in (client, server, listener):
                await sock.close()
            await listener.wait_closed()

    asyncio.run(main())


def test_events_tell_what_the_peer_did(agents: Agents, pki: Pki) -> None:
    async def body(client: QuicSocket, server: QuicSocket) -> None:
        subscribe(server, Event.STREAM_UPDATE, Event.CONNECTION_CLOSE)
        assert EventOption.unpack(
            server.getsockopt(SockOpt.EVENT, EventOption(Event.STREAM_UPDATE, 0).pack())
        ).on
        refused(errno.EINVAL, server.setsockopt, SockOpt.EVENT, EventOption(0, 1).pack())
        refused(errno.EINVAL, server.setsockopt, SockOpt.EVENT, EventOption(77, 1).pack())
        await client.send(b"data", -1, StreamFlags.NEW)
        kind, payload = await event(server)
        assert kind is Event.STREAM_UPDATE
        assert StreamUpdate.unpack(payload) == StreamUpdate(0, StreamState.RECV_RECV)
        assert bytes((await server.recv()).data) == b"data"
        client.setsockopt(SockOpt.STREAM_RESET, ErrInfo(0, 99).pack())
        _, payload = await event(server)
        assert StreamUpdate.unpack(payload) == StreamUpdate(0, StreamState.RECV_RESET_RECVD, 99, 4)
        server.setsockopt(SockOpt.EVENT, EventOption(Event.STREAM_UPDATE, 0).pack())
        await client.send(b"quiet", -1, StreamFlags.NEW)
        assert bytes((await server.recv()).data) == b"quiet"  # the reset stream gives nothing
        client.setsockopt(SockOpt.CONNECTION_CLOSE, ConnectionClose(7, 0, b"set before").pack())
        await client.close()
        kind, payload = await event(server)
        assert kind is Event.CONNECTION_CLOSE and payload == struct.pack("@IB3x", 7, 0) + b"set before\0"
        with pytest.raises(ClosedError):
            await server.recvmsg()
        closed = ConnectionClose.unpack(server.getsockopt(SockOpt.CONNECTION_CLOSE))
        assert (closed.errcode, closed.phrase) == (7, b"set before")

    with_pair(agents, pki, body)


def test_transport_parameters_of_both_ends(agents: Agents, pki: Pki) -> None:
    wanted = TransportParam(
        disable_active_migration=1,
        grease_quic_bit=1,
        active_connection_id_limit=3,
        ack_delay_exponent=5,
        max_datagram_frame_size=1300,
        max_udp_payload_size=1500,
        max_idle_timeout=20_000_000,
        max_ack_delay=10_000,
        max_streams_bidi=11,
        max_streams_uni=12,
        max_data=1 << 20,
        max_stream_data_bidi_local=1 << 17,
        max_stream_data_bidi_remote=1 << 18,
        max_stream_data_uni=1 << 19,
    )

    async def main() -> None:
        async with net_of(agents, pki) as net:
            listener = QuicSocket(net)
            listener.setsockopt(SockOpt.ALPN, b"zero,one")
            listener.setsockopt(SockOpt.TRANSPORT_PARAM, wanted.pack())
            listener.bind(("127.0.0.1", 0))
            listener.listen()
            refused(errno.EISCONN, listener.setsockopt, SockOpt.TRANSPORT_PARAM, wanted.pack())
            refused(errno.EISCONN, listener.setsockopt, SockOpt.CONFIG, Config().pack())
            refused(errno.EISCONN, listener.setsockopt, SockOpt.ALPN, b"two")
            accepting = asyncio.ensure_future(serve_one(listener))
            client = await dial(net, listener.getsockname()[1], b"one,two")
            server = await accepting
            ask = TransportParam(remote=1).pack()
            theirs = TransportParam.unpack(client.getsockopt(SockOpt.TRANSPORT_PARAM, ask))
            own = TransportParam.unpack(server.getsockopt(SockOpt.TRANSPORT_PARAM))
            for name in TransportParam.__match_args__:
                if name not in ("remote", "stateless_reset"):
                    assert getattr(theirs, name) == getattr(own, name) == getattr(wanted, name), name
            assert theirs.remote and theirs.stateless_reset
            assert client.getsockopt(SockOpt.ALPN) == server.getsockopt(SockOpt.ALPN) == b"one"
            refused(errno.EISCONN, client.setsockopt, SockOpt.TRANSPORT_PARAM, wanted.pack())
            for sock in (client, server, listener):
                await sock.close()
            await listener.wait_closed()

    asyncio.run(main())


def test_what_cannot_be_is_refused() -> None:
    async def main() -> None:
        net = HandshakeNet()
        sock = QuicSocket(net)
        for param in (
            TransportParam(disable_1rtt_encryption=1),
            TransportParam(remote=1),
            TransportParam(ack_delay_exponent=21),
            TransportParam(max_udp_payload_size=1199),
            TransportParam(active_connection_id_limit=1),
            TransportParam(max_ack_delay=1 << 31),
        ):
            refused(errno.EINVAL, sock.setsockopt, SockOpt.TRANSPORT_PARAM, param.pack())
        for config in (
            Config(version=0xBABABABA),
            Config(plpmtud_probe_interval=4_999_999),
            Config(payload_cipher_type=1),
            Config(congestion_control_algo=2),
            Config(validate_peer_address=2),
            Config(stream_data_nodelay=2),
            Config(certificate_request=3),
            Config(no_session_ticket=2),
        ):
            refused(errno.EINVAL, sock.setsockopt, SockOpt.CONFIG, config.pack())
        sock.setsockopt(SockOpt.CONFIG, Config(plpmtud_probe_interval=30_000_000).pack())
        read = Config.unpack(sock.getsockopt(SockOpt.CONFIG))
        assert (read.plpmtud_probe_interval, read.stream_data_nodelay) == (30_000_000, 1)
        refused(errno.ENOPROTOOPT, sock.setsockopt, SockOpt.STREAM_OPEN, b"")
        refused(errno.ENOPROTOOPT, sock.getsockopt, SockOpt.CRYPTO_SECRET)
        refused(errno.ENOTCONN, sock.getsockopt, SockOpt.STREAM_OPEN)
        await sock.close()
        net.close()

    asyncio.run(main())


def test_datagrams(agents: Agents, pki: Pki) -> None:
    async def main() -> None:
        async with net_of(agents, pki) as net:
            for size in (0, 1200):
                listener = QuicSocket(net)
                listener.setsockopt(SockOpt.ALPN, b"one")
                listener.setsockopt(
                    SockOpt.TRANSPORT_PARAM, TransportParam(max_datagram_frame_size=size).pack()
                )
                listener.bind(("127.0.0.1", 0))
                listener.listen()
                accepting = asyncio.ensure_future(serve_one(listener))
                client = await dial(net, listener.getsockname()[1], b"one")
                server = await accepting
                if not size:
                    with pytest.raises(OSError) as none:
                        await client.sendmsg([b"x"], (), MsgFlags.DATAGRAM)
                    assert none.value.errno == errno.EOPNOTSUPP
                else:
                    with pytest.raises(OSError) as large:
                        await client.sendmsg([bytes(1200)], (), MsgFlags.DATAGRAM)
                    assert large.value.errno == errno.EMSGSIZE
                    assert await client.sendmsg([b"da", b"ta"], (), MsgFlags.DATAGRAM) == 4
                    message = await server.recvmsg()
                    assert (bytes(message.data), message.ancdata, message.flags) == (
                        b"data",
                        [],
                        MsgFlags.DATAGRAM,
                    )
                for sock in (client, server, listener):
                    await sock.close()
                await listener.wait_closed()

    asyncio.run(main())


def test_shutdown_of_either_direction(agents: Agents, pki: Pki) -> None:
    async def body(client: QuicSocket, server: QuicSocket) -> None:
        stream = client.open_stream()
        await stream.send(bytes(100_000))
        other = await server.accept_stream()
        reading = asyncio.ensure_future(server.recvmsg())
        await server.shutdown(socket.SHUT_RD)
        await reading
        assert (await server.recvmsg()).data == b""
        assert bytes(await other.recv()) == b""
        with pytest.raises(ConnectionError):  # STOP_SENDING has come, for this stream and for new ones
            while True:
                await stream.send(bytes(1 << 20))
        late = client.open_stream()
        with pytest.raises(ConnectionError):
            while True:
                await late.send(bytes(1 << 20))
        await other.send(b"still")
        assert bytes(await stream.recv()) == b"still"
        for _ in range(3 * limits.MAX_STREAMS_UNI):  # nobody accepts them, and they do not pile up
            await (await client.wait_open_stream(unidirectional=True)).send_eof()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.5):
                while True:
                    assert (await server.accept_stream()).stream_id == late.stream_id
        await server.shutdown(socket.SHUT_WR)
        assert bytes(await stream.recv()) == b""
        with pytest.raises(BrokenPipeError):
            server.open_stream()
        with pytest.raises(BrokenPipeError):
            await other.send(b"x")

    with_pair(agents, pki, body)


def test_many_wait_for_the_same(agents: Agents, pki: Pki) -> None:
    async def body(client: QuicSocket, server: QuicSocket) -> None:
        accepting = [asyncio.ensure_future(server.accept_stream()) for _ in range(5)]
        await asyncio.sleep(0)
        for _ in range(5):
            await client.send(b"x", -1, StreamFlags.NEW)
        assert sorted(stream.stream_id for stream in await asyncio.gather(*accepting)) == [0, 4, 8, 12, 16]
        receiving = [asyncio.ensure_future(server.recv()) for _ in range(5)]
        found = sorted(received.stream_id for received in await asyncio.gather(*receiving))
        assert found == [0, 4, 8, 12, 16]

    with_pair(agents, pki, body)


def test_a_program_that_does_tls_itself() -> None:
    """CRYPTO bytes go both ways as messages with HANDSHAKE_INFO; no agent is asked."""
    hello = bytes.fromhex((VECTORS / "smbclient-clienthello.hex").read_text())

    async def main() -> None:
        net = HandshakeNet()
        listener, client = QuicSocket(net), QuicSocket(net)
        for sock in (listener, client):
            sock.setsockopt(SockOpt.ALPN, b"smb")
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        await client.connect(listener.getsockname())
        initial = [(SOL_QUIC, CmsgType.HANDSHAKE_INFO, HandshakeInfo(CryptoLevel.INITIAL).pack())]
        async with asyncio.timeout(20):
            assert await client.sendmsg([hello], initial) == len(hello)
            server = await listener.accept()
            message = await server.recvmsg()
            assert bytes(message.data) == hello and message.ancdata == initial
            await server.sendmsg([b"a ServerHello"], initial)
            message = await client.recvmsg()
            assert bytes(message.data) == b"a ServerHello" and message.ancdata == initial
        for sock in (client, server, listener):
            await sock.close()
        await listener.wait_closed()
        net.close()

    asyncio.run(main())
