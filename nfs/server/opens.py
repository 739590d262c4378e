"""OPEN, OPEN_DOWNGRADE and CLOSE (RFC 8881 §18.16, §18.18, §18.2, §9).

An open belongs to an open owner of a client and to a file: a second OPEN of the same owner adds to the first, under the
same stateid. What stands behind it is one open file of the tree, opened with the rights of the caller, and used for
everything that comes with the stateid: the rights that the file has later do not matter.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from quicfs.nfs import limits
from quicfs.nfs.server import delegations
from quicfs.nfs.server.access import need_directory
from quicfs.nfs.server.creating import Creation, need_regular
from quicfs.nfs.server.delegations import Delegation
from quicfs.nfs.server.directories import Changes
from quicfs.nfs.server.files import FileState, HeldFile, Holder, clients_of, release_each
from quicfs.nfs.server.names import component
from quicfs.nfs.server.stateids import ClientState, State, meant
from quicfs.nfs.v4.const import Nfs4Error, Op, OpenResult, ShareAccess, Stat
from quicfs.nfs.v4.operations_open import (
    ClaimDelegateCur,
    ClaimDelegCurFh,
    ClaimFh,
    ClaimNull,
    ClaimPrevious,
    CloseArgs,
    CloseResok,
    OpenArgs,
    OpenDowngradeArgs,
    OpenDowngradeResok,
    OpenResok,
)
from quicfs.nfs.v4.types import INVALID, ChangeInfo, StateId
from quicfs.vfs.api import Attr, FsError, OpenFile, OpenFlags, SetAttr, Status

if TYPE_CHECKING:
    from quicfs.nfs.server.context import Context, Handler, Target
    from quicfs.nfs.server.locks import LockState

__all__ = ["HANDLERS", "Open"]

_READ, _WRITE = int(ShareAccess.READ), int(ShareAccess.WRITE)
_BOTH: Final = _READ | _WRITE
_WISHES: Final = (
    ShareAccess.WANT_SIGNAL_DELEG_WHEN_RESRC_AVAIL
    | ShareAccess.WANT_PUSH_DELEG_WHEN_UNCONTENDED
    | ShareAccess.WANT_DELEG_TIMESTAMPS
    | ShareAccess.WANT_OPEN_XOR_DELEGATION
)
"""What a client may say besides; none of it obliges us to anything."""

_RESULT: Final = OpenResult.LOCKTYPE_POSIX | OpenResult.PRESERVE_UNLINKED | OpenResult.MAY_NOTIFY_LOCK
_NO_CHANGE: Final = ChangeInfo(True, 0, 0)


class Open(State):
    """`access` and `deny`: what `ShareTable` has of it. `reader` and `writer` are nearly always the same file."""

    __slots__ = ("access", "deny", "locks", "owner", "reader", "writer")

    def __init__(self, client: ClientState, file: FileState, owner: bytes) -> None:
        super().__init__(client, file)
        self.owner = owner
        self.access = self.deny = 0
        self.reader: HeldFile | None = None
        self.writer: HeldFile | None = None
        self.locks: dict[bytes, LockState] = {}  # by lock owner
        file.opens[client, owner] = self
        client.opens += 1
        client.files.opens += 1

    @property
    def held(self) -> HeldFile:
        """The one that can do the most."""
        held = self.writer or self.reader
        assert held is not None
        return held

    def io(self, *, write: bool) -> HeldFile:
        if write:
            if self.access & _WRITE and self.writer is not None:
                return self.writer
        elif self.reader is not None:
            # §9.1.2: who writes pages needs to read what is around, also when it has opened for writing only.
            return self.reader
        raise Nfs4Error(Stat.OPENMODE)

    @property
    def holds(self) -> bool:
        return True

    def refresh(self) -> StateId:
        """After its reservation was changed."""
        self.access, self.deny = self.file.shares.held((self.client, self.owner))
        return self.changed()

    def back(self, held: HeldFile) -> list[HeldFile]:
        """Use this file where it can do more than those before; which are to be released."""
        spare = []
        if held.writable and (self.writer is None or (held.readable and not self.writer.readable)):
            if self.writer is not None:
                spare.append(self.writer)
            self.writer = held.share()
        if held.readable and (self.reader is None or (held.writable and not self.reader.writable)):
            if self.reader is not None:
                spare.append(self.reader)
            self.reader = held.share()
        return spare

    async def release(self) -> None:
        file, holder = self.file, (self.client, self.owner)
        if file.opens.get(holder) is not self:
            return
        del file.opens[holder]
        file.shares.remove(holder)
        self.client.opens -= 1
        self.client.files.opens -= 1
        for lock in list(self.locks.values()):
            self.client.forget(lock)
            await lock.release()
        self.client.files.tidy(file)
        await release_each([held for held in (self.reader, self.writer) if held is not None])


@dataclass(slots=True)
class _Wish:
    """An OPEN, understood."""

    ctx: Context
    client: ClientState
    args: OpenArgs
    access: int
    deny: int
    creation: Creation | None

    @property
    def holder(self) -> Holder:
        return self.client, self.args.owner.owner

    @property
    def disturbs(self) -> bool:
        """Whether it conflicts with read delegations: those let others open for reading by themselves."""
        return bool(self.access & _WRITE or self.deny & _READ)


@dataclass(slots=True)
class _Found:
    """The file, before it is anybody's open."""

    target: Target
    held: HeldFile | None = None  # opened already
    made_in: Target | None = None  # it is new
    cinfo: ChangeInfo = _NO_CHANGE
    attrset: int = 0
    truncate: bool = False
    by_handle: bool = False  # its owner may open it whatever its mode says
    delegation: Delegation | None = None


async def open_(ctx: Context, args: OpenArgs) -> OpenResok:
    claim = type(args.claim)
    wish = _understood(ctx, args)
    find = _CLAIMS.get(claim)
    if find is None:
        raise Nfs4Error(Stat.NOTSUPP)  # delegations do not outlive the client here
    _check_grace(ctx, claim)
    found = await find(wish, args.claim)
    try:
        opened = await _opened(wish, found)
    except Nfs4Error as error:
        if error.status is Stat.SHARE_DENIED and claim is ClaimPrevious:
            raise Nfs4Error(Stat.RECLAIM_CONFLICT) from None
        raise
    if claim is ClaimPrevious:
        answer = delegations.reclaim(ctx, opened, args.claim.delegate_type)  # type: ignore[union-attr]
    elif found.delegation is None:
        answer = delegations.grant(ctx, opened, args.share_access)
    else:
        answer = None
    ctx.set_current(found.target)
    ctx.current_stateid = opened.stateid
    return OpenResok(opened.stateid, found.cinfo, _RESULT, found.attrset, answer)


def _understood(ctx: Context, args: OpenArgs) -> _Wish:
    access, deny = args.share_access & _BOTH, args.share_deny
    asked = args.share_access & ShareAccess.WANT_DELEG_MASK
    # §18.16.3: no access at all, bits that mean nothing.
    if not access or deny > _BOTH or asked > ShareAccess.WANT_CANCEL:
        raise Nfs4Error(Stat.INVAL)
    if args.share_access & ~(_BOTH | ShareAccess.WANT_DELEG_MASK | _WISHES):
        raise Nfs4Error(Stat.INVAL)
    creation = None
    if args.how is not None:
        if not isinstance(args.claim, ClaimNull):
            raise Nfs4Error(Stat.INVAL)
        creation = Creation(ctx, args.how)
    return _Wish(ctx, ctx.need_client().state, args, access, deny, creation)


def _check_grace(ctx: Context, claim: type) -> None:
    """§8.4.2.1, §18.51.3: reclaims at their time, by those who had something; everything else after it. What is opened
    under a delegation was decided when that was given."""
    client = ctx.need_client()
    if claim is ClaimPrevious:
        if not ctx.server.grace.may_reclaim(client):
            raise Nfs4Error(Stat.NO_GRACE)
    elif claim not in (ClaimDelegateCur, ClaimDelegCurFh) and (
        ctx.server.grace.active or not client.reclaim_complete
    ):
        raise Nfs4Error(Stat.GRACE)


# --- finding the file, by claim


async def _by_name(wish: _Wish, claim: ClaimNull | ClaimDelegateCur) -> _Found:
    directory = wish.ctx.need_current()
    change = (await need_directory(directory)).change
    name = component(claim.file)
    if wish.creation is None:
        found = await _named(wish, directory, name)
        found.cinfo = ChangeInfo(True, change, change)
        return found
    async with Changes(directory) as changes:
        found = await _named(wish, directory, name)
        if found.made_in is None:
            changes.names = 0
    found.cinfo = changes.info
    return found


async def _named(wish: _Wish, directory: Target, name: str) -> _Found:
    creation = wish.creation
    # What must not be there most often is not.
    look = creation is None or not creation.exclusive
    for _ in range(limits.OPEN_ATTEMPTS):
        target = await _child(wish, directory, name) if look else None
        look = True
        if target is not None:
            attr = await _attr_of(target)
            if creation is None:
                need_regular(attr)
                return _Found(target)
            truncate = creation.check_existing(attr)
            if truncate and not wish.access & _WRITE:
                raise Nfs4Error(Stat.INVAL)
            return _Found(
                target, truncate=truncate, attrset=creation.attrset(created=False, truncated=truncate)
            )
        if creation is None:
            raise Nfs4Error(Stat.NOENT)
        _check_room(wish)
        try:
            held, target = await creation.make(directory, name)
        except FsError as error:
            if error.status is not Status.EXISTS:
                raise
            continue  # somebody else made it just now, or we had not looked
        return _Found(target, held, directory, attrset=creation.attrset(created=True))
    raise Nfs4Error(Stat.DELAY)


async def _child(wish: _Wish, directory: Target, name: str) -> Target | None:
    """None if the name is not there."""
    try:
        return await wish.ctx.server.tree.child(wish.ctx, directory, name)
    except FsError as error:
        if error.status is not Status.NOT_FOUND:
            raise
        return None


async def _by_handle(wish: _Wish, claim: ClaimFh | ClaimPrevious) -> _Found:
    target = wish.ctx.need_current()
    need_regular(await _attr_of(target))
    return _Found(target, by_handle=True)


async def _by_delegation(wish: _Wish, claim: ClaimDelegateCur) -> _Found:
    found = await _by_name(wish, claim)
    return _delegated(wish, found, claim.stateid)


async def _by_delegation_and_handle(wish: _Wish, claim: ClaimDelegCurFh) -> _Found:
    return _delegated(wish, _Found(wish.ctx.need_current()), claim.stateid)


def _delegated(wish: _Wish, found: _Found, stateid: StateId) -> _Found:
    found.delegation = wish.client.find(meant(wish.ctx, stateid), Delegation, found.target.raw)
    found.by_handle = True
    return found


_CLAIMS: Final[dict[type, Callable[[_Wish, Any], Awaitable[_Found]]]] = {
    ClaimNull: _by_name,
    ClaimFh: _by_handle,
    ClaimPrevious: _by_handle,
    ClaimDelegateCur: _by_delegation,
    ClaimDelegCurFh: _by_delegation_and_handle,
}


async def _attr_of(target: Target) -> Attr:
    if target.attr is None:
        target.attr = await target.fs.getattr(target.node)
    return target.attr


# --- making it an open


def _check_room(wish: _Wish) -> None:
    if wish.client.opens >= limits.MAX_CLIENT_OPENS or wish.client.files.crowded(wish.client):
        raise Nfs4Error(Stat.DELAY)


async def _opened(wish: _Wish, found: _Found) -> Open:
    held = found.held
    spare: list[HeldFile] = [] if held is None else [held]
    try:
        if held is None:
            _check_room(wish)
            await _clear_the_way(wish, found)
            held = await _open_file(wish, found)
            spare.append(held)
        await _clear_the_way(wish, found)
        if found.truncate:
            await _truncate(wish, found, held)
            await _clear_the_way(wish, found)
        # From here on nothing waits: nobody can come between.
        opened = _registered(wish, found.target)
        spare += opened.back(held)
        if found.made_in is not None:
            opened.file.made_in = found.made_in
        return opened
    finally:
        await release_each(spare)


async def _clear_the_way(wish: _Wish, found: _Found) -> None:
    """SHARE_DENIED, or DELAY while delegations are called back. Waits only if something is in the way."""
    files = wish.client.files
    while (file := files.get(found.target.raw)) is not None:
        if others := file.shares.conflicts(wish.holder, wish.access, wish.deny):
            if not await files.expire_idle(clients_of(others), wish.ctx.now):
                raise Nfs4Error(Stat.SHARE_DENIED)
            continue
        disturbs = wish.disturbs or found.truncate
        if not file.in_the_way(wish.client, write=disturbs):
            return
        await files.recall_state(file, wish.client, for_write=disturbs)


async def _open_file(wish: _Wish, found: _Found) -> HeldFile:
    """The file with the caller's rights. Whoever may also read what is opened for writing gets both: pages that are
    written in part, and locks for reading, need it."""
    target, delegation = found.target, found.delegation
    if wish.access & _WRITE and target.export is not None and target.export.read_only:
        raise Nfs4Error(Stat.ROFS)
    if delegation is not None and (delegation.write or not wish.access & _WRITE):
        return delegation.held.share()
    tries = [OpenFlags.READ] if not wish.access & _WRITE else [OpenFlags.READ | OpenFlags.WRITE]
    if wish.access == _WRITE:
        tries.append(OpenFlags.WRITE)
    refused: FsError | None = None
    for flags in tries:
        try:
            return await _open_with(target, flags)
        except FsError as error:
            if error.status not in (Status.ACCESS, Status.NOT_PERMITTED):
                raise
            refused = error
    assert refused is not None and target.export is not None
    if found.by_handle and (await _attr_of(target)).uid == wish.ctx.caller_for(target.export).uid:
        # It was opened before with a mode that allowed it; the owner could change the mode back at any time.
        file, _, _ = await target.export.file_system.open(target.node, "", tries[0])
        return _held(file, tries[0])
    raise refused


async def _open_with(target: Target, flags: OpenFlags) -> HeldFile:
    file, target.attr, _ = await target.fs.open(target.node, "", flags)
    return _held(file, flags)


def _held(file: OpenFile, flags: OpenFlags) -> HeldFile:
    return HeldFile(file, readable=OpenFlags.READ in flags, writable=OpenFlags.WRITE in flags)


async def _truncate(wish: _Wish, found: _Found, held: HeldFile) -> None:
    found.target.attr = await held.file.setattr(SetAttr(size=0))
    file = wish.client.files.get(found.target.raw)
    if file is not None:
        file.size = 0
        own = file.delegations.get(wish.client)
        if own is not None:
            own.touched()


def _registered(wish: _Wish, target: Target) -> Open:
    client, holder = wish.client, wish.holder
    if wish.ctx.server.clients.get(client.client.id) is not client.client:
        raise Nfs4Error(Stat.EXPIRED)  # it ended meanwhile
    file = client.files.obtain(target.raw)
    try:
        file.shares.add(holder, wish.access, wish.deny)
    except BaseException:
        client.files.tidy(file)
        raise
    opened = file.opens.get(holder)
    if opened is None:
        opened = Open(client, file, holder[1])
        opened.access, opened.deny = wish.access, wish.deny
    else:
        opened.refresh()
    return opened


# --- the rest


async def open_downgrade(ctx: Context, args: OpenDowngradeArgs) -> OpenDowngradeResok:
    """§18.18."""
    opened = ctx.need_client().state.find(meant(ctx, args.stateid), Open, ctx.need_current().raw)
    access, deny = args.share_access & ~(ShareAccess.WANT_DELEG_MASK | _WISHES), args.share_deny
    opened.file.shares.downgrade((opened.client, opened.owner), access, deny)
    ctx.current_stateid = opened.refresh()
    return OpenDowngradeResok(ctx.current_stateid)


async def close(ctx: Context, args: CloseArgs) -> CloseResok:
    """§18.2: with all locks that were taken under it. The stateid is of no use any more, and the answer says so."""
    state = ctx.need_client().state
    opened = state.find(meant(ctx, args.stateid), Open, ctx.need_current().raw)
    state.forget(opened)
    ctx.current_stateid = INVALID
    await opened.release()
    return CloseResok(INVALID)


HANDLERS: Final[dict[Op, Handler]] = {
    Op.OPEN: open_,
    Op.OPEN_DOWNGRADE: open_downgrade,
    Op.CLOSE: close,
}
