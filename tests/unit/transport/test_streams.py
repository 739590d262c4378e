"""Streams, their limits and flow control, without a connection."""

from __future__ import annotations

import pytest

from quicfs.transport.errors import MisuseError, ProtocolViolation, TransportErrorCode
from quicfs.transport.flow import ReceiveWindow
from quicfs.transport.stream import RecvPart, RecvState, SendPart, SendState
from quicfs.transport.streams import BIDI, UNI, Streams
from quicfs.transport.transport_param import TransportParameters

LIMITS = TransportParameters(
    initial_max_data=1000,
    initial_max_stream_data_bidi_local=100,
    initial_max_stream_data_bidi_remote=200,
    initial_max_stream_data_uni=300,
    initial_max_streams_bidi=4,
    initial_max_streams_uni=2,
)


def streams(*, is_server: bool = False) -> Streams:
    made = Streams(is_server=is_server, ours=LIMITS)
    made.apply_peer_parameters(LIMITS)
    return made


def refuses(code: TransportErrorCode, call: object, *arguments: object, **keywords: object) -> None:
    with pytest.raises(ProtocolViolation) as caught:
        call(*arguments, **keywords)  # type: ignore[operator]
    assert caught.value.code == code


def test_identifiers_and_limits_of_the_four_kinds() -> None:
    """RFC 9000 §2.1: the two low bits; §4.6: the peer's limits."""
    client, server = streams(), streams(is_server=True)
    assert [client.open(BIDI).stream_id for _ in range(4)] == [0, 4, 8, 12]
    assert [client.open(UNI).stream_id for _ in range(2)] == [2, 6]
    assert [server.open(BIDI).stream_id, server.open(UNI).stream_id] == [1, 3]
    with pytest.raises(MisuseError):
        client.open(UNI)
    assert client.handle_max_streams(UNI, 3)
    assert client.open(UNI).stream_id == 10


def test_parts_and_windows_follow_the_kind() -> None:
    """RFC 9000 §18.2: which initial_max_stream_data counts for whom."""
    client, server = streams(), streams(is_server=True)
    ours = client.open(BIDI)
    assert ours.send is not None and ours.recv is not None
    assert (ours.send.credit.limit, ours.recv.window.limit) == (200, 100)
    theirs = server.for_frame(0, 0x08, receiving=True)
    assert theirs is not None and theirs.send is not None and theirs.recv is not None
    assert (theirs.send.credit.limit, theirs.recv.window.limit) == (100, 200)
    uni = server.for_frame(2, 0x08, receiving=True)
    assert uni is not None and uni.send is None and uni.recv is not None
    assert uni.recv.window.limit == 300


def test_frames_for_streams_that_cannot_be() -> None:
    """RFC 9000 §3, §4.6, §19.4 to §19.10."""
    server = streams(is_server=True)
    refuses(TransportErrorCode.STREAM_STATE_ERROR, server.for_frame, 1, 0x08, receiving=True)  # never opened
    refuses(TransportErrorCode.STREAM_STATE_ERROR, server.for_frame, 2, 0x05, receiving=False)  # receive-only
    server.open(UNI)
    refuses(TransportErrorCode.STREAM_STATE_ERROR, server.for_frame, 3, 0x08, receiving=True)  # send-only
    refuses(TransportErrorCode.STREAM_LIMIT_ERROR, server.for_frame, 16, 0x08, receiving=True)
    assert server.for_frame(12, 0x08, receiving=True) is not None
    assert [stream.stream_id for stream in server.incoming] == [0, 4, 8, 12]  # §3.2: all below it too


def test_closed_streams_are_forgotten_and_make_room() -> None:
    server = streams(is_server=True)
    for stream_id in (0, 4):
        stream = server.for_frame(stream_id, 0x08, receiving=True)
        assert stream is not None and stream.recv is not None and stream.send is not None
        stream.recv.handle_data(0, b"", True)
        stream.send.write(b"", True)
        stream.send.mark_sent(0, 0, True)
        assert not server.reap(stream)
        stream.send.on_ack(0, 0, True)
        assert server.reap(stream)
        assert server.for_frame(stream_id, 0x08, receiving=True) is None  # late frames are ignored
    assert list(server.renewals) == [BIDI]
    assert server.renew_limit(BIDI) == 6


def test_connection_limit() -> None:
    """RFC 9000 §4.1."""
    server = streams(is_server=True)
    server.count_received(1000, 0x08)
    refuses(TransportErrorCode.FLOW_CONTROL_ERROR, server.count_received, 1, 0x08)


def test_fin_before_the_data_counts_once() -> None:
    recv = RecvPart(100, 100)
    assert recv.handle_data(10, b"", True) == 10
    assert recv.handle_data(0, b"0123456789", False) == 0
    assert recv.state is RecvState.DATA_RECVD
    assert bytes(recv.take(100)) == b"0123456789"
    assert recv.state is RecvState.DATA_READ


def test_final_size_cannot_change() -> None:
    """RFC 9000 §4.5."""
    recv = RecvPart(100, 100)
    recv.handle_data(0, b"0123456789", True)
    refuses(TransportErrorCode.FINAL_SIZE_ERROR, recv.handle_data, 5, b"x" * 10, False)
    refuses(TransportErrorCode.FINAL_SIZE_ERROR, recv.handle_data, 0, b"x", True)
    refuses(TransportErrorCode.FINAL_SIZE_ERROR, recv.handle_reset, 7, 11)
    other = RecvPart(100, 100)
    other.handle_data(20, b"x", False)
    refuses(TransportErrorCode.FINAL_SIZE_ERROR, other.handle_data, 0, b"x", True)
    refuses(TransportErrorCode.FLOW_CONTROL_ERROR, other.handle_data, 100, b"x", False)


def test_reset_gives_up_what_is_queued() -> None:
    send = SendPart(100)
    send.write(b"abc" * 20, False)
    send.mark_sent(0, 30, False)
    assert send.reset(7)
    assert (send.state, send.queue.sent, send.queue.pending) == (SendState.RESET_SENT, 30, 0)
    assert not send.has_work() and not send.reset(8)
    send.on_lost(0, 30, False)
    assert not send.has_work()
    send.on_reset_acked()
    assert send.state is SendState.RESET_RECVD
    with pytest.raises(MisuseError):
        send.write(b"more", False)


def test_lost_fin_is_sent_again() -> None:
    send = SendPart(100)
    send.write(b"abc", True)
    assert send.next_chunk(100, 100) == (0, 3, True)
    send.mark_sent(0, 3, True)
    assert not send.has_work()
    send.on_lost(0, 3, True)
    assert send.next_chunk(100, 0) == (0, 3, True)  # needs no new credit
    send.mark_sent(0, 3, True)
    send.on_ack(0, 3, True)
    assert send.state is SendState.DATA_RECVD


def test_window_grows_with_the_bandwidth_delay_product() -> None:
    window = ReceiveWindow(100, 800)
    assert not window.consume(40)
    assert window.consume(20)
    assert window.renew(1.0, 0.1) == 160
    assert window.consume(60)
    assert window.renew(1.1, 0.1) == 120 + 200  # used up within two round trips: doubled
    assert window.consume(200)
    assert window.renew(9.0, 0.1) == 320 + 200  # slowly: it stays
