"""Reassembly and retransmission: bytes in order, exactly once, whatever the order of events."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quicfs.transport import limits
from quicfs.transport.errors import ProtocolViolation
from quicfs.transport.inqueue import InQueue
from quicfs.transport.outqueue import OutQueue

CONTENT = bytes(range(256)) * 2


@given(
    st.lists(st.tuples(st.integers(0, 200), st.integers(0, 90)), max_size=40),
    st.integers(1, 64),
)
def test_pieces_in_any_order(pieces: list[tuple[int, int]], limit: int) -> None:
    queue = InQueue()
    here: set[int] = set()
    out = b""
    for index, (offset, length) in enumerate(pieces):
        queue.insert(offset, CONTENT[offset : offset + length])
        here |= set(range(offset, offset + length))
        while piece := queue.take(limit):
            assert len(piece) <= limit
            out += piece
        whole = next((i for i in range(600) if i not in here), 600)
        assert out == CONTENT[:whole]
        assert queue.contiguous == queue.read == whole
        assert queue.highest == max(offset + length for offset, length in pieces[: index + 1])
        assert queue.fragment_bytes == len(here - set(range(whole)))


def test_holes_are_bounded() -> None:
    queue = InQueue()
    with pytest.raises(ProtocolViolation):
        for i in range(limits.MAX_FRAGMENTS + 1):
            queue.insert(2 * i + 1, b"x")


@given(st.data())
def test_everything_written_is_sent_until_it_is_acknowledged(data: st.DataObject) -> None:
    queue = OutQueue()
    written = b""
    arrived = bytearray(600)
    got: set[int] = set()
    flying: list[tuple[int, int]] = []
    for _ in range(data.draw(st.integers(0, 40))):
        verb = data.draw(st.sampled_from(["write", "send", "ack", "lose"]))
        if verb == "write" and len(written) < 400:
            piece = CONTENT[len(written) : len(written) + data.draw(st.integers(0, 40))]
            queue.write(piece)
            written += piece
        elif verb == "send":
            lost = queue.first_lost()
            start, stop = lost if lost is not None else (queue.sent, queue.end)
            stop = min(stop, start + data.draw(st.integers(1, 30)))
            if start < stop:
                view = queue.view(start, stop - start)
                assert bytes(view) == written[start:stop]
                queue.mark_sent(start, stop)
                flying.append((start, stop))
        elif flying:
            start, stop = flying.pop(data.draw(st.integers(0, len(flying) - 1)))
            if verb == "ack":
                arrived[start:stop] = written[start:stop]
                got |= set(range(start, stop))
                queue.on_ack(start, stop)
            else:
                queue.on_lost(start, stop)
        assert queue.acked == next(i for i in range(601) if i not in got)
        assert queue.pending == len(written) - queue.acked
    # No more losses: everything goes through.
    while flying or queue.has_lost or queue.unsent:
        while flying:
            start, stop = flying.pop()
            queue.on_ack(start, stop)
            got |= set(range(start, stop))
        lost = queue.first_lost()
        start, stop = lost if lost is not None else (queue.sent, queue.end)
        if start < stop:
            assert bytes(queue.view(start, stop - start)) == written[start:stop]
            queue.mark_sent(start, stop)
            flying.append((start, stop))
    assert queue.acked == queue.end == len(written) == len(got)


def test_what_is_contiguous_is_viewed_without_a_copy() -> None:
    queue = OutQueue()
    pieces = [bytearray(10), bytearray(20), bytearray(5)]
    for piece in pieces:
        queue.write(memoryview(piece))
    assert [queue.contiguous(start) for start in (0, 9, 10, 29, 30, 34)] == [10, 1, 20, 1, 5, 1]
    view = queue.view(12, queue.contiguous(12))
    pieces[1][2] = 7
    assert (len(view), view[0]) == (18, 7)
