"""Stateids: how they are issued, found again and given up (RFC 8881 §8.2).

    4 bytes  this run of the server
    8 bytes  a number that is never used twice in one run
    seqid    1 at first, one more for each change of what the stateid stands for, never 0 (§8.2.2)

Each client has a table of its own, so that a stateid of another client, of another run or of nobody costs one look into
a dictionary and is BAD_STATEID. (§15.1.16.5: STALE_STATEID is moot in this minor version; it is the session that tells
of a restart.)
"""

from __future__ import annotations

import itertools
import logging
from abc import ABC, abstractmethod
from math import inf
from typing import TYPE_CHECKING, Final, TypeVar

from quicfs.nfs.v4.const import Nfs4Error, SeqStatus, Stat
from quicfs.nfs.v4.types import CURRENT, INVALID, StateId
from quicfs.vfs.status import FsError

if TYPE_CHECKING:
    from quicfs.nfs.server.clients import Client
    from quicfs.nfs.server.context import Context
    from quicfs.nfs.server.files import Files, FileState, HeldFile

__all__ = ["ClientState", "State", "StateIdSource", "is_special", "meant"]

_log = logging.getLogger("quicfs.nfs")
_UINT32: Final = 0xFFFFFFFF
_SPECIAL: Final = (bytes(12), b"\xff" * 12)


class StateIdSource:
    """`run`: 4 bytes that tell this run of the server from others."""

    def __init__(self, run: bytes) -> None:
        # The all-zeros and all-ones values mean something else (§8.2.3).
        self._run = run[:4]
        self._numbers = itertools.count(1)

    def next(self) -> bytes:
        return self._run + next(self._numbers).to_bytes(8, "big")


class State(ABC):
    """What a stateid stands for: an open, the locks of an owner, a delegation."""

    __slots__ = ("client", "fault", "file", "other", "seqid")

    def __init__(self, client: ClientState, file: FileState) -> None:
        self.client = client
        self.file = file
        self.other = client.files.stateids.next()
        self.seqid = 1
        self.fault: Stat | None = None
        """Why it is of no use any more, for as long as the client has not freed it."""
        client.states[self.other] = self

    @property
    def stateid(self) -> StateId:
        return StateId(self.seqid, self.other)

    @property
    def live(self) -> bool:
        """Whether the client still has it."""
        return self.fault is None and self.client.states.get(self.other) is self

    def changed(self) -> StateId:
        """What it stands for is another now (§8.2.2): the stateid to answer with."""
        self.seqid = self.seqid + 1 if self.seqid < _UINT32 else 1
        return StateId(self.seqid, self.other)

    @abstractmethod
    def io(self, *, write: bool) -> HeldFile:
        """The file to read or write under this stateid; OPENMODE."""

    @abstractmethod
    async def release(self) -> None:
        """Everything that it holds is free for others. The table of stateids is the caller's business."""

    @property
    @abstractmethod
    def holds(self) -> bool:
        """Whether FREE_STATEID must be refused (§18.38.3)."""


S = TypeVar("S", bound=State)


class ClientState:
    """All opens, locks and delegations of one client."""

    def __init__(self, client: Client, files: Files) -> None:
        self.client = client
        self.files = files
        self.states: dict[bytes, State] = {}
        self.opens = self.lock_owners = self.delegations = 0  # numbers of them
        self.fewer_asked_at = -inf  # when it was asked to return some of its delegations
        self._faults = 0  # states that were taken away and are not freed yet

    @property
    def any(self) -> bool:
        """Whether the client holds anything."""
        return bool(self.states)

    def find(self, stateid: StateId, kind: type[S], raw: bytes) -> S:
        """The state of that kind, on the file with the handle `raw`. BAD_STATEID, OLD_STATEID, or why it was
        revoked."""
        state = self.any_kind(stateid, raw)
        if not isinstance(state, kind):
            raise Nfs4Error(Stat.BAD_STATEID)
        return state

    def any_kind(self, stateid: StateId, raw: bytes | None = None) -> State:
        """As `find`, for what can be done with every kind of stateid (§8.2.4)."""
        state = self.states.get(stateid.other)
        if state is None:
            raise Nfs4Error(Stat.BAD_STATEID)
        if state.fault is not None:
            raise Nfs4Error(state.fault)
        check_seqid(stateid.seqid, state.seqid)
        if raw is not None and state.file.raw != raw:
            raise Nfs4Error(Stat.BAD_STATEID)
        return state

    def test(self, stateid: StateId) -> Stat:
        """TEST_STATEID (§18.48.3) of one."""
        try:
            self.any_kind(stateid)
        except Nfs4Error as error:
            return error.status
        return Stat.OK

    def forget(self, state: State) -> None:
        if self.states.pop(state.other, None) is not None and state.fault is not None:
            self._faults -= 1
            if not self._faults:
                self.client.flags &= ~SeqStatus.RECALLABLE_STATE_REVOKED

    async def revoke(self, state: State, fault: Stat) -> None:
        """Take it away; the client hears of it from SEQUENCE, and frees the stateid."""
        if not state.live:
            return
        state.fault = fault
        self._faults += 1
        self.client.flags |= SeqStatus.RECALLABLE_STATE_REVOKED
        await state.release()

    async def release_all(self) -> None:
        """The client is gone."""
        states = list(self.states.values())
        self.states.clear()
        for state in states:
            if state.fault is None:
                try:
                    await state.release()
                except FsError as error:
                    # Nobody is there any more who could be told.
                    _log.warning("client %s: closing a file failed: %s", self.client.name, error)


def check_seqid(sent: int, current: int) -> None:
    """§8.2.2: 0 is whatever is current; the numbers go round."""
    if sent in (current, 0):
        return
    behind = (current - sent) & _UINT32
    raise Nfs4Error(Stat.OLD_STATEID if behind < 1 << 31 else Stat.BAD_STATEID)


def is_special(stateid: StateId) -> bool:
    """One that no table has: anonymous, READ bypass (§8.2.3), or nonsense that looks like them."""
    return stateid.other in _SPECIAL


def meant(ctx: Context, stateid: StateId) -> StateId:
    """The current stateid of the COMPOUND in the place of the special value (§16.2.3.1.2)."""
    if stateid != CURRENT:
        return stateid
    current = ctx.current_stateid
    if current is None or current == INVALID:
        raise Nfs4Error(Stat.BAD_STATEID)
    return current
