"""Delegations of files: given with an OPEN, called back when somebody else is in the way, taken away from those who do
not return them (RFC 8881 §10.2, §10.4).

    read     nobody else has the file open for writing: its holder need not ask whether the data has changed
    write    nobody else has it open at all: its holder may keep what it writes, and open and lock by itself

A client gets one only while its back channel works; and a file that one was called back from a moment ago is let alone.
Others learn size and change attribute of a file that is delegated for writing by CB_GETATTR (§10.4.3).

Programs of this machine do not ask us before they change a file. That is noticed within a second or two (`Files.tick`),
and the delegation called back.
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

from quicfs.nfs import limits
from quicfs.nfs.server.stateids import ClientState, State, meant
from quicfs.nfs.v4.attributes import Attribute, bitmap
from quicfs.nfs.v4.callback import CbGetattrArgs, CbGetattrResok, CbRecallAnyArgs, CbRecallArgs
from quicfs.nfs.v4.const import (
    UINT64_MAX,
    CbOp,
    DelegationType,
    Nfs4Error,
    Op,
    RecallAny,
    ShareAccess,
    Stat,
    WhyNoDelegation,
)
from quicfs.nfs.v4.operations_open import (
    DelegreturnArgs,
    LimitSize,
    NoDelegation,
    ReadDelegation,
    WriteDelegation,
)
from quicfs.nfs.v4.types import Ace
from quicfs.vfs.api import Attr
from quicfs.vfs.status import FsError

if TYPE_CHECKING:
    from quicfs.nfs.server.context import Context, Handler, Target
    from quicfs.nfs.server.files import FileState, HeldFile
    from quicfs.nfs.server.opens import Open

__all__ = ["HANDLERS", "Answer", "Delegation", "grant", "reclaim", "seen_by_others"]

_log = logging.getLogger("quicfs.nfs")

Answer = ReadDelegation | WriteDelegation | NoDelegation | None
"""What OPEN says of delegations."""

_FIRST_RETRY_S: Final = 0.1
_LAST_RETRY_S: Final = 5.0
_GETATTR_S: Final = 2.0  # what a client has to say of a file that it changes must not take long
_CHANGING: Final = bitmap((Attribute.CHANGE, Attribute.SIZE))
_NOBODY: Final = Ace(0, 0, 0, "")
"""Permissions that let nobody in without ACCESS: the holder asks us who may open the file (§10.4)."""

_UNWANTED: Final[dict[int, WhyNoDelegation]] = {
    ShareAccess.WANT_NO_DELEG: WhyNoDelegation.NOT_WANTED,
    ShareAccess.WANT_CANCEL: WhyNoDelegation.CANCELLED,
}


class Delegation(State):
    """`write`: of the two kinds. `held` is the file, opened with the rights that it was asked for with."""

    __slots__ = ("_change", "_gone", "_told", "_touched", "held", "recalled_at", "write")

    def __init__(self, client: ClientState, file: FileState, held: HeldFile, *, write: bool) -> None:
        super().__init__(client, file)
        self.held = held.share()
        self.write = write
        self.recalled_at: float | None = None
        self._gone: asyncio.Future[None] | None = None
        self._change: int | None = None  # the change attribute when we last looked
        self._touched = False  # by its holder, since then
        self._told: tuple[int, int] | None = (
            None  # what others were told: change attribute when given, the one now
        )
        file.delegations[client] = self
        client.delegations += 1
        client.files.delegations += 1

    def io(self, *, write: bool) -> HeldFile:
        if write and not self.write:
            raise Nfs4Error(Stat.OPENMODE)
        return self.held

    @property
    def holds(self) -> bool:
        return True

    async def release(self) -> None:
        file, files = self.file, self.client.files
        if file.delegations.get(self.client) is self:
            del file.delegations[self.client]
            self.client.delegations -= 1
            files.delegations -= 1
        if self._gone is not None and not self._gone.done():
            self._gone.set_result(None)
        files.tidy(file)
        await self.held.release()

    def touched(self) -> None:
        """Its holder has changed the file by way of us."""
        self._touched = True

    async def changed_elsewhere(self) -> bool:
        """Whether somebody who does not ask us changed the file since this was last called."""
        try:
            change = (await self.held.file.getattr()).change
        except FsError:
            return True  # whatever it is, others should look for themselves
        before, self._change = self._change, change
        touched, self._touched = self._touched, False
        return before not in (None, change) and not touched

    # --- calling it back

    def overdue(self, now: float) -> bool:
        """Whether its holder had a lease's time to return it (§10.4.6)."""
        return self.recalled_at is not None and now - self.recalled_at >= self.client.files.server.lease

    def recall(self, now: float) -> asyncio.Future[None]:
        """Ask for it, if that was not done before. The future is done when it is gone."""
        if self._gone is None:
            self._gone = asyncio.get_running_loop().create_future()
            self.returned_by(now)
            self.client.files.spawn(self._ask())
        return self._gone

    def returned_by(self, now: float) -> None:
        """It has been asked for: from now on its holder has the time of a lease."""
        if self.recalled_at is None:
            self.recalled_at = now
            self.client.files.shy_of(self.file.raw, now)

    async def _ask(self) -> None:
        delay = _FIRST_RETRY_S
        args = CbRecallArgs(self.stateid, False, self.file.raw)
        while self.live:
            try:
                results = await self.client.client.backchannel.call([(CbOp.RECALL, args)])
            except ConnectionError as error:
                _log.debug("recall from client %s: %s", self.client.client.name, error)
            else:
                if results and results[-1].status is Stat.OK:
                    return
                # It may not know the stateid because the reply to its OPEN is still on the way.
            await asyncio.sleep(delay)
            delay = min(2 * delay, _LAST_RETRY_S)

    # --- what it hides from others

    async def told(self, now: float, attr: Attr) -> Attr:
        """`attr` as the holder of a write delegation sees the file (§10.4.3). DELAY if it does not say: then it is
        asked to return the delegation."""
        if not self.write or self.recalled_at is not None:
            return attr
        try:
            results = await self.client.client.backchannel.call(
                [(CbOp.GETATTR, CbGetattrArgs(self.file.raw, _CHANGING))], timeout=_GETATTR_S
            )
        except ConnectionError:
            results = []
        values: Any = None
        if results and results[-1].status is Stat.OK and isinstance(results[-1].value, CbGetattrResok):
            values = results[-1].value.attributes
        if not values or Attribute.SIZE not in values or Attribute.CHANGE not in values:
            self.recall(now)
            raise Nfs4Error(Stat.DELAY)
        size, change = values[Attribute.SIZE], values[Attribute.CHANGE]
        if size == attr.size and change == attr.change:
            return attr
        # §10.4.3: what differs from what we know differs also from what others were told last time.
        previous = self._told if self._told is not None else (attr.change, attr.change)
        known = previous[1] if previous[0] == change else max(previous[1], attr.change) + 1
        self._told = change, known
        return replace(attr, size=size, change=known)


# --- giving


def grant(ctx: Context, open_: Open, share_access: int) -> Answer:
    """What OPEN answers about delegations; `share_access` as it came, with its wishes (§18.16.3)."""
    asked = share_access & ShareAccess.WANT_DELEG_MASK
    # Opened for writing alone will do, if the caller could read it as well: the holder must fill up pages.
    write = bool(open_.access & ShareAccess.WRITE) and asked != ShareAccess.WANT_READ_DELEG
    why = _refusal(ctx, open_, asked)
    if why is None and write and not _alone(open_):
        # It may have one for reading if it says so: otherwise it would only lose it when it begins to write.
        write = False
        if asked not in (ShareAccess.WANT_ANY_DELEG, ShareAccess.WANT_READ_DELEG):
            why = WhyNoDelegation.CONTENTION
    if why is None and not write and (not open_.access & ShareAccess.READ or _written_by_others(open_)):
        why = WhyNoDelegation.CONTENTION
    if why is None:
        return _answer(Delegation(open_.client, open_.file, open_.held, write=write))
    # Only a client that speaks of delegations understands why it gets none.
    return NoDelegation(why) if asked else None


def reclaim(ctx: Context, open_: Open, kind: DelegationType) -> Answer:
    """CLAIM_PREVIOUS: the delegation that the client had before the restart (§10.2.1). If it cannot be called back, or
    if others have come between, it is given to be returned at once."""
    if kind not in (DelegationType.READ, DelegationType.WRITE) or open_.client in open_.file.delegations:
        return None
    write = kind is DelegationType.WRITE
    if write and not (open_.held.readable and open_.held.writable):
        write = False
    held = Delegation(open_.client, open_.file, open_.held, write=write)
    contended = not _alone(open_) if write else _written_by_others(open_)
    unwanted = (
        contended or not held.client.files.server.delegations or not open_.client.client.backchannel.usable
    )
    if unwanted:
        held.returned_by(ctx.now)
    return _answer(held, recall=unwanted)


def _refusal(ctx: Context, open_: Open, asked: int) -> WhyNoDelegation | None:
    """What is against any delegation."""
    client, file = open_.client, open_.file
    unwanted = _UNWANTED.get(asked)
    if unwanted is not None:
        return unwanted
    if not client.files.server.delegations or not client.client.backchannel.usable or ctx.server.grace.active:
        return WhyNoDelegation.RESOURCE
    if client in file.delegations:
        return WhyNoDelegation.NOT_SUPP_UPGRADE
    recalled = any(held.recalled_at is not None for held in file.delegations.values())
    if recalled or client.files.is_shy_of(file.raw, ctx.now):
        return WhyNoDelegation.CONTENTION
    if not open_.held.readable:
        return WhyNoDelegation.CONTENTION
    if (
        client.delegations >= limits.MAX_CLIENT_DELEGATIONS
        or client.files.delegations >= limits.MAX_DELEGATIONS
        or client.files.crowded(client)
    ):
        _ask_for_some(client, ctx.now)
        return WhyNoDelegation.RESOURCE
    return None


def _ask_for_some(client: ClientState, now: float) -> None:
    """Those that it needs least, so that others may be given (§20.6)."""
    if not client.delegations or now - client.fewer_asked_at < limits.DELEGATION_SHY_S:
        return
    client.fewer_asked_at = now
    client.files.spawn(_fewer(client, client.delegations * 3 // 4))


async def _fewer(client: ClientState, keep: int) -> None:
    args = CbRecallAnyArgs(keep, 1 << RecallAny.RDATA_DLG | 1 << RecallAny.WDATA_DLG)
    try:
        await client.client.backchannel.call([(CbOp.RECALL_ANY, args)])
    except ConnectionError as error:
        _log.debug("recall of some delegations of client %s: %s", client.client.name, error)


def _alone(open_: Open) -> bool:
    """Whether no other client has the file open or delegated."""
    file = open_.file
    return all(holder[0] is open_.client for holder in file.opens) and not file.in_the_way(
        open_.client, write=True
    )


def _written_by_others(open_: Open) -> bool:
    file = open_.file
    return any(
        other.access & ShareAccess.WRITE
        for holder, other in file.opens.items()
        if holder[0] is not open_.client
    ) or bool(file.in_the_way(open_.client, write=False))


def _answer(held: Delegation, *, recall: bool = False) -> Answer:
    if not held.write:
        return ReadDelegation(held.stateid, recall, _NOBODY)
    # No limit on what the holder may keep: what it writes back may still be NOSPC, as for any write.
    return WriteDelegation(held.stateid, recall, LimitSize(UINT64_MAX), _NOBODY)


# --- operations


async def delegreturn(ctx: Context, args: DelegreturnArgs) -> None:
    """§18.6. One that was taken away is returned by FREE_STATEID."""
    state = ctx.need_client().state
    held = state.find(meant(ctx, args.stateid), Delegation, ctx.need_current().raw)
    state.forget(held)
    await held.release()


async def seen_by_others(ctx: Context, target: Target, attr: Attr) -> Attr:
    """The attributes of a file that another client may have changed under a write delegation (§10.4.3): what that
    client says about size and change attribute. One that does not answer is asked to return the delegation: DELAY."""
    file = ctx.server.files.get(target.raw)
    if file is None:
        return attr
    for held in file.in_the_way(None if ctx.client is None else ctx.client.state, write=False):
        attr = await held.told(ctx.now, attr)
    return attr


HANDLERS: Final[dict[Op, Handler]] = {Op.DELEGRETURN: delegreturn}
