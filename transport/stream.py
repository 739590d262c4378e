"""One stream: its sending and its receiving part, each with the states of RFC 9000 §3."""

from __future__ import annotations

import enum
from typing import Final

from quicfs.transport.errors import MisuseError, ProtocolViolation, TransportErrorCode
from quicfs.transport.flow import ReceiveWindow, SendCredit
from quicfs.transport.inqueue import InQueue
from quicfs.transport.outqueue import OutQueue


class SendState(enum.Enum):
    """RFC 9000 §3.1.

    READY -> SEND -> DATA_SENT -> DATA_RECVD
      |       |         |
      +-------+---------+-> RESET_SENT -> RESET_RECVD
    """

    READY = enum.auto()
    SEND = enum.auto()
    DATA_SENT = enum.auto()
    DATA_RECVD = enum.auto()
    RESET_SENT = enum.auto()
    RESET_RECVD = enum.auto()


class RecvState(enum.Enum):
    """RFC 9000 §3.2.

    RECV -> SIZE_KNOWN -> DATA_RECVD -> DATA_READ
      |        |              |
      +--------+--------------+-> RESET_RECVD -> RESET_READ
    """

    RECV = enum.auto()
    SIZE_KNOWN = enum.auto()
    DATA_RECVD = enum.auto()
    DATA_READ = enum.auto()
    RESET_RECVD = enum.auto()
    RESET_READ = enum.auto()


_RESETTABLE: Final = {SendState.READY, SendState.SEND, SendState.DATA_SENT}
SEND_DONE: Final = {SendState.DATA_RECVD, SendState.RESET_RECVD}
RECV_DONE: Final = {RecvState.DATA_READ, RecvState.RESET_READ}


class SendPart:
    """What we write to a stream."""

    __slots__ = ("credit", "error_code", "fin_acked", "fin_sent", "finished", "queue", "state", "stop_code")

    def __init__(self, limit: int) -> None:
        self.state = SendState.READY
        self.queue = OutQueue()
        self.credit = SendCredit(limit)
        self.finished = False  # the writer wrote its last byte
        self.fin_sent = False
        self.fin_acked = False
        self.error_code = 0
        self.stop_code: int | None = None  # STOP_SENDING came with it

    def write(self, data: bytes | memoryview, fin: bool) -> None:
        if self.finished or self.state not in (SendState.READY, SendState.SEND):
            raise MisuseError(f"write to a stream in state {self.state.name}")
        self.queue.write(data)
        self.finished = fin
        self.state = SendState.SEND

    def has_work(self) -> bool:
        """Whether something may be sent now, the connection's credit aside."""
        if self.state not in (SendState.SEND, SendState.DATA_SENT):
            return False
        queue = self.queue
        return (
            queue.has_lost
            or (queue.sent < queue.end and queue.sent < self.credit.limit)
            or (self.finished and not self.fin_sent and queue.sent == queue.end)
        )

    def blocked(self) -> bool:
        """Whether only the peer's limit keeps us from sending (RFC 9000 §4.1)."""
        return self.queue.sent < self.queue.end and self.queue.sent >= self.credit.limit

    def next_chunk(self, room: int, credit: int) -> tuple[int, int, bool] | None:
        """What to send next as `(offset, length, fin)`: lost bytes first, then new ones.

        `room` bounds the length, `credit` is the connection's, for new bytes.
        """
        queue = self.queue
        lost = queue.first_lost()
        if lost is not None:
            offset, stop = lost
            length = min(room, stop - offset)
        else:
            offset = queue.sent
            length = min(room, queue.end - offset, self.credit.limit - offset, credit)
            if length <= 0 and not (self.finished and not self.fin_sent and offset == queue.end):
                return None
            length = max(length, 0)
        return offset, length, self.finished and offset + length == queue.end

    def mark_sent(self, offset: int, stop: int, fin: bool) -> int:
        """Note that the range left; returns how many bytes of it were new."""
        fresh = max(0, stop - self.queue.sent)
        self.queue.mark_sent(offset, stop)
        if fin:
            self.fin_sent = True
            self.state = SendState.DATA_SENT
        return fresh

    def on_ack(self, start: int, stop: int, fin: bool) -> None:
        if self.state in (SendState.RESET_SENT, SendState.RESET_RECVD):
            return
        self.queue.on_ack(start, stop)
        if fin:
            self.fin_acked = True
        if self.fin_acked and self.queue.acked == self.queue.end:
            self.state = SendState.DATA_RECVD

    def on_lost(self, start: int, stop: int, fin: bool) -> None:
        if self.state not in (SendState.SEND, SendState.DATA_SENT):
            return
        self.queue.on_lost(start, stop)
        if fin and not self.fin_acked:
            self.fin_sent = False

    def reset(self, error_code: int) -> bool:
        """Give the stream up; True if the peer has to hear of it."""
        if self.state not in _RESETTABLE:
            return False
        self.state = SendState.RESET_SENT
        self.error_code = error_code
        final = self.queue.sent
        self.queue.discard()
        self.queue.sent = self.queue.end = self.queue.acked = final
        return True

    def start_again(self, limit: int) -> None:
        """As if nothing had been sent: the peer forgot it (RFC 9001 §4.6.2)."""
        self.credit = SendCredit(limit)
        self.fin_sent = False
        if self.state is SendState.RESET_SENT:
            self.queue.sent = self.queue.end = self.queue.acked = 0
            return
        self.queue.start_again()
        if self.state is SendState.DATA_SENT:
            self.state = SendState.SEND

    def on_reset_acked(self) -> None:
        if self.state is SendState.RESET_SENT:
            self.state = SendState.RESET_RECVD


class RecvPart:
    """What the peer writes to a stream."""

    __slots__ = ("error_code", "final_size", "queue", "state", "stop_sent", "window")

    def __init__(self, window: int, largest_window: int) -> None:
        self.state = RecvState.RECV
        self.queue = InQueue()
        self.window = ReceiveWindow(window, largest_window)
        self.final_size: int | None = None
        self.error_code = 0
        self.stop_sent: int | None = None  # our STOP_SENDING's error code

    def handle_data(self, offset: int, data: bytes | memoryview, fin: bool) -> int:
        """Take bytes; returns by how much the highest offset grew (RFC 9000 §4.1 counts that)."""
        end = offset + len(data)
        # RFC 9000 §4.1: beyond the advertised limit -> FLOW_CONTROL_ERROR
        if end > self.window.limit:
            raise ProtocolViolation(TransportErrorCode.FLOW_CONTROL_ERROR, "stream limit exceeded", 0x08)
        final = self.final_size
        # RFC 9000 §4.5: data past the final size, or another final size -> FINAL_SIZE_ERROR
        if final is not None and (end > final or (fin and end != final)):
            raise ProtocolViolation(TransportErrorCode.FINAL_SIZE_ERROR, "final size changed", 0x08)
        if fin and end < self.queue.highest:
            raise ProtocolViolation(TransportErrorCode.FINAL_SIZE_ERROR, "final size below data", 0x08)
        grown = max(0, end - self.queue.highest)
        if self.state in (RecvState.RECV, RecvState.SIZE_KNOWN):
            self.queue.insert(offset, data)
            if fin:
                self.final_size = end
                self.state = RecvState.SIZE_KNOWN
            if self.state is RecvState.SIZE_KNOWN and self.queue.contiguous == self.final_size:
                self.state = RecvState.DATA_RECVD
                self._settle()
        return grown

    def handle_reset(self, error_code: int, final_size: int) -> int:
        """RESET_STREAM came; returns by how much the highest offset grew."""
        if (self.final_size is not None and self.final_size != final_size) or final_size < self.queue.highest:
            raise ProtocolViolation(TransportErrorCode.FINAL_SIZE_ERROR, "final size changed by reset", 0x04)
        if final_size > self.window.limit:
            raise ProtocolViolation(TransportErrorCode.FLOW_CONTROL_ERROR, "stream limit exceeded", 0x04)
        grown = final_size - self.queue.highest
        if self.state in (RecvState.RECV, RecvState.SIZE_KNOWN):
            self.final_size = self.queue.highest = final_size
            self.error_code = error_code
            self.state = RecvState.RESET_RECVD
            self.queue.discard()
        return grown

    @property
    def readable(self) -> bool:
        """Whether a reader would not have to wait: bytes, the end, or a reset."""
        return self.queue.available > 0 or self.state not in (RecvState.RECV, RecvState.SIZE_KNOWN)

    def take(self, limit: int) -> memoryview:
        piece = self.queue.take(limit)
        self._settle()
        return piece

    def _settle(self) -> None:
        if self.state is RecvState.DATA_RECVD and self.queue.read == self.final_size:
            self.state = RecvState.DATA_READ

    def on_reset_read(self) -> None:
        if self.state is RecvState.RESET_RECVD:
            self.state = RecvState.RESET_READ


class Stream:
    """A stream of any of the four kinds (RFC 9000 §2.1); a part that the kind does not have is None."""

    __slots__ = ("__weakref__", "early", "recv", "send", "stream_id")

    def __init__(self, stream_id: int, send: SendPart | None, recv: RecvPart | None) -> None:
        self.stream_id = stream_id
        self.early = False  # something of it came in 0-RTT packets
        self.send = send
        self.recv = recv

    def give_up(self) -> None:
        """The peer does not know the stream after all: its users see it reset."""
        if self.send is not None:
            self.send.reset(0)
            self.send.on_reset_acked()
            self.send.stop_code = 0
        if self.recv is not None:
            self.recv.state = RecvState.RESET_RECVD

    @property
    def closed(self) -> bool:
        return (self.send is None or self.send.state in SEND_DONE) and (
            self.recv is None or self.recv.state in RECV_DONE
        )
