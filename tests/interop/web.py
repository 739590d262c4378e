"""Files over QuicSocket, both ends. What the two sides say is a Dialect: HTTP/0.9 here, HTTP/3 in h3.py."""

from __future__ import annotations

import asyncio
import logging
import os
import stat
from collections.abc import AsyncIterator, Iterable, Iterator
from pathlib import Path
from typing import Final, Protocol

from quicfs.transport.errors import ClosedError
from quicfs.transport.quic_stream import QuicStream, StreamResetError
from quicfs.transport.socket import QuicSocket
from quicfs.vfs import FsError
from quicfs.vfs.openat2 import open_beneath
from tests.interop.contract import Request, requested_path

PARALLEL: Final = 64
"""Files of one connection under way at one time, on each side."""
MAX_REQUEST: Final = 4096
PIECE: Final = 256 * 1024
NO_SUCH_FILE: Final = 0x10
"""Error code of a stream whose request cannot be answered."""

_UNIDIRECTIONAL: Final = 0x02  # RFC 9000 §2.1

_log = logging.getLogger("web")


class Dialect(Protocol):
    """How a file is asked for on a stream and how it comes back."""

    alpn: str

    async def start(self, sock: QuicSocket) -> None:
        """What either side says before anything else."""

    def ask(self, stream_id: int, request: Request) -> bytes:
        """Client: the request, complete."""

    def body(self, stream: QuicStream) -> AsyncIterator[bytes | memoryview]:
        """Client: the bytes of the file. Raises OSError when the server has none."""

    async def asked(self, stream: QuicStream) -> bytes | None:
        """Server: the path that is asked for, without its slash; None if it is no request."""

    def answer(self, stream_id: int, size: int) -> bytes:
        """Server: what comes before the bytes of a file."""


class Http09:
    """`GET /path\\r\\n`, then the file; each side ends with FIN."""

    alpn = "hq-interop"

    async def start(self, sock: QuicSocket) -> None:
        """Nothing."""

    def ask(self, stream_id: int, request: Request) -> bytes:
        return b"GET " + request.path.encode() + b"\r\n"

    async def body(self, stream: QuicStream) -> AsyncIterator[bytes | memoryview]:
        while piece := await stream.recv(PIECE):
            yield piece

    async def asked(self, stream: QuicStream) -> bytes | None:
        line = b""
        while b"\n" not in line and len(line) < MAX_REQUEST:
            piece = await stream.recv(MAX_REQUEST)
            if not piece:
                break
            line += piece
        return requested_path(line.partition(b"\n")[0])

    def answer(self, stream_id: int, size: int) -> bytes:
        return b""


async def fetch_all(sock: QuicSocket, dialect: Dialect, requests: Iterable[Request], folder: Path) -> None:
    """Fetch every file on one connection, PARALLEL at a time. Raises OSError at the first that fails."""
    left = iter(requests)
    try:
        async with asyncio.TaskGroup() as group:
            for _ in range(PARALLEL):
                group.create_task(_fetch_in_turn(sock, dialect, left, folder))
    except* OSError as failures:
        raise failures.exceptions[0] from None


async def _fetch_in_turn(sock: QuicSocket, dialect: Dialect, left: Iterator[Request], folder: Path) -> None:
    for request in left:
        stream = await sock.wait_open_stream()
        await stream.send(dialect.ask(stream.stream_id, request))
        await stream.send_eof()
        with (folder / request.file_name).open("wb") as file:
            async for piece in dialect.body(stream):
                file.write(piece)


class FileServer:
    """Serves what lies below a folder, to any number of connections."""

    def __init__(self, www: Path) -> None:
        self._root = os.open(www, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)

    def close(self) -> None:
        os.close(self._root)

    async def serve(self, sock: QuicSocket, dialect: Dialect) -> None:
        """Answer the requests of one connection until it ends."""
        room = asyncio.Semaphore(PARALLEL)
        async with asyncio.TaskGroup() as group:
            await dialect.start(sock)
            while True:
                await room.acquire()
                try:
                    stream = await self._next_request(sock)
                except ClosedError:
                    return
                group.create_task(self._answer(dialect, stream)).add_done_callback(lambda _: room.release())

    async def _next_request(self, sock: QuicSocket) -> QuicStream:
        while True:
            stream = await sock.accept_stream()
            if not stream.stream_id & _UNIDIRECTIONAL:  # what HTTP/3 says on those is of no use to us
                return stream

    async def _answer(self, dialect: Dialect, stream: QuicStream) -> None:
        try:
            path = await dialect.asked(stream)
            file = None if path is None else self._open(path)
            if file is None:
                _log.info("refused %r", path)
                stream.reset(NO_SUCH_FILE)
                return
            with os.fdopen(file, "rb") as content:
                await stream.send(dialect.answer(stream.stream_id, os.fstat(file).st_size))
                while piece := content.read(PIECE):
                    await stream.send(piece)
            await stream.send_eof()
        except (ClosedError, StreamResetError) as error:
            _log.info("stream %d: %s", stream.stream_id, error)

    def _open(self, path: bytes) -> int | None:
        """A regular file below the folder, whatever the path says."""
        try:
            file = open_beneath(self._root, path, os.O_RDONLY | os.O_NONBLOCK)
        except (OSError, FsError):
            return None
        if stat.S_ISREG(os.fstat(file).st_mode):
            return file
        os.close(file)
        return None
