"""Record marking (RFC 5531 §11)."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quicfs.nfs import limits
from quicfs.nfs.rpc.errors import RpcErrorCode
from quicfs.nfs.rpc.record import Gather, MessageReader, RecordBuffer, RecordError
from tests.unit.nfs.rpc.streams import MemoryStream


def mark(data: bytes, *, last: bool = True) -> bytes:
    return (len(data) | (0x80000000 if last else 0)).to_bytes(4, "big") + data


def test_a_record_on_the_wire() -> None:
    gather = Gather()
    gather.add(b"abc", [b"de"])
    assert b"".join(gather.take()) == b"\x80\0\0\5abcde"
    assert gather.size == 0


def test_large_parts_are_not_copied() -> None:
    large = bytes(100_000)
    gather = Gather()
    gather.add(b"head", [b"small", large, b"tail"])
    gather.add(b"next", [])
    parts = gather.take()
    assert len(parts) == 3
    assert parts[1] is large
    assert bytes(parts[2]) == b"tail" + mark(b"next")


def test_a_message_in_one_piece_is_a_view() -> None:
    data = memoryview(mark(b"one") + mark(b"two"))
    first, second = RecordBuffer().feed(data)
    assert (bytes(first), bytes(second)) == (b"one", b"two")
    assert first.obj is data.obj


@given(
    messages=st.lists(st.lists(st.binary(max_size=40), min_size=1, max_size=5), max_size=6),
    cuts=st.lists(st.integers(1, 30), min_size=1, max_size=20),
)
def test_records_and_pieces_have_nothing_to_do_with_each_other(
    messages: list[list[bytes]], cuts: list[int]
) -> None:
    wire = b"".join(
        mark(part, last=number == len(parts) - 1) for parts in messages for number, part in enumerate(parts)
    )
    buffer = RecordBuffer()
    found: list[bytes] = []
    at = 0
    for turn in range(len(wire)):
        size = cuts[turn % len(cuts)]
        found += map(bytes, buffer.feed(memoryview(wire[at : at + size])))
        at += size
    assert found == [b"".join(parts) for parts in messages]
    assert not buffer.partial


@pytest.mark.parametrize(
    "data",
    [
        b"\xff\xff\xff\xff",
        b"\x7f\xff\xff\xff",
        mark(bytes(60), last=False) + mark(bytes(41)),
        mark(b"", last=False) * (limits.MAX_FRAGMENTS + 1),
    ],
)
def test_too_much(data: bytes) -> None:
    with pytest.raises(RecordError):
        RecordBuffer(100).feed(memoryview(data))


def test_what_was_announced_takes_no_memory_before_it_comes() -> None:
    buffer = RecordBuffer()
    assert buffer.feed(memoryview((limits.MAX_MESSAGE | 0x80000000).to_bytes(4, "big") + b"x")) == []
    assert buffer.partial


def test_silence_within_a_message() -> None:
    async def main() -> None:
        stream = MemoryStream()
        stream.arrive(mark(b"hello")[:-1])
        with pytest.raises(RecordError) as caught:
            await MessageReader(stream, silence=0.01).read()
        assert caught.value.code is RpcErrorCode.UNSPECIFIED_ERROR

    asyncio.run(main())


def test_the_end_within_a_message() -> None:
    async def main() -> None:
        stream = MemoryStream()
        stream.arrive(mark(b"hello")[:-1])
        stream.end()
        with pytest.raises(RecordError, match="middle"):
            await MessageReader(stream).read()

    asyncio.run(main())


def test_silence_between_messages_is_no_mistake() -> None:
    async def main() -> None:
        stream = MemoryStream()
        reader = MessageReader(stream, silence=0.001)
        reading = asyncio.create_task(reader.read())
        await asyncio.sleep(0.02)
        stream.arrive(mark(b"hello"))
        assert [bytes(message) for message in await reading] == [b"hello"]

    asyncio.run(main())


def test_a_flood_of_small_messages_is_told_apart_little_by_little() -> None:
    """A view of a message takes far more room than a message of a few bytes."""
    count = 5 * limits.BURST // 2
    wire = b"".join(
        (0x80000000 | 4).to_bytes(4, "big") + number.to_bytes(4, "big") for number in range(count)
    )
    buffer = RecordBuffer()
    bursts = [buffer.feed(memoryview(wire + b"\x80\0"))]
    while more := buffer.more():
        bursts.append(more)
    assert [len(burst) for burst in bursts] == [limits.BURST, limits.BURST, limits.BURST // 2]
    assert [int.from_bytes(message, "big") for burst in bursts for message in burst] == list(range(count))
    assert buffer.partial and buffer.feed(memoryview(b"\0\1x")) == [b"x"]
