"""Key update (RFC 9001 §6): the 1-RTT keys of the phases around the current one, and when the next may begin.

Both directions change together. An update that we begin is over when the peer has acknowledged a packet of the new
phase; one that the peer begins is followed at once. The receive keys of the next phase always exist, so that the
time which a packet takes does not tell its Key Phase bit (§6.3); those of the phase before stay for 3 PTO.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from quicfs.transport import limits
from quicfs.transport.crypto import CipherSuite, Keys
from quicfs.transport.errors import MisuseError, ProtocolViolation, TransportErrorCode
from quicfs.transport.frame_type import FrameType
from quicfs.transport.packet import KEY_PHASE_BIT
from quicfs.transport.protection import Opened
from quicfs.transport.state import OPEN
from quicfs.transport.timer import Timer
from quicfs.transport.uapi import Event

if TYPE_CHECKING:
    from quicfs.transport.conn import Connection

SEALED_LIMIT: Final = {
    CipherSuite.AES_128_GCM: limits.AES_GCM_SEALED,
    CipherSuite.AES_256_GCM: limits.AES_GCM_SEALED,
    CipherSuite.CHACHA20_POLY1305: limits.CHACHA20_SEALED,
}
FORGED_LIMIT: Final = {
    CipherSuite.AES_128_GCM: limits.AES_GCM_FORGED,
    CipherSuite.AES_256_GCM: limits.AES_GCM_FORGED,
    CipherSuite.CHACHA20_POLY1305: limits.CHACHA20_FORGED,
}


class KeyPhases:
    """The current phase and its neighbours. The current keys are those of the packet number space."""

    __slots__ = (
        "_acks_sent",
        "_after",
        "_confirmed_at",
        "_first_sent",
        "_highest_old",
        "_lowest_received",
        "_next",
        "_previous",
        "forged",
        "phase",
        "settling",
        "update_at",
        "updates",
    )

    def __init__(self, update_after: int) -> None:
        self.phase = 0  # the Key Phase bit where it stands in the first byte: 0 or KEY_PHASE_BIT
        self.updates = 0
        self.update_at = update_after  # the packet number before which the keys shall change
        self.settling = False  # after an update: trains have to be looked at more closely
        self.forged = 0  # packets that no key opened
        self._after = update_after
        self._previous: Keys | None = None
        self._next: Keys | None = None
        self._first_sent = 0  # of the current phase
        self._lowest_received: int | None = None  # of the current phase
        self._highest_old = -1  # received in older phases
        self._confirmed_at: float | None = None  # when a packet of the current phase was acknowledged
        self._acks_sent = -1  # ACKs that had left when the current phase's first packet came

    def prepare(self, keys_in: Keys) -> None:
        """The first receive keys are there."""
        self._next = keys_in.next_phase()

    def sealed(self, next_pn: int) -> int:
        """Packets that the current keys have sealed, at most."""
        return next_pn - self._first_sent

    def refusal(self, now: float, pto: float) -> str | None:
        """Why no update may be begun now; None if it may."""
        if not self.updates:
            return None
        # §6.1: the peer must have acknowledged a packet of this phase; §6.5: and have had 3 PTO since
        if self._confirmed_at is None:
            return "the peer has not acknowledged the last key update yet"
        if now < self._confirmed_at + 3 * pto:
            return "the last key update is too recent"
        return None

    # --- the change

    def advance(
        self, keys_in: Keys, keys_out: Keys, next_pn: int, highest_received: int
    ) -> tuple[Keys, Keys]:
        """The next phase begins; returns its keys, in and out."""
        assert self._next is not None
        current = self._next
        self._previous = keys_in
        self._next = current.next_phase()
        self.phase ^= KEY_PHASE_BIT
        self.updates += 1
        self.settling = True
        self.update_at = next_pn + self._after
        self._first_sent = next_pn
        self._lowest_received = None
        self._highest_old = highest_received
        self._confirmed_at = None
        return current, keys_out.next_phase()

    def forget_previous(self) -> None:
        """3 PTO have passed (§6.5)."""
        self._previous = None
        self.settling = self._confirmed_at is None

    # --- receiving

    def open_other(
        self,
        data: memoryview,
        starts: Sequence[int],
        stops: Sequence[int],
        pn_offset: int,
        largest_pn: int,
        out: memoryview,
    ) -> tuple[Opened, Opened]:
        """Open packets whose Key Phase bit is not the current one: those of the phase before, and of the next."""
        old: Opened = []
        new: Opened = []
        if self._previous is not None:
            old, _ = self._previous.open_run(data, starts, stops, pn_offset, largest_pn, out)
        if len(old) < len(starts) and self._next is not None:
            out = out[sum(len(payload) for _, _, payload in old) :]
            new, _ = self._next.open_run(data, starts, stops, pn_offset, largest_pn, out)
        return old, new

    def note_received(self, old: Opened, current: Opened, acks_sent: int) -> bool:
        """Packets of the phase before and of this one came; True if this phase's first one is among them."""
        if old:
            self._highest_old = max(self._highest_old, *(pn for pn, _, _ in old))
        lowest = self._lowest_received
        first = lowest is None and bool(current)
        if current:
            low = min(pn for pn, _, _ in current)
            self._lowest_received = low if lowest is None else min(lowest, low)
        if first:
            self._acks_sent = acks_sent
        # §6.4: old keys in a packet with a higher number than one with newer keys -> KEY_UPDATE_ERROR
        if self._lowest_received is not None and self._highest_old > self._lowest_received:
            raise ProtocolViolation(TransportErrorCode.KEY_UPDATE_ERROR, "old keys after newer ones")
        return first

    def note_acked(self, largest_acked: int, now: float) -> None:
        if self._confirmed_at is None and largest_acked >= self._first_sent:
            self._confirmed_at = now
            self.settling = self._previous is not None

    def check_old_acks(self, largest_acked: int) -> None:
        """Packets of the phase before were processed."""
        # §6.2: an ACK under old keys for a packet of the new phase -> KEY_UPDATE_ERROR
        if self._confirmed_at is None and largest_acked >= self._first_sent:
            raise ProtocolViolation(
                TransportErrorCode.KEY_UPDATE_ERROR, "old keys acknowledge new ones", FrameType.ACK
            )

    def check_next(self, acks_sent: int) -> None:
        """The peer has begun the next phase."""
        # §6.2: before an ACK of a packet of the current one can have reached it -> KEY_UPDATE_ERROR
        if self.updates and (self._lowest_received is None or acks_sent <= self._acks_sent):
            raise ProtocolViolation(TransportErrorCode.KEY_UPDATE_ERROR, "keys updated twice without an ACK")


# --- what a connection does with them


def update(conn: Connection, now: float) -> None:
    """Begin a key update; MisuseError when that is not permitted now."""
    # RFC 9001 §6.1: not before the handshake is confirmed
    if conn.state not in OPEN or not conn.recovery.handshake_confirmed:
        raise MisuseError("keys are updated on an open connection whose handshake is confirmed")
    refusal = conn.key_phases.refusal(now, _pto(conn))
    if refusal is not None:
        raise MisuseError(refusal)
    _advance(conn)
    conn.queue_control(FrameType.PING, None)  # the peer shall see it, whether there is data or not


def before_train(conn: Connection, now: float) -> None:
    """The packet number has come to where the keys shall change, before they are worn out (§6.6)."""
    phases, space = conn.key_phases, conn.application
    if space.keys_out is None or not conn.recovery.handshake_confirmed:
        return
    if phases.refusal(now, _pto(conn)) is None:
        _advance(conn)
    elif phases.sealed(space.sent.next_pn) >= SEALED_LIMIT[space.keys_out.suite] - limits.TRAIN_SEGMENTS:
        conn.close(now, TransportErrorCode.AEAD_LIMIT_REACHED, "the peer does not let the keys be updated")


def open_rest(
    conn: Connection,
    data: memoryview,
    starts: Sequence[int],
    stops: Sequence[int],
    opened: Opened,
    other: Sequence[int],
    pn_offset: int,
    scratch: memoryview,
) -> tuple[Opened, Opened]:
    """Of a train, what the current keys did not open: packets of the phase before, and of the next."""
    phases, space = conn.key_phases, conn.application
    old: Opened = []
    new: Opened = []
    if other:
        used = sum(len(payload) for _, _, payload in opened)
        largest = max(space.received.largest, opened[-1][0] if opened else -1)
        old, new = phases.open_other(
            data,
            [starts[i] for i in other],
            [stops[i] for i in other],
            pn_offset,
            largest,
            scratch[used:],
        )
    count_forged(conn, space.keys_in, len(starts) - len(opened) - len(old) - len(new))
    return old, new


def count_forged(conn: Connection, keys: Keys | None, count: int) -> None:
    """So many packets could not be opened."""
    # §6.6: over all keys of the connection more than the AEAD stands -> AEAD_LIMIT_REACHED
    conn.key_phases.forged += count
    if count and keys is not None and conn.key_phases.forged > FORGED_LIMIT[keys.suite]:
        raise ProtocolViolation(TransportErrorCode.AEAD_LIMIT_REACHED, "too many forged packets")


def settle(conn: Connection, now: float, old: Opened, current: Opened) -> None:
    """A train came after an update; to be called before its frames are processed."""
    if conn.key_phases.note_received(old, current, conn.application.received.acks_sent):
        _begun(conn, now)


def follow(conn: Connection, now: float, new: Opened) -> None:
    """The peer has updated its keys: so do we (§6.2)."""
    conn.key_phases.check_next(conn.application.received.acks_sent)
    _advance(conn)
    settle(conn, now, [], new)


def on_discard_timer(conn: Connection, now: float) -> None:
    conn.key_phases.forget_previous()


def _advance(conn: Connection) -> None:
    space = conn.application
    assert space.keys_in is not None and space.keys_out is not None
    space.keys_in, space.keys_out = conn.key_phases.advance(
        space.keys_in, space.keys_out, space.sent.next_pn, space.received.largest
    )
    conn.timers.set(Timer.KEY_DISCARD, None)


def _begun(conn: Connection, now: float) -> None:
    """Both ends use the current phase."""
    conn.timers.set(Timer.KEY_DISCARD, now + 3 * _pto(conn))
    conn.emit(Event.KEY_UPDATE, bytes((conn.key_phases.phase // KEY_PHASE_BIT,)))


def _pto(conn: Connection) -> float:
    return conn.recovery.rtt.pto_base(conn.recovery.max_ack_delay)
