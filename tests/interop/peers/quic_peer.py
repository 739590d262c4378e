"""One QUIC stream each way with a stack that we did not write: aioquic or qh3.

Both keep the asyncio interface that aioquic began with, so one program drives either. The protocol, the
arguments and the output are described in README.md beside this file.
"""

import argparse
import asyncio
import hashlib
import importlib
import json
import random
import signal
import sys
import time
from collections.abc import Callable
from typing import Any

ALPN = "perf"
HEADER_SIZE = 8
BLOCK_SIZE = 1 << 20
PIECE_SIZE = 256 * 1024
BACKLOG_LIMIT = (
    1 << 20
)  # bytes given to the stack and not yet on the wire; the stacks themselves set no limit


class Content:
    """The first `size` bytes of a 1 MiB block repeated for ever, and their SHA-256 when asked for."""

    def __init__(self, size: int, seed: int, checksum: bool) -> None:
        self._block = memoryview(random.Random(seed).randbytes(BLOCK_SIZE))
        self._hash = hashlib.sha256() if checksum else None
        self.size = size
        self.position = 0

    def next_piece(self) -> bytes:
        start = self.position % BLOCK_SIZE
        piece = self._block[start : start + min(PIECE_SIZE, self.size - self.position)]
        self.position += len(piece)
        if self._hash is not None:
            self._hash.update(piece)
        return bytes(piece)

    @property
    def exhausted(self) -> bool:
        return self.position == self.size

    @property
    def sha256(self) -> str | None:
        return self._hash.hexdigest() if self._hash is not None else None


class Sink:
    """Counts what arrives, and hashes it when asked to."""

    def __init__(self, checksum: bool) -> None:
        self._hash = hashlib.sha256() if checksum else None
        self.received = 0
        self.began = 0.0

    def write(self, data: bytes) -> None:
        if self.received == 0:
            self.began = time.perf_counter()
        self.received += len(data)
        if self._hash is not None:
            self._hash.update(data)

    @property
    def sha256(self) -> str | None:
        return self._hash.hexdigest() if self._hash is not None else None


class CountingTransport:
    """A datagram transport that counts the bytes sent, which is how the backlog of a stack is known."""

    def __init__(self, transport: asyncio.DatagramTransport) -> None:
        self._transport = transport
        self.sent = 0
        if hasattr(transport, "sendto_many"):  # qh3 on its own GSO transport
            self.sendto_many = self._sendto_many

    def sendto(self, data: bytes, addr: Any = None) -> None:
        self.sent += len(data)
        self._transport.sendto(data, addr)

    def _sendto_many(self, datagrams: list[bytes], addr: Any) -> None:
        self.sent += sum(map(len, datagrams))
        self._transport.sendto_many(datagrams, addr)  # type: ignore[attr-defined]

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)


def report(role: str, content: Content | None, sink: Sink, seconds: float) -> None:
    sent = content.position if content else 0
    result = {
        "role": role,
        "sent": sent,
        "received": sink.received,
        "sent_sha256": content.sha256 if content else None,
        "received_sha256": sink.sha256,
        "seconds": round(seconds, 6),
        "gbit_per_s": round(max(sent, sink.received) * 8 / max(seconds, 1e-9) / 1e9, 4),
    }
    print(json.dumps({key: value for key, value in result.items() if value is not None}), flush=True)


def protocol_class(stack: Any) -> type:
    """The peer's own protocol class, extended by a bounded feed and by delivery to one callback."""

    class StreamProtocol(stack.asyncio.QuicConnectionProtocol):  # type: ignore[misc, name-defined]
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            self.on_data: Callable[[int, bytes, bool], None] = lambda stream_id, data, fin: None
            self.on_terminated: Callable[[str], None] = lambda reason: None
            self._content: Content | None = None
            self._then: Callable[[], None] = lambda: None
            self._wire: CountingTransport | None = None
            self._wire_before = 0

        def connection_made(self, transport: Any) -> None:
            self._wire = CountingTransport(transport)
            super().connection_made(self._wire)

        def feed(self, stream_id: int, content: Content, then: Callable[[], None]) -> None:
            """Hands the content over as the stack sends it, and calls `then` once the stack has it all."""
            assert self._wire is not None
            self._stream_id, self._content, self._then = stream_id, content, then
            self._wire_before = self._wire.sent
            self.transmit()

        def finish(self, stream_id: int) -> None:
            self._quic.send_stream_data(stream_id, b"", end_stream=True)
            super().transmit()

        def transmit(self) -> None:
            super().transmit()
            while self._top_up():
                super().transmit()

        def _top_up(self) -> bool:
            content = self._content
            if content is None or self._wire is None:
                return False
            if content.position - (self._wire.sent - self._wire_before) >= BACKLOG_LIMIT:
                return False
            if content.exhausted:
                self._content = None
                self._then()
                return False
            self._quic.send_stream_data(self._stream_id, content.next_piece())
            return True

        def quic_event_received(self, event: Any) -> None:
            if isinstance(event, stack.events.StreamDataReceived):
                self.on_data(event.stream_id, event.data, event.end_stream)
            elif isinstance(event, stack.events.ConnectionTerminated):
                self.on_terminated(f"error {event.error_code:#x} {event.reason_phrase}".strip())

    return StreamProtocol


class ServerStream:
    """The server's end of one stream: reads N, sends N bytes while the upload goes on, then ends with FIN."""

    def __init__(self, protocol: Any, stream_id: int, options: argparse.Namespace) -> None:
        self._protocol = protocol
        self._stream_id = stream_id
        self._options = options
        self._header = bytearray()
        self._content: Content | None = None
        self._sink = Sink(options.checksum)
        self._began = time.perf_counter()
        self._halves_left = 2

    def handle(self, data: bytes, fin: bool) -> None:
        if len(self._header) < HEADER_SIZE:
            missing = HEADER_SIZE - len(self._header)
            self._header += data[:missing]
            data = data[missing:]
            if len(self._header) == HEADER_SIZE:
                size = int.from_bytes(self._header, "big")
                self._content = Content(size, self._options.seed, self._options.checksum)
                self._protocol.feed(self._stream_id, self._content, self._end_half)
        if data:
            self._sink.write(data)
        if fin:
            self._end_half()

    def _end_half(self) -> None:
        self._halves_left -= 1
        if self._halves_left == 0:
            self._protocol.finish(self._stream_id)
            seconds = time.perf_counter() - (self._sink.began or self._began)
            report("server", self._content, self._sink, seconds)


def configure(stack: Any, options: argparse.Namespace) -> Any:
    configuration = stack.configuration.QuicConfiguration(
        alpn_protocols=[ALPN], is_client=options.role == "client"
    )
    if options.role == "server":
        configuration.load_cert_chain(options.cert, options.key)
    else:
        configuration.load_verify_locations(options.ca)
        configuration.server_name = options.name
        if options.first_version is not None:
            configuration.original_version = options.first_version
            configuration.supported_versions = [options.first_version, 1]
    return configuration


async def serve(stack: Any, options: argparse.Namespace) -> int:
    streams: dict[tuple[int, int], ServerStream] = {}

    class Protocol(protocol_class(stack)):  # type: ignore[misc]
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            self.on_data = self._handle_data

        def _handle_data(self, stream_id: int, data: bytes, fin: bool) -> None:
            key = (id(self), stream_id)
            stream = streams.get(key)
            if stream is None:
                stream = streams[key] = ServerStream(self, stream_id, options)
            if fin:
                del streams[key]
            stream.handle(data, fin)

    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    server = await stack.asyncio.serve(
        options.host,
        options.port,
        configuration=configure(stack, options),
        create_protocol=Protocol,
        retry=options.retry,
    )
    port = server._transport.get_extra_info("sockname")[1]  # neither stack says it otherwise
    print(f"ready {port}", flush=True)
    await stop.wait()
    server.close()
    return 0


async def show_progress(sink: Sink, content: Content) -> None:
    while True:
        await asyncio.sleep(1)
        print(f"sent {content.position >> 20} MiB, received {sink.received >> 20} MiB", file=sys.stderr)


async def connect(stack: Any, options: argparse.Namespace) -> int:
    loop = asyncio.get_running_loop()
    done: asyncio.Future[None] = loop.create_future()
    sink = Sink(options.checksum)
    content = Content(options.upload, options.seed, options.checksum)

    def handle_data(stream_id: int, data: bytes, fin: bool) -> None:
        if data:
            sink.write(data)
        if fin and not done.done():
            done.set_result(None)

    def handle_terminated(reason: str) -> None:
        if not done.done():
            done.set_exception(ConnectionError(f"connection closed early: {reason}"))

    async with stack.asyncio.connect(
        options.host,
        options.port,
        configuration=configure(stack, options),
        create_protocol=protocol_class(stack),
    ) as protocol:
        protocol.on_data, protocol.on_terminated = handle_data, handle_terminated
        stream_id = protocol._quic.get_next_available_stream_id()
        progress = asyncio.create_task(show_progress(sink, content))
        began = time.perf_counter()
        protocol._quic.send_stream_data(stream_id, options.download.to_bytes(HEADER_SIZE, "big"))
        protocol.feed(stream_id, content, lambda: protocol.finish(stream_id))
        try:
            await done
        finally:
            progress.cancel()
        seconds = time.perf_counter() - began
    report("client", content, sink, seconds)
    return 0 if sink.received == options.download else 1


def parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("stack", choices=["aioquic", "qh3"])
    roles = parser.add_subparsers(dest="role", required=True)
    for role in ("server", "client"):
        arguments_of_role = roles.add_parser(role)
        arguments_of_role.add_argument("--host", default="127.0.0.1")
        arguments_of_role.add_argument("--port", type=int, default=0)
        arguments_of_role.add_argument("--seed", type=int, default=1)
        arguments_of_role.add_argument("--checksum", action="store_true", help="SHA-256 of both directions")
        if role == "server":
            arguments_of_role.add_argument("--cert", required=True)
            arguments_of_role.add_argument("--key", required=True)
            arguments_of_role.add_argument("--retry", action="store_true", help="clients prove their address")
        else:
            arguments_of_role.add_argument("--ca", required=True)
            arguments_of_role.add_argument("--name", default="localhost")
            arguments_of_role.add_argument(
                "--first-version", type=lambda text: int(text, 0), help="a QUIC version to begin with"
            )
            arguments_of_role.add_argument("--upload", type=int, default=0, metavar="BYTES")
            arguments_of_role.add_argument("--download", type=int, default=0, metavar="BYTES")
    return parser.parse_args(arguments)


class Stack:
    """The three modules of a stack that this program uses."""

    def __init__(self, name: str) -> None:
        self.asyncio = importlib.import_module(f"{name}.asyncio")
        self.configuration = importlib.import_module(f"{name}.quic.configuration")
        self.events = importlib.import_module(f"{name}.quic.events")


def main(arguments: list[str]) -> int:
    options = parse(arguments)
    try:
        return asyncio.run((serve if options.role == "server" else connect)(Stack(options.stack), options))
    except (ConnectionError, OSError) as error:
        print(f"{options.stack} {options.role}: {error or type(error).__name__}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
