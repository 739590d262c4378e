"""Notifications: only what was subscribed to, bounded, in the layout of the socket interface."""

import pytest

from quicfs.transport import limits
from quicfs.transport.errors import ClosedError
from quicfs.transport.events import Events, pack_close
from quicfs.transport.stream import RecvPart, SendPart, Stream
from quicfs.transport.uapi import Event, StreamState, StreamUpdate


def subscribed(*events: Event) -> Events:
    queue = Events()
    for event in events:
        queue.mask |= 1 << event
    return queue


def updates(queue: Events) -> list[StreamUpdate]:
    found = []
    while queue:
        event, payload = queue.popleft()
        assert event is Event.STREAM_UPDATE
        found.append(StreamUpdate.unpack(payload))
    return found


def test_nobody_asked_so_nothing_waits() -> None:
    queue = subscribed(Event.KEY_UPDATE)
    queue.add(Event.NEW_TOKEN, b"token")
    assert not queue
    queue.add(Event.KEY_UPDATE, b"\x01")
    assert queue.popleft() == (Event.KEY_UPDATE, b"\x01")


def test_the_oldest_go_when_nobody_receives(caplog: pytest.LogCaptureFixture) -> None:
    queue = subscribed(Event.NEW_TOKEN)
    for number in range(limits.MAX_EVENTS + 3):
        queue.add(Event.NEW_TOKEN, number.to_bytes(2, "big"))
    assert len(queue) == limits.MAX_EVENTS
    assert queue.dropped == 3
    assert queue.popleft() == (Event.NEW_TOKEN, b"\x00\x03")
    assert len(caplog.records) == 1


def test_the_receiving_part_tells_each_state_once() -> None:
    queue = subscribed(Event.STREAM_UPDATE)
    stream = Stream(1, None, RecvPart(1000, 1000))
    assert stream.recv is not None
    stream.recv.handle_data(0, b"abc", False)
    queue.note_stream(stream)
    queue.note_stream(stream)
    stream.recv.handle_data(6, b"ghi", True)
    queue.note_stream(stream)
    stream.recv.handle_data(3, b"def", False)
    queue.note_stream(stream)
    stream.recv.take(9)
    queue.note_stream(stream)
    assert [(update.state, update.finalsz) for update in updates(queue)] == [
        (StreamState.RECV_RECV, 0),
        (StreamState.RECV_SIZE_KNOWN, 9),
        (StreamState.RECV_RECVD, 9),
    ]


def test_a_reset_comes_with_its_code_and_final_size() -> None:
    queue = subscribed(Event.STREAM_UPDATE)
    stream = Stream(3, None, RecvPart(1000, 1000))
    assert stream.recv is not None
    stream.recv.handle_reset(77, 12)
    queue.note_stream(stream)
    assert updates(queue) == [StreamUpdate(3, StreamState.RECV_RESET_RECVD, 77, 12)]


def test_the_sending_part_tells_how_it_ended() -> None:
    queue = subscribed(Event.STREAM_UPDATE)
    stream = Stream(0, SendPart(1000), RecvPart(1000, 1000))
    assert stream.send is not None
    stream.send.write(b"abc", False)
    stream.send.reset(9)
    queue.note_stream(stream)
    stream.send.on_reset_acked()
    queue.note_stream(stream)
    assert [update.state for update in updates(queue)] == [
        StreamState.SEND_RESET_SENT,
        StreamState.SEND_RESET_RECVD,
    ]


def test_a_close_is_told_with_its_phrase_unless_it_was_ours() -> None:
    queue = subscribed(Event.CONNECTION_CLOSE)
    queue.note_close(ClosedError(5, True, "own", remote=False))
    assert not queue
    closed = ClosedError(7, False, "bye", remote=True, frame_type=0x1C)
    queue.note_close(closed)
    event, payload = queue.popleft()
    assert event is Event.CONNECTION_CLOSE
    assert payload == pack_close(closed)
    assert payload[:5] == (7).to_bytes(4, "little") + b"\x1c"
    assert payload[8:] == b"bye\0"
