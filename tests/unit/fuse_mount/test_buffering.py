"""Crossing, read-ahead and write-behind over a file in memory, with an event loop in another thread."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator

import pytest

from quicfs.fuse_mount.buffers import Buffers
from quicfs.fuse_mount.crossing import CallAbandoned, Crossing
from quicfs.fuse_mount.options import MAX_IO
from quicfs.fuse_mount.readahead import PIECE, ReadAhead
from quicfs.fuse_mount.writeback import WriteBehind
from quicfs.vfs import Attr, FileKind, FsError, Node, OpenFile, SetAttr, Status


class MemoryFile(OpenFile):
    def __init__(self, content: bytes = b"") -> None:
        self.content = bytearray(content)
        self.calls: list[tuple[str, int, int]] = []
        self.fail: Status | None = None
        self.gate = asyncio.Event()
        self.gate.set()

    @property
    def node(self) -> Node:
        return Node()

    async def _pass(self) -> None:
        await self.gate.wait()
        if self.fail is not None:
            raise FsError(self.fail)

    async def read(self, offset: int, length: int) -> bytes:
        self.calls.append(("read", offset, length))
        await self._pass()
        return bytes(self.content[offset : offset + length])

    async def write(self, offset: int, data: bytes | memoryview, *, stable: bool = False) -> int:
        self.calls.append(("write", offset, len(data)))
        await self._pass()
        self.content[len(self.content) :] = bytes(max(offset - len(self.content), 0))
        self.content[offset : offset + len(data)] = data
        return len(data)

    async def getattr(self) -> Attr:
        return Attr(FileKind.REGULAR, 0, 1, 0, 0, len(self.content), 0, 1, 0, 0, 0, 0, 0)

    async def setattr(self, changes: SetAttr) -> Attr:
        return await self.getattr()

    async def fsync(self, *, data_only: bool = False) -> None:
        return None

    async def close(self) -> None:
        return None


@pytest.fixture
def loop() -> Iterator[asyncio.AbstractEventLoop]:
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    yield loop
    loop.call_soon_threadsafe(loop.stop)
    thread.join()
    loop.close()


@pytest.fixture
def crossing(loop: asyncio.AbstractEventLoop) -> Crossing:
    return Crossing(loop, 30, 5)


def writer_of(crossing: Crossing, file: MemoryFile, limit: int = 8 * MAX_IO) -> WriteBehind:
    return WriteBehind(crossing, file, Buffers(64 * MAX_IO), limit, lambda writer: None)


async def value(result: int) -> int:
    return result


async def forever() -> None:
    await asyncio.Event().wait()


def test_call(crossing: Crossing) -> None:
    assert crossing.call(value, 5) == 5


def test_errors_cross(crossing: Crossing) -> None:
    async def fail() -> None:
        raise FsError(Status.QUOTA, "the thing")

    with pytest.raises(FsError, match="the thing") as caught:
        crossing.call(fail)
    assert caught.value.status is Status.QUOTA


def test_broken_contract_is_an_error(crossing: Crossing, caplog: pytest.LogCaptureFixture) -> None:
    async def break_it() -> None:
        raise ValueError("oops")

    with pytest.raises(FsError) as caught:
        crossing.call(break_it)
    assert caught.value.status is Status.IO
    assert "contract" in caplog.text


def test_deadline(loop: asyncio.AbstractEventLoop) -> None:
    crossing = Crossing(loop, 0.5, 0.5)
    start = time.monotonic()
    with pytest.raises(FsError) as caught:
        crossing.call(forever)
    assert caught.value.status is Status.TIMEOUT
    assert time.monotonic() - start < 10
    assert crossing.call(value, 1) == 1


def test_silence_makes_others_fail_sooner(loop: asyncio.AbstractEventLoop) -> None:
    crossing = Crossing(loop, 1.0, 1.0)
    for _ in range(2):
        start = time.monotonic()
        with pytest.raises(FsError):
            crossing.call(forever)
    assert time.monotonic() - start < 0.9


def test_abandoned(loop: asyncio.AbstractEventLoop) -> None:
    crossing = Crossing(loop, 30, 5, abandoned=lambda interruptible: True)
    with pytest.raises(CallAbandoned):
        crossing.call(forever)


def test_closed_loop() -> None:
    loop = asyncio.new_event_loop()
    loop.close()
    with pytest.raises(FsError) as caught:
        Crossing(loop, 30, 5).call(value, 1)
    assert caught.value.status is Status.DISCONNECTED


def test_many_threads(crossing: Crossing) -> None:
    wrong: list[int] = []

    def work() -> None:
        wrong.extend(number for number in range(300) if crossing.call(value, number) != number)

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_small_writes_become_one(crossing: Crossing) -> None:
    file = MemoryFile()
    writer = writer_of(crossing, file)
    for number in range(100):
        writer.write(number * 10, b"0123456789")
    assert writer.end == 1000
    assert file.calls == []
    writer.flush()
    assert file.calls == [("write", 0, 1000)]
    assert file.content == b"0123456789" * 100
    assert not writer.dirty


def test_a_gap_begins_a_new_write(crossing: Crossing) -> None:
    file = MemoryFile()
    writer = writer_of(crossing, file)
    writer.write(0, b"aa")
    writer.write(10, b"bb")
    writer.flush()
    assert sorted(file.calls) == [("write", 0, 2), ("write", 10, 2)]
    assert writer.overlaps(0, 100) is False


def test_overlapping_writes_wait_for_each_other(crossing: Crossing, loop: asyncio.AbstractEventLoop) -> None:
    file = MemoryFile()
    loop.call_soon_threadsafe(file.gate.clear)
    writer = writer_of(crossing, file)
    for number in range(20):
        writer.write(0, bytes([number]) * 100)
    assert writer.overlaps(50, 51)
    loop.call_soon_threadsafe(file.gate.set)
    writer.flush()
    assert file.content == bytes([19]) * 100


def test_write_error_is_told_once(crossing: Crossing) -> None:
    file = MemoryFile()
    writer = writer_of(crossing, file)
    file.fail = Status.NO_SPACE
    writer.write(0, b"x")
    with pytest.raises(FsError) as caught:
        writer.flush()
    assert caught.value.status is Status.NO_SPACE
    file.fail = None
    writer.write(0, b"y")
    writer.flush()
    assert file.content == b"y"


def test_no_write_behind(crossing: Crossing) -> None:
    file = MemoryFile()
    writer = writer_of(crossing, file, limit=0)
    writer.write(0, b"x")
    assert file.content == b"x"


def test_sequential_reading(crossing: Crossing) -> None:
    content = bytes(range(256)) * (5 * PIECE // 256) + b"tail"
    file = MemoryFile(content)
    buffers = Buffers(64 * MAX_IO)
    reader = ReadAhead(crossing, file, buffers, 8 * MAX_IO)
    read = b"".join(bytes(reader.read(at, 100_000, len(content))) for at in range(0, len(content), 100_000))
    assert read == content
    assert len(file.calls) <= 8
    reader.drop()
    assert buffers.take(64 * MAX_IO)  # all was given back


def test_random_reading_fetches_no_more_than_asked(crossing: Crossing) -> None:
    file = MemoryFile(bytes(10 * PIECE))
    reader = ReadAhead(crossing, file, Buffers(64 * MAX_IO), 8 * MAX_IO)
    for at in (5, 3, 8, 1, 6):
        assert len(reader.read(at * PIECE, 4096, 10 * PIECE)) == 4096
    assert all(length == 4096 for _, _, length in file.calls)


def test_reading_without_room(crossing: Crossing) -> None:
    content = bytes(3 * PIECE)
    reader = ReadAhead(crossing, MemoryFile(content), Buffers(0), 8 * MAX_IO)
    assert (
        b"".join(bytes(reader.read(at, PIECE, len(content))) for at in range(0, 3 * PIECE, PIECE)) == content
    )


def test_failed_piece_is_read_again(crossing: Crossing) -> None:
    file = MemoryFile(bytes(1000))
    reader = ReadAhead(crossing, file, Buffers(64 * MAX_IO), 8 * MAX_IO)
    file.fail = Status.IO
    with pytest.raises(FsError):
        reader.read(0, 10, 1000)
    file.fail = None
    assert reader.read(0, 10, 1000) == bytes(10)
