"""Messages on streams, and TCP as a stream."""

from __future__ import annotations

import asyncio
import hashlib
import os
import socket
from collections import deque

import pytest

from quicfs.smb.framing import MAX_MESSAGE, FramingError, MessageStream
from quicfs.transport.tcp_stream import TcpStream, connect_tcp, listen_tcp


class Pieces:
    """A stream that receives the given pieces and keeps what was sent."""

    peer = "test"
    secured = False

    def __init__(self, *pieces: bytes) -> None:
        self.pieces = deque(pieces)
        self.sent = b""
        self.closed = False

    async def recv(self, limit: int = 1 << 20) -> memoryview:
        if not self.pieces:
            return memoryview(b"")
        piece = self.pieces.popleft()
        if len(piece) > limit:
            self.pieces.appendleft(piece[limit:])
            piece = piece[:limit]
        return memoryview(piece)

    async def send(self, *parts: bytes | memoryview) -> None:
        self.sent += b"".join(parts)

    async def aclose(self) -> None:
        self.closed = True


def framed(message: bytes) -> bytes:
    return len(message).to_bytes(4, "big") + message


async def read_all(stream: Pieces, limit: int = MAX_MESSAGE) -> list[bytes]:
    messages = MessageStream(stream)
    result = []
    while (message := await messages.read_message(limit)) is not None:
        result.append(bytes(message))
    return result


@pytest.mark.parametrize("cut", [1, 2, 3, 4, 5, 7, 100, 1000, 1 << 20])
def test_messages_survive_any_cut(cut: int) -> None:
    wanted = [b"a", b"", b"hello", os.urandom(300), b"z" * 5000]
    data = b"".join(map(framed, wanted))
    pieces = [data[i : i + cut] for i in range(0, len(data), cut)]
    assert asyncio.run(read_all(Pieces(*pieces))) == wanted


def test_a_message_in_one_piece_is_not_copied() -> None:
    async def main() -> None:
        data = framed(b"x" * 100) + framed(b"y" * 100)
        messages = MessageStream(Pieces(data))
        for _ in range(2):
            message = await messages.read_message()
            assert message is not None
            assert message.obj is data

    asyncio.run(main())


@pytest.mark.parametrize("data", [b"\x01\x00\x00\x01x", b"\x85\x00\x00\x00", b"GET / HTTP/1.1\r\n"])
def test_a_header_of_another_protocol_is_refused(data: bytes) -> None:
    with pytest.raises(FramingError, match="not a Direct TCP header"):
        asyncio.run(read_all(Pieces(data)))


def test_a_message_over_the_limit_is_refused_before_it_is_read() -> None:
    with pytest.raises(FramingError, match="a message of 101 bytes, where 100 are allowed"):
        asyncio.run(read_all(Pieces(b"\x00\x00\x00\x65"), 100))


@pytest.mark.parametrize("data", [b"\x00", b"\x00\x00\x00", b"\x00\x00\x00\x05", b"\x00\x00\x00\x05abcd"])
def test_an_end_inside_a_message_is_an_error(data: bytes) -> None:
    with pytest.raises(ConnectionError, match="in the middle of"):
        asyncio.run(read_all(Pieces(data)))


def test_writing() -> None:
    async def main() -> None:
        stream = Pieces()
        messages = MessageStream(stream)
        await messages.write_message(b"ab", memoryview(b"cde"))
        await messages.aclose()
        assert stream.sent == b"\x00\x00\x00\x05abcde"
        stream.sent = b""
        await messages.write_messages([(b"x",), (b"y", b"z")])
        assert stream.sent == b"\x00\x00\x00\x01x\x00\x00\x00\x02yz"
        assert stream.closed
        with pytest.raises(ValueError):
            await messages.write_message(bytes(MAX_MESSAGE + 1))

    asyncio.run(main())


def test_tcp_carries_large_messages_both_ways() -> None:
    async def main() -> None:
        async def echo(stream: TcpStream) -> None:
            messages = MessageStream(stream)
            while (message := await messages.read_message()) is not None:
                await messages.write_message(message)

        listener = await listen_tcp("127.0.0.1", 0, echo)
        stream = await connect_tcp("127.0.0.1", listener.port)
        assert stream.peer == f"127.0.0.1:{listener.port}"
        assert not stream.secured
        messages = MessageStream(stream)
        sent = [os.urandom(size) for size in (1, 65536, 3 << 20, 16 << 20 - 1, 8 << 20, 0, 7)]

        async def send() -> None:
            for part in sent:
                await messages.write_message(part[: len(part) // 2], part[len(part) // 2 :])

        sending = asyncio.create_task(send())
        for part in sent:
            message = await messages.read_message()
            assert message is not None
            assert hashlib.sha256(message).digest() == hashlib.sha256(part).digest()
        await sending
        await messages.aclose()
        await messages.aclose()
        await listener.aclose()

    asyncio.run(main())


def test_tcp_send_suspends_while_the_peer_does_not_read() -> None:
    async def main() -> None:
        release, ended = asyncio.Event(), asyncio.Event()
        got = 0

        async def slow(stream: TcpStream) -> None:
            nonlocal got
            await release.wait()
            while piece := await stream.recv():
                got += len(piece)
            ended.set()

        listener = await listen_tcp("127.0.0.1", 0, slow)
        stream = await connect_tcp("127.0.0.1", listener.port)
        chunk = bytes(1 << 20)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.3):
                for _ in range(256):
                    await stream.send(chunk)
        release.set()
        await stream.send(b"end")
        await stream.aclose()
        await asyncio.wait_for(ended.wait(), 10)
        assert got % (1 << 20) == 3
        await listener.aclose()

    asyncio.run(main())


def test_tcp_closing_wakes_the_receiver_and_the_peer_sees_the_end() -> None:
    async def main() -> None:
        ended = asyncio.Event()

        async def serve(stream: TcpStream) -> None:
            assert not await stream.recv()
            ended.set()

        listener = await listen_tcp("127.0.0.1", 0, serve)
        stream = await connect_tcp("127.0.0.1", listener.port)
        receiving = asyncio.create_task(stream.recv())
        await asyncio.sleep(0)
        await stream.aclose()
        with pytest.raises(ConnectionError, match="was closed here"):
            await receiving
        await asyncio.wait_for(ended.wait(), 5)
        with pytest.raises(ConnectionError):
            await stream.send(b"x")
        await listener.aclose()

    asyncio.run(main())


def test_tcp_refused_and_reset_are_sentences() -> None:
    async def main() -> None:
        async def slam(stream: TcpStream) -> None:
            await stream.aclose()

        listener = await listen_tcp("127.0.0.1", 0, slam)
        port = listener.port
        stream = await connect_tcp("127.0.0.1", port)
        with pytest.raises(ConnectionError, match=rf"the connection to 127.0.0.1:{port} broke"):
            while True:
                await stream.send(bytes(1 << 20))
        with pytest.raises(ConnectionError, match="broke"):
            await stream.recv()
        await stream.aclose()
        await listener.aclose()
        with pytest.raises(ConnectionError, match=f"127.0.0.1:{port} refuses connections"):
            await connect_tcp("127.0.0.1", port)
        with pytest.raises(ConnectionError, match="cannot be resolved"):
            await connect_tcp("no-such-host.invalid", port)

    asyncio.run(main())


def test_tcp_listening_on_a_taken_port_names_it() -> None:
    async def main() -> None:
        async def serve(stream: TcpStream) -> None:
            await stream.recv()

        listener = await listen_tcp("127.0.0.1", 0, serve)
        with pytest.raises(OSError, match=f"cannot listen on 127.0.0.1:{listener.port}"):
            await listen_tcp("127.0.0.1", listener.port, serve)
        await listener.aclose()

    asyncio.run(main())


def test_tcp_half_closed() -> None:
    async def main() -> None:
        near, far = (TcpStream(sock) for sock in socket.socketpair())
        large = bytes(3_000_000)
        sending = asyncio.create_task(near.send(large))
        ending = asyncio.create_task(near.send_eof())
        got = 0
        while piece := await far.recv():
            got += len(piece)
        assert got == len(large)
        await asyncio.gather(sending, ending)
        await far.send(b"still")
        assert bytes(await near.recv()) == b"still"
        await near.aclose()
        await far.aclose()

    asyncio.run(main())


def test_tcp_abort_is_a_reset_for_the_peer() -> None:
    async def main() -> None:
        accepted: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        async def on_stream(stream: TcpStream) -> None:
            await stream.recv()
            stream.abort()
            accepted.set_result(None)

        listener = await listen_tcp("127.0.0.1", 0, on_stream)
        client = await connect_tcp("127.0.0.1", listener.port)
        await client.send(b"x")
        await accepted
        with pytest.raises(ConnectionError, match="reset"):
            await client.recv()
        await client.aclose()
        await listener.aclose()

    asyncio.run(main())
