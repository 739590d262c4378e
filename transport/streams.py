"""The streams of a connection: who may open how many, who has something to send, and the credit they share."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from quicfs.transport import limits
from quicfs.transport.errors import MisuseError, ProtocolViolation, TransportErrorCode
from quicfs.transport.fifo import Fifo
from quicfs.transport.flow import ReceiveWindow, SendCredit
from quicfs.transport.stream import RecvPart, SendPart, Stream
from quicfs.transport.transport_param import TransportParameters

BIDI: Final = 0
UNI: Final = 2


def is_server_initiated(stream_id: int) -> bool:
    return bool(stream_id & 1)


def is_unidirectional(stream_id: int) -> bool:
    return bool(stream_id & 2)


class _Opened:
    """Streams of one kind that one end opens."""

    __slots__ = ("closed", "limit", "opened", "window")

    def __init__(self, limit: int) -> None:
        self.opened = 0
        self.closed = 0
        self.limit = limit  # cumulative count, as MAX_STREAMS has it
        self.window = limit  # concurrent


class Streams:
    """All streams of one connection; the connection-level flow control is theirs too."""

    __slots__ = (
        "_is_server",
        "_local",
        "_peer",
        "_peer_parameters",
        "_streams",
        "incoming",
        "ours",
        "ready",
        "received",
        "recv_window",
        "renewals",
        "send_credit",
    )

    def __init__(self, *, is_server: bool, ours: TransportParameters) -> None:
        self._is_server = is_server
        self._streams: dict[int, Stream] = {}
        self.ours = ours
        self._peer_parameters = TransportParameters()
        self._local = {BIDI: _Opened(0), UNI: _Opened(0)}
        self._peer = {
            BIDI: _Opened(ours.initial_max_streams_bidi),
            UNI: _Opened(ours.initial_max_streams_uni),
        }
        self.recv_window = ReceiveWindow(ours.initial_max_data, limits.CONNECTION_WINDOW_MAX)
        self.received = 0  # the sum of the highest offsets of all streams
        self.send_credit = SendCredit()
        self.ready: dict[Stream, None] = {}  # may have something to send; in the order of their turns
        self.incoming: Fifo[Stream] = Fifo()  # opened by the peer, not yet accepted
        self.renewals: dict[int, None] = {}  # kinds (BIDI, UNI) whose MAX_STREAMS is due

    def __len__(self) -> int:
        return len(self._streams)

    def __iter__(self) -> Iterator[Stream]:
        return iter(list(self._streams.values()))

    @property
    def counts(self) -> tuple[int, int]:
        """How many streams this end has opened so far, and how many the peer."""
        local, peer = self._local, self._peer
        return local[BIDI].opened + local[UNI].opened, peer[BIDI].opened + peer[UNI].opened

    def get(self, stream_id: int) -> Stream | None:
        return self._streams.get(stream_id)

    # --- limits of the peer

    def apply_peer_parameters(self, peer: TransportParameters) -> None:
        self._peer_parameters = peer
        self.send_credit.raise_to(peer.initial_max_data)
        self._local[BIDI].limit = max(self._local[BIDI].limit, peer.initial_max_streams_bidi)
        self._local[UNI].limit = max(self._local[UNI].limit, peer.initial_max_streams_uni)

    def raise_limits(self, peer: TransportParameters) -> None:
        """Streams that were opened under remembered limits may go as far as the real ones, which are no smaller."""
        for stream in self:
            if stream.send is not None and stream.send.credit.raise_to(self._first_limit(stream, peer)):
                self.update_ready(stream)

    def start_again(self, peer: TransportParameters) -> list[Stream]:
        """Nothing has been sent, and `peer`'s limits replace the remembered ones (RFC 9001 §4.6.2). Returns the streams
        that these do not allow: they are given up, as if the peer had reset them."""
        self.send_credit = SendCredit()
        for opened in self._local.values():
            opened.limit = 0
        self.apply_peer_parameters(peer)
        given_up: list[Stream] = []
        for stream in self:
            send = stream.send
            assert send is not None, "the peer has opened none yet"
            opened = self._local[stream.stream_id & 2]
            if stream.stream_id >> 2 < opened.limit:
                send.start_again(self._first_limit(stream, peer))
                self.update_ready(stream)
                continue
            opened.opened = opened.limit
            del self._streams[stream.stream_id]
            self.ready.pop(stream, None)
            stream.give_up()
            given_up.append(stream)
        return given_up

    @staticmethod
    def _first_limit(stream: Stream, peer: TransportParameters) -> int:
        if is_unidirectional(stream.stream_id):
            return peer.initial_max_stream_data_uni
        return peer.initial_max_stream_data_bidi_remote

    def handle_max_streams(self, kind: int, limit: int) -> bool:
        if limit <= self._local[kind].limit:
            return False
        self._local[kind].limit = limit
        return True

    # --- opening

    def can_open(self, kind: int) -> bool:
        return self._local[kind].opened < self._local[kind].limit

    def next_id(self, kind: int) -> int:
        """The ID that `open` would give."""
        return self._local[kind].opened << 2 | kind | self._is_server

    def local_limit(self, kind: int) -> int:
        return self._local[kind].limit

    def open(self, kind: int) -> Stream:
        """Open the next stream of `kind`; MisuseError at the peer's limit."""
        opened = self._local[kind]
        if opened.opened >= opened.limit:
            raise MisuseError("the peer's limit of streams is reached")
        stream_id = self.next_id(kind)
        opened.opened += 1
        return self._create(stream_id, local=True)

    def _create(self, stream_id: int, *, local: bool) -> Stream:
        ours, peer = self.ours, self._peer_parameters
        largest = limits.STREAM_WINDOW_MAX
        send: SendPart | None = None
        recv: RecvPart | None = None
        if is_unidirectional(stream_id):
            if local:
                send = SendPart(peer.initial_max_stream_data_uni)
            else:
                recv = RecvPart(ours.initial_max_stream_data_uni, largest)
        elif local:
            send = SendPart(peer.initial_max_stream_data_bidi_remote)
            recv = RecvPart(ours.initial_max_stream_data_bidi_local, largest)
        else:
            send = SendPart(peer.initial_max_stream_data_bidi_local)
            recv = RecvPart(ours.initial_max_stream_data_bidi_remote, largest)
        stream = self._streams[stream_id] = Stream(stream_id, send, recv)
        return stream

    # --- frames from the peer

    def for_frame(self, stream_id: int, frame_type: int, *, receiving: bool) -> Stream | None:
        """The stream that a frame speaks of; opens the peer's streams up to it; None if it is closed.

        `receiving` tells whether the frame concerns our receiving part (STREAM, RESET_STREAM,
        STREAM_DATA_BLOCKED) or our sending part (MAX_STREAM_DATA, STOP_SENDING).
        """
        stream = self._streams.get(stream_id)
        if stream is not None:
            if (stream.recv if receiving else stream.send) is None:
                raise ProtocolViolation(
                    TransportErrorCode.STREAM_STATE_ERROR,
                    "frame for the wrong direction of a stream",
                    frame_type,
                )
            return stream
        kind = stream_id & 2
        index = stream_id >> 2
        if is_server_initiated(stream_id) == self._is_server:
            # RFC 9000 §19.4, §19.5, §19.8, §19.10: a stream of ours that was not opened -> STREAM_STATE_ERROR
            if index >= self._local[kind].opened or (receiving and kind == UNI):
                raise ProtocolViolation(
                    TransportErrorCode.STREAM_STATE_ERROR,
                    "frame for a stream that does not exist",
                    frame_type,
                )
            return None
        if not receiving and kind == UNI:
            raise ProtocolViolation(
                TransportErrorCode.STREAM_STATE_ERROR, "frame for a receive-only stream", frame_type
            )
        opened = self._peer[kind]
        if index < opened.opened:
            return None
        # RFC 9000 §4.6: beyond MAX_STREAMS -> STREAM_LIMIT_ERROR
        if index >= opened.limit:
            raise ProtocolViolation(TransportErrorCode.STREAM_LIMIT_ERROR, "too many streams", frame_type)
        while opened.opened <= index:  # RFC 9000 §3.2: lower-numbered ones of the kind are opened with it
            created = self._create(opened.opened << 2 | kind | (not self._is_server), local=False)
            self.incoming.append(created)
            opened.opened += 1
        return self._streams[stream_id]

    def count_received(self, grown: int, frame_type: int) -> None:
        self.received += grown
        # RFC 9000 §4.1: beyond MAX_DATA -> FLOW_CONTROL_ERROR
        if self.received > self.recv_window.limit:
            raise ProtocolViolation(
                TransportErrorCode.FLOW_CONTROL_ERROR, "connection limit exceeded", frame_type
            )

    # --- sending

    def update_ready(self, stream: Stream) -> None:
        """Put the stream in line if it has something to send, else take it out."""
        if stream.send is not None and stream.send.has_work():
            self.ready[stream] = None
        else:
            self.ready.pop(stream, None)

    def rotate(self, stream: Stream) -> None:
        """The stream had its turn."""
        if stream in self.ready:
            del self.ready[stream]
            self.ready[stream] = None

    # --- the end

    def reap(self, stream: Stream) -> bool:
        """Forget the stream if both its parts are done; True if it is gone."""
        if not stream.closed or stream.stream_id not in self._streams:
            return False
        del self._streams[stream.stream_id]
        self.ready.pop(stream, None)
        kind = stream.stream_id & 2
        if is_server_initiated(stream.stream_id) != self._is_server:
            opened = self._peer[kind]
            opened.closed += 1
            # Half a window at a time, but at once for a peer that has nothing left: its other streams may live long.
            if opened.limit - opened.closed <= opened.window // 2 or opened.opened >= opened.limit:
                self.renewals[kind] = None
        return True

    def renew_limit(self, kind: int) -> int:
        """The new MAX_STREAMS of a kind: as many concurrent streams as at first."""
        opened = self._peer[kind]
        opened.limit = max(opened.limit, opened.closed + opened.window)
        return opened.limit
