"""Connection IDs (RFC 9000 §5.1): those that we issue, and those that the peer gave us."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from quicfs.transport import limits
from quicfs.transport.errors import MisuseError, ProtocolViolation, TransportErrorCode
from quicfs.transport.ranges import RangeSet


class ConnectionId(NamedTuple):
    sequence: int
    cid: bytes
    reset_token: bytes


class LocalConnectionIds:
    """The IDs by which the peer calls us."""

    __slots__ = ("_active", "_next", "_told", "retire_prior_to", "retired")

    def __init__(self, first: bytes, reset_token: bytes) -> None:
        self._active: dict[int, ConnectionId] = {0: ConnectionId(0, first, reset_token)}
        self._next = 1
        self._told = 0  # the highest number that the peer can know
        self.retire_prior_to = 0  # the peer is asked to retire those before
        self.retired: list[bytes] = []  # to be forgotten by whoever routes by ID

    def __iter__(self) -> Iterator[ConnectionId]:
        return iter(self._active.values())

    @property
    def lowest(self) -> int:
        """The oldest one's number."""
        return min(self._active)

    def wanted(self, peer_limit: int) -> int:
        """How many more the peer may be given; those that it is asked to retire do not count (RFC 9000 §5.1.1)."""
        kept = sum(sequence >= self.retire_prior_to for sequence in self._active)
        return max(0, min(peer_limit, limits.MAX_ACTIVE_LOCAL_CIDS) - kept)

    def issue(self, cid: bytes, reset_token: bytes) -> ConnectionId:
        issued = ConnectionId(self._next, cid, reset_token)
        self._active[self._next] = issued
        self._next += 1
        return issued

    def get(self, sequence: int) -> ConnectionId | None:
        return self._active.get(sequence)

    def on_sent(self, sequence: int) -> None:
        """The peer is told of an ID, in NEW_CONNECTION_ID or preferred_address."""
        self._told = max(self._told, sequence)

    def retire_before(self, sequence: int) -> None:
        """Ask the peer to retire its IDs before `sequence`; they count until it has done so (RFC 9000 §5.1.2).

        MisuseError for an ID that was not issued, or while the peer owes us earlier retirements.
        """
        if not self.retire_prior_to <= sequence <= self._next:
            raise MisuseError(f"IDs {self.retire_prior_to} to {self._next} can be the first to stay")
        if self.lowest < self.retire_prior_to:
            raise MisuseError("the peer has not retired the IDs of the last time yet")
        self.retire_prior_to = sequence

    def handle_retire(self, sequence: int, used: bytes) -> None:
        """RETIRE_CONNECTION_ID in a packet that was sent to `used`."""
        # RFC 9000 §19.16: one that was never sent, or the one that the packet was sent to -> PROTOCOL_VIOLATION
        if sequence > self._told:
            raise ProtocolViolation(
                TransportErrorCode.PROTOCOL_VIOLATION, "retired an ID that was not issued", 0x19
            )
        retired = self._active.get(sequence)
        if retired is None:
            return
        if retired.cid == used:
            raise ProtocolViolation(TransportErrorCode.PROTOCOL_VIOLATION, "retired the ID in use", 0x19)
        del self._active[sequence]
        self.retired.append(retired.cid)


class PeerConnectionIds:
    """The IDs by which we call the peer. Each is used towards one address only (RFC 9000 §9.5)."""

    __slots__ = (
        "_known",
        "_retire_prior_to",
        "_retired",
        "_unacked_retirements",
        "_used",
        "current",
        "first",
        "to_retire",
    )

    def __init__(self, first: bytes) -> None:
        self.first = first  # what transport parameters have to confirm (RFC 9000 §7.3)
        self.current = ConnectionId(0, first, b"")  # of the active path
        self._known: dict[int, ConnectionId] = {0: self.current}
        self._used = {0}
        self._retire_prior_to = 0
        self._retired = RangeSet()
        self._unacked_retirements: set[int] = set()
        self.to_retire: list[int] = []  # sequence numbers for RETIRE_CONNECTION_ID

    def replace_first(self, cid: bytes) -> None:
        """The peer chose its own ID in its first packet, or in a Retry (RFC 9000 §7.2)."""
        self.first = cid
        self.current = self._known[0] = ConnectionId(0, cid, self.current.reset_token)

    def set_reset_token(self, token: bytes) -> None:
        """The stateless_reset_token transport parameter goes with the first ID."""
        self._known[0] = self._known[0]._replace(reset_token=token)
        if self.current.sequence == 0:
            self.current = self._known[0]

    def add_preferred(self, cid: bytes, reset_token: bytes) -> None:
        """The ID of the preferred_address transport parameter (RFC 9000 §5.1.1)."""
        # RFC 9000 §18.2: from a server with a zero-length ID -> TRANSPORT_PARAMETER_ERROR
        if not self.current.cid or any(known.cid == cid for known in self._known.values()):
            raise ProtocolViolation(
                TransportErrorCode.TRANSPORT_PARAMETER_ERROR, "preferred_address with a useless connection ID"
            )
        self._known[1] = ConnectionId(1, cid, reset_token)

    @property
    def reset_tokens(self) -> list[bytes]:
        """Of the IDs that are in use: no other can come (RFC 9000 §10.3.1)."""
        return [
            known.reset_token
            for known in self._known.values()
            if known.reset_token and known.sequence in self._used
        ]

    def __contains__(self, sequence: int) -> bool:
        return sequence in self._known

    def get(self, sequence: int) -> ConnectionId | None:
        return self._known.get(sequence)

    def take(self) -> ConnectionId | None:
        """An ID that was never used, for another address; None if the peer has given no more.

        A peer without IDs is the same everywhere.
        """
        if not self.current.cid:
            return self.current
        unused = [sequence for sequence in self._known if sequence not in self._used]
        if not unused:
            return None
        taken = self._known[min(unused)]
        self._used.add(taken.sequence)
        return taken

    @property
    def lowest(self) -> int:
        """The oldest one's number."""
        return min(self._known)

    def use(self, sequence: int) -> None:
        """Use another ID on the active path; MisuseError if there is none of that number, or it was used."""
        if sequence not in self._known or sequence in self._used:
            raise MisuseError(f"the peer has given no connection ID {sequence} that was not used yet")
        self._used.add(sequence)
        self.current = self._known[sequence]

    def retire_before(self, sequence: int) -> None:
        """Retire the IDs before `sequence`; MisuseError if none would be left."""
        if self.current.sequence < sequence:
            unused = [known for known in self._known if known >= sequence and known not in self._used]
            if not unused or not self.current.cid:
                raise MisuseError("the peer has given no connection ID for the time after")
            self.use(min(unused))
        for old in [known for known in self._known if known < sequence]:
            self.retire(old)

    def retire(self, sequence: int) -> None:
        """An ID is not needed any more: no packet will be sent to it."""
        if self.current.cid and self._known.pop(sequence, None) is not None:
            self._used.discard(sequence)
            self._retire(sequence)

    def handle_new(self, sequence: int, retire_prior_to: int, cid: bytes, reset_token: bytes) -> None:
        """NEW_CONNECTION_ID came (RFC 9000 §19.15)."""
        # RFC 9000 §19.15: sent to a peer that chose a zero-length ID -> PROTOCOL_VIOLATION
        if not self.current.cid:
            raise ProtocolViolation(
                TransportErrorCode.PROTOCOL_VIOLATION, "IDs for a peer without them", 0x18
            )
        fresh = ConnectionId(sequence, cid, reset_token)
        known = self._known.get(sequence)
        if known is not None:
            # RFC 9000 §19.15: the same number with another ID or token -> PROTOCOL_VIOLATION
            if known.cid != cid or (known.reset_token and known.reset_token != reset_token):
                raise ProtocolViolation(TransportErrorCode.PROTOCOL_VIOLATION, "ID changed its meaning", 0x18)
        elif any(other.cid == cid for other in self._known.values()):
            raise ProtocolViolation(TransportErrorCode.PROTOCOL_VIOLATION, "ID issued twice", 0x18)
        elif sequence in self._retired:
            return  # an old frame again
        elif sequence < self._retire_prior_to:
            self._retire(sequence)
            return
        else:
            self._known[sequence] = fresh
        # A frame that is sent again may ask for more than it did at first.
        if retire_prior_to > self._retire_prior_to:
            self._retire_prior_to = retire_prior_to
            for old in [number for number in self._known if number < retire_prior_to]:
                self.retire(old)
            if self.current.sequence < retire_prior_to:
                self.current = self.take() or self._known[max(self._known)]
        # RFC 9000 §5.1.1: more than our active_connection_id_limit -> CONNECTION_ID_LIMIT_ERROR
        if len(self._known) > limits.MAX_ACTIVE_PEER_CIDS:
            raise ProtocolViolation(
                TransportErrorCode.CONNECTION_ID_LIMIT_ERROR, "more IDs than active_connection_id_limit", 0x18
            )

    def _retire(self, sequence: int) -> None:
        # RFC 9000 §5.1.2: a peer must not make us remember retirements without bound
        if len(self._unacked_retirements) >= limits.MAX_RETIRED_UNACKED:
            raise ProtocolViolation(
                TransportErrorCode.CONNECTION_ID_LIMIT_ERROR, "too many retirements under way", 0x18
            )
        self._unacked_retirements.add(sequence)
        self.to_retire.append(sequence)
        self._retired.add(sequence, sequence + 1)
        if len(self._retired) > limits.MAX_RETIRED_UNACKED:
            self._retired.drop_first()

    def on_retirement_acked(self, sequence: int) -> None:
        self._unacked_retirements.discard(sequence)
