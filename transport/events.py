"""Notifications of a connection (draft-lxin-quic-socket-apis §6.1): what a consumer subscribed to, and what waits to be
received.

A notification is `(event, payload)`; `recvmsg` puts the event's number, one byte, before the payload. Payloads are
the structures of `uapi`, a 64-bit integer for STREAM_MAX_STREAM, one byte for KEY_UPDATE and
CONNECTION_MIGRATION, the bytes themselves for NEW_TOKEN and NEW_SESSION_TICKET.
"""

from __future__ import annotations

import logging
from struct import Struct
from typing import Final
from weakref import WeakKeyDictionary

from quicfs.transport import limits
from quicfs.transport.errors import ClosedError
from quicfs.transport.fifo import Fifo
from quicfs.transport.stream import RecvState, SendState, Stream
from quicfs.transport.uapi import PHRASE_MAX_LEN, Event, StreamState, StreamUpdate

_log = logging.getLogger("quicfs.transport")

_U32: Final = 0xFFFFFFFF  # codes are 62 bits wide on the wire, 32 in the structures
_CLOSE: Final = Struct("@IB3x")  # struct quic_connection_close up to its phrase

# What a consumer is told of, as in Linux: states that it cannot know from its own calls. What it read came before.
_SEND_NEWS: Final = {
    SendState.DATA_RECVD: StreamState.SEND_RECVD,
    SendState.RESET_SENT: StreamState.SEND_RESET_SENT,
    SendState.RESET_RECVD: StreamState.SEND_RESET_RECVD,
}
_RECV_NEWS: Final = {
    RecvState.RECV: StreamState.RECV_RECV,
    RecvState.SIZE_KNOWN: StreamState.RECV_SIZE_KNOWN,
    RecvState.DATA_RECVD: StreamState.RECV_RECVD,
    RecvState.DATA_READ: StreamState.RECV_RECVD,
    RecvState.RESET_RECVD: StreamState.RECV_RESET_RECVD,
    RecvState.RESET_READ: StreamState.RECV_RESET_RECVD,
}

_News = tuple[StreamState | None, StreamState | None]


class Events:
    """What waits, the oldest first, at most MAX_EVENTS: a consumer that does not receive loses the oldest ones."""

    __slots__ = ("_states", "_waiting", "dropped", "mask")

    def __init__(self) -> None:
        self.mask = 0  # bit n: subscribed to event n
        self.dropped = 0
        self._waiting: Fifo[tuple[Event, bytes]] = Fifo()
        self._states: WeakKeyDictionary[Stream, _News] = WeakKeyDictionary()

    def __len__(self) -> int:
        return len(self._waiting)

    def wants(self, event: Event) -> bool:
        return bool(self.mask >> event & 1)

    def add(self, event: Event, payload: bytes) -> None:
        """Queue a notification if somebody subscribed to it."""
        if not self.mask >> event & 1:
            return
        if len(self._waiting) >= limits.MAX_EVENTS:
            if not self.dropped:
                _log.warning("notifications are not received: the oldest are dropped")
            self.dropped += 1
            self._waiting.popleft()
        self._waiting.append((event, payload))

    def popleft(self) -> tuple[Event, bytes]:
        """The oldest one; IndexError if there is none."""
        return self._waiting.popleft()

    # --- what the connection notes

    def note_stream(self, stream: Stream) -> None:
        """The peer did something to the stream: STREAM_UPDATE for the states that are new."""
        if not self.wants(Event.STREAM_UPDATE):
            return
        send, recv = stream.send, stream.recv
        sending = _SEND_NEWS.get(send.state) if send is not None else None
        receiving = _RECV_NEWS.get(recv.state) if recv is not None else None
        if recv is not None and receiving is StreamState.RECV_RECV and not recv.queue.highest:
            receiving = None  # the peer has not begun
        before = self._states.get(stream, (None, None))
        if (sending, receiving) == before:
            return
        self._states[stream] = (sending, receiving)
        if send is not None and sending is not None and sending is not before[0]:
            self._update(stream, sending, send.error_code, send.queue.sent)
        if recv is not None and receiving is not None and receiving is not before[1]:
            self._update(stream, receiving, recv.error_code, recv.final_size or 0)

    def _update(self, stream: Stream, state: StreamState, error_code: int, final_size: int) -> None:
        update = StreamUpdate(stream.stream_id, state, error_code & _U32, final_size)
        self.add(Event.STREAM_UPDATE, update.pack())

    def note_close(self, closed: ClosedError) -> None:
        """The connection is over: CONNECTION_CLOSE, unless the consumer closed it itself."""
        if closed.remote or not closed.is_application:
            self.add(Event.CONNECTION_CLOSE, pack_close(closed))


def pack_close(closed: ClosedError) -> bytes:
    """Payload of CONNECTION_CLOSE: the structure, then the phrase and a zero byte, in their own length."""
    phrase = closed.reason.encode()[:PHRASE_MAX_LEN].split(b"\0", 1)[0]
    return _CLOSE.pack(closed.code & _U32, closed.frame_type & 0xFF) + phrase + b"\0"
