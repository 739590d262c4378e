"""A connection: the composition of its components, its states, and what may be asked of it.

Sans-IO. Trains come in through `handle_burst`, time through `handle_timeout`, the application's wishes through
plain verbs; datagrams go out through `poll_transmit`, deadlines through `next_timeout`. What happened meanwhile is
in `readable`, `writable`, `crypto_received` and `closed`, which the owner looks at after each of these calls.
"""

from __future__ import annotations

from collections.abc import Callable
from hmac import compare_digest
from typing import Any, Final

from quicfs.transport import (
    delivery,
    early_data,
    establish,
    key_update,
    limits,
    migration,
    rotation,
    rx,
    stats,
    tx,
)
from quicfs.transport.ack_frequency import AckFrequency
from quicfs.transport.builder import Transmit
from quicfs.transport.config import ConnectionConfig
from quicfs.transport.connid import ConnectionId, LocalConnectionIds, PeerConnectionIds
from quicfs.transport.crypto import CipherSuite, Keys
from quicfs.transport.crypto_received import CryptoReceived
from quicfs.transport.datagrams import Datagrams
from quicfs.transport.early_data import EarlyData
from quicfs.transport.errors import ClosedError, MisuseError, ProtocolViolation, TransportErrorCode
from quicfs.transport.events import Events
from quicfs.transport.frame import ConnectionCloseFrame, NewConnectionIdFrame
from quicfs.transport.frame_ack import AckFrame
from quicfs.transport.frame_type import FrameType
from quicfs.transport.grease import Grease
from quicfs.transport.key_update import KeyPhases
from quicfs.transport.packet import VERSION_1, PacketType
from quicfs.transport.path import Address
from quicfs.transport.paths import Paths
from quicfs.transport.pnspace import PacketNumberSpace
from quicfs.transport.recovery import Recovery
from quicfs.transport.sent import Record
from quicfs.transport.state import OPEN, TRANSITIONS, State
from quicfs.transport.stats import ConnectionStats
from quicfs.transport.stream import RecvState, Stream
from quicfs.transport.streams import BIDI, UNI, Streams
from quicfs.transport.timer import Timer, Timers
from quicfs.transport.trace import Tracer
from quicfs.transport.transport_param import PreferredAddress, TransportParameters
from quicfs.transport.uapi import CryptoLevel, Event
from quicfs.transport.versions import Versions
from quicfs.transport.work import Work


class Connection:
    """One QUIC connection. `now` is always seconds of one monotonic clock, `issue_cid` gives a fresh connection ID
    with its stateless reset token."""

    def __init__(
        self,
        config: ConnectionConfig,
        now: float,
        *,
        is_server: bool,
        remote: Address,
        local: Address,
        local_cid: tuple[bytes, bytes],
        peer_cid: bytes,
        original_dcid: bytes,
        issue_cid: Callable[[], tuple[bytes, bytes]],
        on_remote: Callable[[Address, bool], None],
        entropy: Callable[[int], bytes],
        retry_scid: bytes | None = None,
        address_validated: bool = False,
        mtu_bound: int = limits.MAX_UDP_PAYLOAD,
        version: int = VERSION_1,
        after_negotiation: bool = False,
    ) -> None:
        self.config = config
        self.is_server = is_server
        self.created_at = now
        self.established_at: float | None = None
        self.version = version
        self.versions = Versions(version, config.versions, reacted=after_negotiation)
        self.state = State.HANDSHAKE
        self.original_dcid = original_dcid
        self.retry_scid = retry_scid
        self.alpn = b""  # that TLS has chosen
        self.token = b""  # that a client puts into its Initials
        self.new_token = b""  # that the server gave for the next time
        self.local_cids = LocalConnectionIds(*local_cid)
        self.local_cid = local_cid[0]
        self.accepted_cids = {local_cid[0], original_dcid} if is_server else {local_cid[0]}
        self.peer_cids = PeerConnectionIds(peer_cid)
        self.peer_cid_fixed = is_server  # a client learns the server's ID from its first packet
        self._new_cid = issue_cid
        self.entropy = entropy
        self.grease = Grease(entropy)

        self.initial = PacketNumberSpace(PacketType.INITIAL, CryptoLevel.INITIAL, 0.0)
        self.handshake = PacketNumberSpace(PacketType.HANDSHAKE, CryptoLevel.HANDSHAKE, 0.0)
        ack_delay = config.parameters.max_ack_delay_ms / 1000  # as the peer is told
        self.application = PacketNumberSpace(PacketType.ONE_RTT, CryptoLevel.APP, ack_delay)
        self.spaces = (self.initial, self.handshake, self.application)
        self.key_phases = KeyPhases(config.update_keys_after)
        self.early = EarlyData()
        self.peer: TransportParameters | None = None
        self.mtu_bound = mtu_bound
        self.first_remote = remote
        self.invitation: PreferredAddress | None = None  # of the server, for the owner of a client to follow
        self.path = migration.new_path(
            self, remote, local, validated=address_validated or not is_server, limited=is_server
        )
        self.path.dcid = local_cid[0]
        self.path.active_at = now
        self.paths = Paths(self.path, on_remote)
        self.recovery = Recovery(self.spaces, self.path.congestion, peer_validated=is_server)
        self.ours = establish.own_parameters(self, config.parameters, local_cid)
        self.application.received.set_max_ack_delay(self.ours.max_ack_delay_ms / 1000)
        self.streams = Streams(is_server=is_server, ours=self.ours)
        self.idle_timeout = self.ours.max_idle_timeout_ms / 1000

        self.control: dict[Record, None] = {}  # frames due in 1-RTT packets
        self.readable: dict[Stream, None] = {}
        self.writable: dict[Stream, None] = {}
        self.events = Events()
        self.datagrams = Datagrams(self.ours.max_datagram_frame_size)
        self.ack_frequency = AckFrequency()
        self.crypto_received = CryptoReceived()
        self.undecryptable: list[tuple[bytes, int]] = []
        self.work = Work(now)
        self.continues: tuple[int, int] | None = (
            None  # stream ID below 64 and offset that a transfer goes on with
        )
        self.closed: ClosedError | None = None
        self.close_frame: ConnectionCloseFrame | None = None
        self.close_due = False
        self._trains_while_closing = 0
        self.app_limited = False
        self.bytes_received = 0  # on all paths
        self.sent_eliciting_since_received = False
        self.timers = Timers()
        self.timers.set(Timer.HANDSHAKE, now + config.handshake_timeout)
        self.touch(now)
        establish.install_initial_keys(
            self, retry_scid or original_dcid
        )  # RFC 9001 §5.2: of the Initial as it came
        self.trace: Tracer | None = config.trace(self, now) if config.trace is not None else None

    # --- what the endpoint calls

    def handle_burst(
        self,
        now: float,
        data: memoryview,
        segment_size: int,
        ecn: int,
        scratch: memoryview,
        remote: Address,
        local: Address,
    ) -> None:
        """A train of datagrams of `segment_size` bytes (the last may be shorter) came from `remote` to `local`.

        `data` is changed in place; `scratch` is at least as long and free to use.
        """
        self.bytes_received += len(data)
        if self.state in OPEN:
            rx.handle_burst(self, now, data, segment_size, ecn, scratch, remote, local)
        elif self.state is State.CLOSING and remote == self.path.remote:
            # RFC 9000 §10.2.1: it may be that the peer did not hear. The 1st, 2nd, 4th, 8th ... train is answered.
            self.path.bytes_received += len(data)
            self._trains_while_closing += 1
            self.close_due = self._trains_while_closing.bit_count() == 1
        if self.trace is not None:
            self.trace.update(now)

    def replay_undecryptable(self, now: float, scratch: memoryview) -> None:
        """Keys have come: datagrams that waited for them get another chance."""
        if self.undecryptable:
            rx.replay_undecryptable(self, now, scratch)

    def poll_transmit(self, now: float, buffer: memoryview) -> Transmit | None:
        """The next train to be sent, in `buffer`; None when there is nothing to send now."""
        transmit = tx.poll_transmit(self, now, buffer)
        if self.trace is not None:
            self.trace.update(now)
        return transmit

    def next_timeout(self) -> float | None:
        """When `handle_timeout` wants to be called at the latest."""
        timers = self.timers
        if self.state in OPEN:
            # RFC 9000 §8.1: only the peer can change that
            limited = self.path.allowance() < self.path.pmtud.current
            timers.set(Timer.LOSS, self.recovery.loss_deadline(at_amplification_limit=limited))
            ack_at: float | None = None
            for space in self.spaces:
                due = space.received.ack_at
                if due is not None and (ack_at is None or due < ack_at) and space.keys_out is not None:
                    ack_at = due
            if limited:
                ack_at = None  # what lifts the limit lets the ACK out too
            timers.set(Timer.ACK_DELAY, ack_at)
            timers.set(Timer.PMTUD, self.path.pmtud.timeout() if self.recovery.handshake_confirmed else None)
        return timers.next()

    def handle_timeout(self, now: float) -> None:
        """Time has come to `now`; timers that are due act. May be called at any time."""
        try:
            for timer in self.timers.expired(now):
                _ON_TIMER[timer](self, now)
        except ProtocolViolation as violation:  # the peer's fault all the same: too many retirements, say
            self.close(now, violation.code, violation.reason, frame_type=violation.frame_type)
        if self.trace is not None:
            self.trace.update(now)

    @property
    def stats(self) -> ConnectionStats:
        """What was done so far, in numbers."""
        return stats.collect(self)

    # --- timers

    def _on_idle_timer(self, now: float) -> None:
        # RFC 9000 §10.1: the connection is silently closed
        self._end(ClosedError(TransportErrorCode.NO_ERROR, False, "idle timeout", remote=False))

    def _on_handshake_timer(self, now: float) -> None:
        if self.state is State.HANDSHAKE:
            self._end(
                ClosedError(TransportErrorCode.NO_ERROR, False, "the peer does not answer", remote=False)
            )

    def _on_close_timer(self, now: float) -> None:
        self.move(State.CLOSED)

    def _on_keep_alive_timer(self, now: float) -> None:
        self.queue_control(FrameType.PING, None)
        self._arm_keep_alive(now)

    def _on_transmit_timer(self, now: float) -> None:
        return None  # an ACK or the pacer's next train: poll_transmit looks at the deadlines itself

    def _on_pmtud_timer(self, now: float) -> None:
        self.path.pmtud.on_timeout(now)

    def touch(self, now: float) -> None:
        """The peer was heard, or something ack-eliciting went out for the first time since (RFC 9000 §10.1)."""
        if self.idle_timeout:
            pto = self.recovery.rtt.pto_base(self.recovery.max_ack_delay)
            self.timers.set(Timer.IDLE, now + max(self.idle_timeout, 3 * pto))
        self._arm_keep_alive(now)

    def _arm_keep_alive(self, now: float) -> None:
        if self.config.keep_alive and self.state is State.CONNECTED:
            self.timers.set(Timer.KEEP_ALIVE, now + self.config.keep_alive)

    # --- paths

    def migrate(
        self, now: float, local: Address, *, remote: Address | None = None, at_once: bool = False
    ) -> None:
        """Move to another local address: validate the path first, then use it (RFC 9000 §9.2).

        `remote` is the server's preferred address, if it is not to stay the same. `at_once` uses the path before it
        is validated, since nothing gets through on the old one any more. MisuseError if that is not allowed, or
        not possible yet.
        """
        migration.migrate(self, now, local, remote=remote, at_once=at_once)

    # --- TLS, through the handshake contract

    def local_parameters(self) -> bytes:
        """Our transport parameters for TLS to deliver."""
        return self.ours.encode(is_server=self.is_server, grease=self.grease.parameter)

    def set_peer_parameters(self, data: bytes) -> None:
        """The peer's transport parameters as TLS delivered them; raises ProtocolViolation."""
        establish.set_peer_parameters(self, data)

    def handshake_complete(self, now: float) -> None:
        """TLS is done on our side."""
        establish.handshake_complete(self, now)

    def prepare_early_data(self, remembered: TransportParameters) -> None:
        """Client: use the limits that the server had when it gave the ticket, for 0-RTT."""
        early_data.prepare(self, remembered)

    def refuse_early_data(self) -> None:
        """TLS heard that the server does not take them; comes before the server's parameters."""
        early_data.refuse(self)

    def install_secret(self, level: int, suite: CipherSuite, secret: bytes, *, send: bool) -> None:
        if level == CryptoLevel.EARLY:
            early_data.install(self, suite, secret, send=send)
            return
        space = self.space_of(level)
        keys = Keys(suite, secret, self.version)
        if send:
            space.keys_out = keys
        else:
            space.keys_in = keys
        if space is self.application:
            self.early.keys_out = None  # RFC 9001 §4.9.3; and an ACK must not leave in a 0-RTT packet
            if not send:
                self.key_phases.prepare(keys)

    def update_keys(self, now: float) -> None:
        """Begin a key update (RFC 9001 §6); MisuseError when that is not permitted now."""
        key_update.update(self, now)

    def space_of(self, level: int) -> PacketNumberSpace:
        for space in self.spaces:
            if space.level == level:
                return space
        raise MisuseError(f"no packet number space for crypto level {level}")

    def send_crypto(self, level: int, data: bytes) -> None:
        establish.send_crypto(self, level, data)

    def deliver_crypto(self, level: int, data: bytes) -> None:
        """CRYPTO bytes in order, for whoever does the handshake."""
        # RFC 9000 §7.5: nobody has taken what came before -> CRYPTO_BUFFER_EXCEEDED
        if self.crypto_received.size + len(data) > limits.MAX_CRYPTO_BUFFER:
            raise ProtocolViolation(
                TransportErrorCode.CRYPTO_BUFFER_EXCEEDED, "too much CRYPTO data", FrameType.CRYPTO
            )
        self.crypto_received.append(level, data)

    # --- streams

    def open_stream(self, *, unidirectional: bool = False, report: bool = True) -> Stream:
        """MisuseError when the peer's limit is reached; with `report` STREAMS_BLOCKED tells the peer."""
        kind = UNI if unidirectional else BIDI
        if report and not self.streams.can_open(kind):
            self.queue_control(
                FrameType.STREAMS_BLOCKED_UNI if unidirectional else FrameType.STREAMS_BLOCKED_BIDI, kind
            )
        return self.streams.open(kind)

    def write_stream(self, stream: Stream, data: bytes | memoryview, *, fin: bool = False) -> None:
        """Queue bytes, which must not change until they are acknowledged."""
        if stream.send is None:
            raise MisuseError("the stream is receive-only")
        stream.send.write(data, fin)
        self.streams.update_ready(stream)

    def read_stream(self, stream: Stream, limit: int, now: float) -> memoryview:
        """The next bytes in order, at most `limit`; empty if there are none now, or none any more."""
        recv = stream.recv
        if recv is None:
            raise MisuseError("the stream is send-only")
        piece = recv.take(limit)
        if piece:
            self.consume(stream, len(piece), now)
        if recv.state is RecvState.DATA_READ:
            self.reap(stream)
        return piece

    def consume(self, stream: Stream | None, count: int, now: float) -> None:
        """The reader is done with `count` bytes: the peer may send as many more."""
        streams = self.streams
        # A peer that has used up everything hears of what is free at once: what it waits for may be less than half
        # of the window, when the rest lies on streams that nobody reads now.
        if streams.recv_window.consume(count) or streams.received >= streams.recv_window.limit:
            self.queue_control(FrameType.MAX_DATA, None)
        if stream is not None and stream.recv is not None and stream.recv.window.consume(count):
            self.queue_control(FrameType.MAX_STREAM_DATA, stream)

    def reset_stream(self, stream: Stream, error_code: int) -> None:
        if stream.send is not None and stream.send.reset(error_code):
            self.streams.update_ready(stream)
            self.queue_control(FrameType.RESET_STREAM, stream)

    def stop_sending(self, stream: Stream, error_code: int) -> None:
        recv = stream.recv
        if recv is None or recv.stop_sent is not None or recv.state is not RecvState.RECV:
            return
        recv.stop_sent = error_code
        self.queue_control(FrameType.STOP_SENDING, stream)

    def reset_read(self, stream: Stream) -> None:
        """The reader has heard of the reset."""
        if stream.recv is not None:
            stream.recv.on_reset_read()
            self.reap(stream)

    def reap(self, stream: Stream) -> None:
        if self.streams.reap(stream):
            for kind in self.streams.renewals:
                self.queue_control(
                    FrameType.MAX_STREAMS_UNI if kind == UNI else FrameType.MAX_STREAMS_BIDI, kind
                )
            self.streams.renewals.clear()

    def queue_control(self, frame_type: int, argument: Any) -> None:
        if self.state in OPEN:
            self.control[(frame_type, argument)] = None

    # --- frames

    def handle_ack(self, space: PacketNumberSpace, frame: AckFrame, now: float) -> None:
        delivery.handle_ack(self, space, frame, now)

    def handle_stream_data(self, stream_id: int, offset: int, data: bytes | memoryview, fin: bool) -> None:
        stream = self.streams.for_frame(stream_id, FrameType.STREAM, receiving=True)
        if stream is None or stream.recv is None:
            return
        recv = stream.recv
        grown = recv.handle_data(offset, data, fin)
        if grown:
            self.streams.count_received(grown, FrameType.STREAM)
        if recv.readable:
            self.readable[stream] = None
        if self.events.mask:
            self.events.note_stream(stream)

    def on_stream_acked(self, stream: Stream, start: int, stop: int, fin: bool) -> None:
        if stream.send is not None:
            stream.send.on_ack(start, stop, fin)
            self.writable[stream] = None
            if self.events.mask:
                self.events.note_stream(stream)
            if stream.closed:
                self.reap(stream)

    def on_stream_lost(self, stream: Stream, start: int, stop: int, fin: bool) -> None:
        if stream.send is not None:
            self.recovery.stats.bytes_retransmitted += stop - start
            stream.send.on_lost(start, stop, fin)
            self.streams.update_ready(stream)

    def handle_new_connection_id(self, frame: NewConnectionIdFrame, now: float) -> None:
        self.peer_cids.handle_new(
            frame.sequence_number, frame.retire_prior_to, frame.connection_id, frame.stateless_reset_token
        )
        migration.on_new_ids(self, now)
        if self.peer_cids.to_retire:
            self.retire_peer_cids()

    def retire_peer_cids(self) -> None:
        """Tell the peer which of its IDs are not used any more (RFC 9000 §5.1.2)."""
        for sequence in self.peer_cids.to_retire:
            self.queue_control(FrameType.RETIRE_CONNECTION_ID, sequence)
        self.peer_cids.to_retire.clear()
        rotation.notify(self, dest=True)

    def handle_retire_connection_id(self, sequence: int) -> None:
        self.local_cids.handle_retire(sequence, used=self.paths.arrival.dcid)
        rotation.notify(self, dest=False)
        self.offer_cids()

    def offer_cids(self) -> None:
        """Give the peer as many IDs as it can keep (RFC 9000 §5.1.1)."""
        wanted = self.local_cids.wanted(self.peer.active_connection_id_limit) if self.peer is not None else 0
        for _ in range(wanted):
            self.queue_control(FrameType.NEW_CONNECTION_ID, self.issue_cid().sequence)

    def issue_cid(self) -> ConnectionId:
        return self.local_cids.issue(*self._new_cid())

    def on_received(self, now: float) -> None:
        """Packets were processed."""
        self.sent_eliciting_since_received = False
        if self.state in OPEN:
            self.touch(now)

    def refuse_version(self, reason: str) -> None:
        self._end(ClosedError(TransportErrorCode.VERSION_NEGOTIATION_ERROR, False, reason, remote=True))

    # --- the end (RFC 9000 §10)

    def close(
        self,
        now: float,
        code: int = TransportErrorCode.NO_ERROR,
        reason: str = "",
        *,
        frame_type: int | None = 0,
    ) -> None:
        """Close at once. `frame_type` None means that the application closes with a code of its own."""
        if self.state not in OPEN:
            return
        self.closed = ClosedError(code, frame_type is None, reason, remote=False, frame_type=frame_type or 0)
        self.close_frame = ConnectionCloseFrame(code, frame_type, reason)
        self.close_due = True
        self._stop(now, State.CLOSING)

    def handle_close(self, frame: ConnectionCloseFrame, now: float) -> None:
        """CONNECTION_CLOSE came: the draining state (RFC 9000 §10.2.2)."""
        if self.state in OPEN:
            self.closed = ClosedError(
                frame.error_code, frame.frame_type is None, frame.reason, True, frame.frame_type or 0
            )
        if self.state is not State.DRAINING:
            self.close_due = False
            self._stop(now, State.DRAINING)

    def handle_maybe_reset(self, now: float, token: memoryview) -> bool:
        """A datagram that cannot be opened ends in `token`. True if it is one that the peer gave us: it has lost its
        state, and we enter draining and send nothing (RFC 9000 §10.3.1)."""
        known = False
        for given in self.peer_cids.reset_tokens:  # every one, so that the time taken tells nothing
            known |= compare_digest(token, given)
        if known and self.state in OPEN:
            self.closed = ClosedError(
                TransportErrorCode.NO_ERROR, False, "the peer lost its state", remote=True
            )
            self._stop(now, State.DRAINING)
        return known

    def abandon(self, reason: str) -> None:
        """End without a word to the peer: the socket is broken, or nobody listens for it."""
        self._end(ClosedError(TransportErrorCode.NO_ERROR, False, reason, remote=False))

    def _stop(self, now: float, state: State) -> None:
        self.move(state)
        self.timers.clear()
        self.timers.set(Timer.CLOSE, now + 3 * self.recovery.rtt.pto_base(self.recovery.max_ack_delay))
        self.control.clear()

    def _end(self, error: ClosedError) -> None:
        if self.closed is None:
            self.closed = error
        if self.state is not State.CLOSED:
            self.move(State.CLOSED)
        self.timers.clear()

    def move(self, state: State) -> None:
        if state not in TRANSITIONS[self.state]:
            raise AssertionError(f"connection cannot go from {self.state.name} to {state.name}")
        if self.state in OPEN and state not in OPEN and self.closed is not None:
            self.events.note_close(self.closed)
        self.state = state

    def emit(self, event: Event, payload: bytes) -> None:
        """Notify the consumer, if it subscribed to `event`, with the payload that `events` describes."""
        self.events.add(event, payload)


_ON_TIMER: Final[dict[Timer, Callable[[Connection, float], None]]] = {
    Timer.LOSS: delivery.on_loss_timer,
    Timer.ACK_DELAY: Connection._on_transmit_timer,
    Timer.IDLE: Connection._on_idle_timer,
    Timer.HANDSHAKE: Connection._on_handshake_timer,
    Timer.CLOSE: Connection._on_close_timer,
    Timer.KEEP_ALIVE: Connection._on_keep_alive_timer,
    Timer.PACING: Connection._on_transmit_timer,
    Timer.PMTUD: Connection._on_pmtud_timer,
    Timer.EARLY_KEYS: early_data.on_keys_timer,
    Timer.KEY_DISCARD: key_update.on_discard_timer,
    Timer.PATH: migration.on_timer,
}
