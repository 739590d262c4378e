"""Slots: what makes a request happen once (RFC 8881 §2.10.6.1).

A slot carries one request at a time. Its sequence id says whether a request is the next one, the last one again, or
neither; the reply to the last one is kept for when it is asked again.

    sequence id        the slot is free         the slot is at work
    last + 1           NEW                      SEQ_MISORDERED
    last               REPLAY                   RUNNING: wait for the reply
    anything else      SEQ_MISORDERED           SEQ_MISORDERED
"""

from __future__ import annotations

import asyncio
import enum
from typing import TYPE_CHECKING, Final, NamedTuple

from quicfs.nfs import limits
from quicfs.nfs.v4.const import Nfs4Error, Stat
from quicfs.nfs.xdr import Packer

if TYPE_CHECKING:
    from quicfs.nfs.server.sessions import Session
    from quicfs.nfs.v4.operations_sessions import SequenceResok

__all__ = ["Begun", "Slot", "Turn"]

_WRAP: Final = 0xFFFFFFFF


class Turn(enum.Enum):
    NEW = "to be carried out"
    REPLAY = "was carried out"
    RUNNING = "is being carried out"


class Begun(NamedTuple):
    """What became of a SEQUENCE; `result` is its SequenceResok."""

    turn: Turn
    slot: Slot
    result: SequenceResok


class Slot:
    """`kept` is the reply to the last request, None if it was not kept. `mark` and `who` tell a retry from another
    request that bears its number."""

    __slots__ = ("_waiting", "kept", "mark", "number", "running", "sequence", "session", "who")

    def __init__(self, session: Session, number: int) -> None:
        self.session = session
        self.number = number
        self.sequence = 0  # §2.10.6.1: the first request has 1
        self.running = False
        self.kept: bytes | None = None
        self.mark = 0
        self.who: object = None
        self._waiting: list[asyncio.Future[bytes | None]] = []

    def begin(self, sequence: int, mark: int, who: object) -> Turn:
        """Nfs4Error: SEQ_MISORDERED, SEQ_FALSE_RETRY, or DELAY when enough others wait for the same reply."""
        if sequence == self.sequence and self.who is not None:
            if mark != self.mark or who != self.who:
                raise Nfs4Error(Stat.SEQ_FALSE_RETRY)
            if not self.running:
                return Turn.REPLAY
            if len(self._waiting) >= limits.MAX_WAITING_RETRIES:
                raise Nfs4Error(Stat.DELAY)
            return Turn.RUNNING
        # §2.10.6.1: sequence ids go round through 0.
        if self.running or sequence != (self.sequence + 1) & _WRAP:
            raise Nfs4Error(Stat.SEQ_MISORDERED)
        self.sequence = sequence
        self.running = True
        self.kept = None
        self.mark = mark
        self.who = who
        return Turn.NEW

    def end(self, reply: Packer, *, keep: bool) -> None:
        """The request is done. A small reply costs nothing to keep, whether it was asked for or not (§2.10.6.1.3)."""
        if keep or len(reply) <= min(limits.SMALL_REPLY, self.session.max_cached):
            self.kept = reply.getvalue()
        self._done()

    def abandon(self) -> None:
        """The request was broken off, and nobody can say what became of it."""
        self.kept = None
        self._done()

    def _done(self) -> None:
        self.running = False
        for future in self._waiting:
            if not future.done():
                future.set_result(self.kept)
        self._waiting.clear()

    async def wait(self) -> bytes | None:
        """The reply to the request that is being carried out, None if it is not kept."""
        future: asyncio.Future[bytes | None] = asyncio.get_running_loop().create_future()
        self._waiting.append(future)
        return await future
