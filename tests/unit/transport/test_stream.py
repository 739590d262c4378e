"""The two parts of a stream and their states (RFC 9000 §3, §4.5)."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quicfs.transport.errors import MisuseError, ProtocolViolation
from quicfs.transport.errors import TransportErrorCode as Code
from quicfs.transport.stream import RecvPart, RecvState, SendPart, SendState, Stream

CREDIT = 1 << 40


def violation(part: RecvPart, offset: int, data: bytes, fin: bool = False) -> int:
    with pytest.raises(ProtocolViolation) as caught:
        part.handle_data(offset, data, fin)
    return caught.value.code


def everything(part: RecvPart) -> bytes:
    data = b""
    while piece := part.take(1 << 20):
        data += piece
    return data


# --- sending -----------------------------------------------------------------------------------------


def test_send_states() -> None:
    part = SendPart(100)
    assert part.state is SendState.READY
    part.write(b"abc", False)
    assert part.state is SendState.SEND
    assert part.next_chunk(1000, CREDIT) == (0, 3, False)
    assert part.mark_sent(0, 3, False) == 3
    assert not part.has_work()
    part.write(b"de", True)
    assert part.next_chunk(1000, CREDIT) == (3, 2, True)
    part.mark_sent(3, 5, True)
    assert part.state is SendState.DATA_SENT
    with pytest.raises(MisuseError):
        part.write(b"f", False)
    part.on_ack(3, 5, True)
    assert part.state is SendState.DATA_SENT
    part.on_ack(0, 3, False)
    assert part.state is SendState.DATA_RECVD


def test_limits_of_credit_and_room() -> None:
    part = SendPart(10)
    part.write(bytes(50), False)
    assert part.next_chunk(4, CREDIT) == (0, 4, False)
    assert part.next_chunk(100, 7) == (0, 7, False)
    assert part.next_chunk(100, CREDIT) == (0, 10, False)
    part.mark_sent(0, 10, False)
    assert part.next_chunk(100, CREDIT) is None
    assert part.blocked()
    part.credit.raise_to(50)
    assert not part.blocked()
    assert part.next_chunk(100, CREDIT) == (10, 40, False)


def test_lost_bytes_come_first_and_cost_no_credit() -> None:
    part = SendPart(100)
    part.write(bytes(30), False)
    part.mark_sent(0, 20, False)
    part.on_lost(5, 10, False)
    assert part.next_chunk(100, 0) == (5, 5, False)
    assert part.mark_sent(5, 10, False) == 0
    assert part.next_chunk(100, 0) is None
    assert part.next_chunk(100, 3) == (20, 3, False)


def test_lost_end_is_sent_again() -> None:
    part = SendPart(100)
    part.write(b"", True)
    assert part.next_chunk(100, 0) == (0, 0, True)
    part.mark_sent(0, 0, True)
    assert not part.has_work()
    part.on_lost(0, 0, True)
    assert part.has_work()
    assert part.next_chunk(100, 0) == (0, 0, True)
    part.mark_sent(0, 0, True)
    part.on_ack(0, 0, True)
    assert part.state is SendState.DATA_RECVD


def test_reset() -> None:
    part = SendPart(100)
    part.write(bytes(30), False)
    part.mark_sent(0, 20, False)
    assert part.reset(7)
    assert not part.reset(8)
    assert (part.state, part.error_code, part.queue.sent) == (SendState.RESET_SENT, 7, 20)
    part.on_lost(0, 20, False)
    part.on_ack(0, 5, False)
    assert not part.has_work()
    part.on_reset_acked()
    assert part.state is SendState.RESET_RECVD


# --- receiving ---------------------------------------------------------------------------------------


def test_receive_states() -> None:
    part = RecvPart(100, 100)
    assert part.handle_data(0, b"abc", False) == 3
    assert part.readable
    assert everything(part) == b"abc"
    assert not part.readable
    assert part.handle_data(5, b"fg", True) == 4
    assert (part.state, part.final_size) == (RecvState.SIZE_KNOWN, 7)
    assert part.handle_data(3, b"de", False) == 0
    assert part.state is RecvState.DATA_RECVD
    assert everything(part) == b"defg"
    assert part.state is RecvState.DATA_READ


def test_the_end_alone() -> None:
    part = RecvPart(100, 100)
    part.handle_data(0, b"", True)
    assert part.state is RecvState.DATA_READ
    assert part.readable


def test_receive_violations() -> None:
    assert violation(RecvPart(10, 10), 5, bytes(6)) == Code.FLOW_CONTROL_ERROR
    part = RecvPart(100, 100)
    part.handle_data(0, b"abc", True)
    assert violation(part, 3, b"d") == Code.FINAL_SIZE_ERROR
    assert violation(part, 0, b"ab", True) == Code.FINAL_SIZE_ERROR
    part = RecvPart(100, 100)
    part.handle_data(5, b"abc", False)
    assert violation(part, 0, b"ab", True) == Code.FINAL_SIZE_ERROR


def test_reset_by_the_peer() -> None:
    part = RecvPart(100, 100)
    part.handle_data(0, b"abc", False)
    assert part.handle_reset(9, 20) == 17
    assert (part.state, part.error_code) == (RecvState.RESET_RECVD, 9)
    assert part.handle_data(3, b"late", False) == 0
    with pytest.raises(ProtocolViolation):
        part.handle_reset(9, 21)
    part.on_reset_read()
    assert part.state is RecvState.RESET_READ


def test_reset_after_all_data_changes_nothing() -> None:
    part = RecvPart(100, 100)
    part.handle_data(0, b"abc", True)
    assert part.handle_reset(9, 3) == 0
    assert part.state is RecvState.DATA_RECVD
    assert everything(part) == b"abc"


def test_a_stream_is_closed_when_both_parts_are() -> None:
    send, recv = SendPart(10), RecvPart(10, 10)
    stream = Stream(0, send, recv)
    send.write(b"", True)
    send.mark_sent(0, 0, True)
    send.on_ack(0, 0, True)
    assert not stream.closed
    recv.handle_data(0, b"", True)
    assert stream.closed
    assert Stream(2, None, recv).closed


# --- both, joined by a bad path ----------------------------------------------------------------------


@given(st.lists(st.binary(max_size=40), max_size=12), st.integers(0, 2**32))
def test_any_order_of_losses_and_acks_carries_the_bytes(writes: list[bytes], seed: int) -> None:
    rng = random.Random(seed)
    send, recv = SendPart(1 << 20), RecvPart(1 << 20, 1 << 20)
    whole = b"".join(writes)
    for index, data in enumerate(writes):
        send.write(data, index == len(writes) - 1)
    if not writes:
        send.write(b"", True)
    under_way: list[tuple[int, int, bool]] = []
    got = b""
    for _ in range(10_000):
        if send.state is SendState.DATA_RECVD:
            break
        chunk = send.next_chunk(rng.randrange(1, 20), CREDIT) if send.has_work() else None
        if chunk is not None and rng.random() < 0.7:
            offset, length, fin = chunk
            data = bytes(send.queue.view(offset, length)) if length else b""
            send.mark_sent(offset, offset + length, fin)
            if rng.random() < 0.7:
                recv.handle_data(offset, data, fin)
                got += everything(recv)
                under_way.append((offset, offset + length, fin))
            else:
                send.on_lost(offset, offset + length, fin)
        elif under_way:
            start, stop, fin = under_way.pop(rng.randrange(len(under_way)))
            if rng.random() < 0.2:
                send.on_lost(start, stop, fin)  # spurious: it arrived after all
            else:
                send.on_ack(start, stop, fin)
    assert send.state is SendState.DATA_RECVD
    assert got == whole
    assert recv.state is RecvState.DATA_READ
