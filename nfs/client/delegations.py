"""Delegations (RFC 8881 §10.2, §10.4): the server's word that nobody else is in the way, until it asks for it back.

While we hold one, what is remembered of the file need not be asked again; and those who opened the file before, and
were let in by the server, open it again without a call. Such a local open uses the delegation's stateid for reading and
writing. Before the delegation goes back, each becomes an open of the server's (CLAIM_DELEG_CUR_FH).

Delegations stay after the last close. They go back when the server asks (CB_RECALL, CB_RECALL_ANY), when there are too
many, and when the file is removed here. Writes are never held back here, so that there is nothing to write before.

    held --recall, too many, removed--> returning --DELEGRETURN--> gone
    held --client ID lost, revoked--> gone               (opens are reclaimed, or opened again, by `recovery`)
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import stat
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

from quicfs.nfs import limits
from quicfs.nfs.client.caching import Caches
from quicfs.nfs.client.errors import CompoundFailed
from quicfs.nfs.client.nodes import NfsNode
from quicfs.nfs.client.requests import put
from quicfs.nfs.client.status import LOST_STATE
from quicfs.nfs.rpc.message import Credential
from quicfs.nfs.v4.attributes import Attribute, Attributes
from quicfs.nfs.v4.const import Op, RecallAny, ShareAccess, ShareDeny, Stat, WhyNoDelegation
from quicfs.nfs.v4.operations_open import (
    ClaimDelegCurFh,
    DelegreturnArgs,
    NoDelegation,
    OpenArgs,
    ReadDelegation,
    WriteDelegation,
)
from quicfs.nfs.v4.operations_sessions import FreeStateidArgs, TestStateidArgs
from quicfs.nfs.v4.types import OpenOwner, StateId
from quicfs.vfs.status import FsError

if TYPE_CHECKING:
    from quicfs.nfs.client.behind import WriteBehind
    from quicfs.nfs.client.link import Link
    from quicfs.nfs.client.openfile import NfsOpenFile
    from quicfs.nfs.client.posting import Poster

__all__ = ["Delegation", "Delegations"]

_log = logging.getLogger("quicfs.nfs")

_TRIES: Final = 3
_TESTED_AT_ONCE: Final = 128
_WAY_S: Final = 10.0  # that the directories on the way to a file are believed to be where they were
_CLOSE_S: Final = 5.0
_FEWEST: Final = 64  # that are held even if the server has no more
_ROOM: Final = 8  # this part of them is given back when there are too many
_EARLY_S: Final = 1.0  # a recall may overtake the answer to the OPEN that it is about


Place = tuple[NfsNode, str]
"""A directory and a path from there."""


class Delegation:
    """Of one file. `granted`: what the server let each user open it for while we held it."""

    __slots__ = (
        "change",
        "generation",
        "granted",
        "names",
        "node",
        "opens",
        "returning",
        "size",
        "stateid",
        "write",
    )

    def __init__(self, node: NfsNode, stateid: StateId, generation: int, *, write: bool) -> None:
        self.node = node
        self.stateid = stateid
        self.generation = generation
        self.write = write
        self.granted: dict[Credential, int] = {}
        self.names: dict[Place, float] = {}  # and when the server led us there last, in loop time
        self.opens: set[NfsOpenFile] = set()  # local ones
        self.returning: asyncio.Task[None] | None = None
        self.change: int | None = None  # when it was given
        self.size: int | None = None  # as far as we have written, if we have

    @property
    def held(self) -> bool:
        return self.returning is None


class Delegations:
    """All of one client. `link` is set before the first OPEN."""

    def __init__(self, caches: Caches, *, wanted: bool = True) -> None:
        self._caches = caches
        self.wanted = wanted
        self.link: Link | None = None
        self.behind: WriteBehind | None = None
        self.poster: Poster | None = None
        self._held: dict[NfsNode, Delegation] = {}  # what was used longest ago comes first
        self._most = limits.CLIENT_DELEGATIONS  # to hold; fewer if the server gives fewer
        self._returning: set[Delegation] = set()
        self._by_name: dict[Place, Delegation] = {}
        self._opening = 0
        self._opened = asyncio.Event()

    def __len__(self) -> int:
        return len(self._held)

    @property
    def want(self) -> int:
        """For `share_access` of OPEN."""
        return ShareAccess.WANT_ANY_DELEG if self.wanted else ShareAccess.WANT_NO_DELEG

    def of(self, node: NfsNode) -> Delegation | None:
        """One that may be used."""
        cache = node.cache
        held = cache.delegation if cache is not None else None
        return held if held is not None and held.held else None

    # What OPEN brings

    def opening(self) -> None:
        """An OPEN is sent that may bring a delegation."""
        self._opening += 1

    def answered(self) -> None:
        """There is an answer; `opened` follows at once if it is a good one."""
        self._opening -= 1
        self._opened.set()
        self._opened.clear()

    def opened(self, file: NfsOpenFile, place: Place | None, answer: Any) -> None:
        """`file` was opened by the server, under this name, and this is what it says of delegations."""
        node = file.nfs_node
        assert self.link is not None
        held = self.of(node)
        if isinstance(answer, (ReadDelegation, WriteDelegation)):
            write = isinstance(answer, WriteDelegation)
            if held is not None and held.stateid.other != answer.stateid.other:
                # A server has one for each client and file (§10.4.1): the later one counts.
                self._forget(held)
                held = None
            if held is None:
                held = self._hold(node, answer.stateid, file.generation, write=write)
            held.stateid, held.write = answer.stateid, write
            if answer.recall:
                self.give_back(held)
            self._most = min(self._most + 1, limits.CLIENT_DELEGATIONS)
        elif isinstance(answer, NoDelegation) and answer.why == WhyNoDelegation.RESOURCE:
            # §10.4: the server has no more for us. Open files are worth more to us than closed ones.
            self._most = min(self._most, max(len(self._held), _FEWEST))
            self._make_room()
        if held is None or not held.held:
            return
        held.granted[file.fs.credential] = held.granted.get(file.fs.credential, 0) | file.access
        if place is not None:
            held.names[place] = self._caches.now()
            self._by_name[place] = held
        if len(self._held) > self._most:
            self._make_room()
        if len(self._held) > limits.CLIENT_DELEGATIONS:
            self.give_back(held)  # all others are in use

    def _make_room(self) -> None:
        """Some of the idle ones go back, in one call."""
        surplus = len(self._held) - self._most + self._most // _ROOM
        idle = (each for each in self._held.values() if not each.opens)
        for each in list(itertools.islice(idle, max(0, surplus))):
            self.give_back(each)

    def _hold(self, node: NfsNode, stateid: StateId, generation: int, *, write: bool) -> Delegation:
        held = Delegation(node, stateid, generation, write=write)
        cache = self._caches.of(node)
        cache.delegation = held
        held.change = cache.change
        self._held[node] = held
        return held

    # Opening without a call

    def local(self, place: Place, credential: Credential, access: int) -> Delegation | None:
        """Under which delegation this user may open the file without a call. Nobody else can give the last name on the
        way to another file while we hold it: a server asks for it back before that (§10.4)."""
        held = self._by_name.get(place)
        if held is None or not held.held or not self._caches.leased():
            return None
        if access & ShareAccess.WRITE and not held.write:
            return None
        missing = access & ~held.granted.get(credential, 0)
        if missing and not self._owner_may(held, credential, missing):
            return None
        if "/" in place[1] and held.names[place] + _WAY_S < self._caches.now():
            return None
        self._held[held.node] = self._held.pop(held.node)
        return held

    def _owner_may(self, held: Delegation, credential: Credential, access: int) -> bool:
        """Whether it is the user's own file, and its mode lets them."""
        attr = self._caches.attr(held.node)
        if attr is None or attr.uid != getattr(credential, "uid", None):
            return False
        return not (
            (access & ShareAccess.READ and not attr.mode & stat.S_IRUSR)
            or (access & ShareAccess.WRITE and not attr.mode & stat.S_IWUSR)
        )

    # What we do to the file ourselves

    def name_gone(self, place: Place) -> None:
        """The name leads elsewhere, or nowhere. A file that may be gone is no longer kept by its delegation."""
        held = self._by_name.get(place)
        if held is not None:
            self._unname(held)
            self.give_back(held)

    def removed(self, node: NfsNode) -> None:
        """The file has a name less, perhaps none: it is not kept by our delegation."""
        held = self.of(node)
        if held is not None:
            self.give_back(held)

    def moved(self, *names: str) -> None:
        """An object with one of these names was renamed: it may be a directory on the way to others."""
        for name in names:
            for place in [place for place in self._by_name if name in place[1]]:
                if name in place[1].split("/"):
                    self._by_name.pop(place).names.pop(place, None)

    def rights_changed(self, node: NfsNode) -> None:
        """SETATTR: others may be let in now than were before."""
        held = self.of(node)
        if held is not None:
            held.granted.clear()

    def wrote(self, node: NfsNode, end: int) -> None:
        held = self.of(node)
        if held is not None:
            held.size = max(end, held.size or 0)

    # What the server asks

    async def recall(self, stateid: StateId, fh: bytes) -> Stat:
        """CB_RECALL (§20.2): the answer; the work goes on."""
        held = self._find(stateid, fh)
        if held is None and self._opening:
            # §2.10.6.3: the answer to the OPEN that gave it may still be on its way.
            try:
                async with asyncio.timeout(_EARLY_S):
                    while held is None and self._opening:
                        await self._opened.wait()
                        held = self._find(stateid, fh)
            except TimeoutError:
                pass
        if held is None:
            return Stat.BAD_STATEID
        self.give_back(held)
        return Stat.OK

    def _find(self, stateid: StateId, fh: bytes) -> Delegation | None:
        return next(
            (
                held
                for held in (*self._held.values(), *self._returning)
                if held.node.fh == fh and held.stateid.other == stateid.other
            ),
            None,
        )

    def recall_any(self, keep: int, mask: int) -> None:
        """CB_RECALL_ANY (§20.6): give back until `keep` are left, those first that were not used for long."""
        kinds = {False: bool(mask >> RecallAny.RDATA_DLG & 1), True: bool(mask >> RecallAny.WDATA_DLG & 1)}
        chosen = [each for each in self._held.values() if kinds[each.write]]
        chosen.sort(key=lambda each: bool(each.opens))
        for each in chosen[: max(0, len(self._held) - keep)]:
            self.give_back(each)

    def attributes(self, fh: bytes) -> Attributes | None:
        """CB_GETATTR (§10.4.3): size and change attribute of a file that is delegated to us for writing."""
        every = (*self._held.values(), *self._returning)
        held = next((each for each in every if each.node.fh == fh and each.write), None)
        if held is None or held.change is None:
            return None
        attr = self._caches.attr(held.node)
        if attr is not None:
            return {Attribute.CHANGE: attr.change, Attribute.SIZE: attr.size}
        if held.size is None:
            return None
        return {Attribute.CHANGE: held.change + 1, Attribute.SIZE: held.size}

    # Giving back

    def give_back(self, held: Delegation) -> None:
        """Soon. Opens that rest on it go on."""
        if held.returning is not None or self.link is None:
            return
        self._unname(held)
        held.returning = self.link.spawn(self._return(held))
        if self._held.get(held.node) is held:
            del self._held[held.node]
        self._returning.add(held)

    async def _return(self, held: Delegation) -> None:
        try:
            assert self.behind is not None
            await self.behind.flush(held.node)
            while held.opens:
                await self._open_at_server(held, next(iter(held.opens)))
            await self._send_back(held)
        except CompoundFailed as failed:
            if failed.status not in LOST_STATE:
                _log.info("%s: a delegation is not taken back (%s)", held.node.shown, failed.status.name)
        finally:
            self._forget(held)

    async def _send_back(self, held: Delegation) -> None:
        """With others that go back at the same time, if that is possible."""
        assert self.poster is not None and self.link is not None
        operations = [put(held.node), (Op.DELEGRETURN, DelegreturnArgs(held.stateid))]
        outcome = await self.poster.together(operations, self.link.settings.credential)
        if isinstance(outcome, CompoundFailed):
            raise outcome
        if isinstance(outcome, FsError):
            await self._call(held, operations)

    async def _open_at_server(self, held: Delegation, file: NfsOpenFile) -> None:
        access = file.access | ShareAccess.WANT_NO_DELEG
        args = OpenArgs(
            0, access, ShareDeny.NONE, OpenOwner(0, file.owner), None, ClaimDelegCurFh(held.stateid)
        )
        try:
            values = await self._call(
                held, [put(held.node), (Op.OPEN, args)], credential=file.fs.credential, cache=True
            )
        except CompoundFailed as failed:
            _log.info("%s: an open under a delegation is lost (%s)", held.node.shown, failed.status.name)
            file.lose()
        else:
            if file.closed:
                file.fs.poster.post_close(held.node.fh, values[1].stateid, file.fs.credential)
            elif held.generation == self.link.generation:  # type: ignore[union-attr]
                file.opened(held.node, values[1].stateid, held.generation)
        held.opens.discard(file)

    async def _call(self, held: Delegation, operations: Sequence[Any], **options: Any) -> list[Any]:
        assert self.link is not None
        for turn in range(_TRIES):
            if held.generation != self.link.generation:
                raise CompoundFailed(Stat.STALE_STATEID, (), "a delegation of an earlier life")
            try:
                return await self.link.compound(operations, held.node.shown, **options)
            except FsError as error:
                if turn == _TRIES - 1:
                    raise
                _log.info("%s: %s", held.node.shown, error)
        raise AssertionError("unreachable")

    async def make_server_open(self, file: NfsOpenFile) -> None:
        """For what needs a stateid of an open: a lock."""
        held = file.delegation
        if held is not None:
            await self._open_at_server(held, file)

    def _unname(self, held: Delegation) -> None:
        for place in held.names:
            if self._by_name.get(place) is held:
                del self._by_name[place]
        held.names.clear()

    def _forget(self, held: Delegation) -> None:
        """It is not ours any more. Local opens that are left are lost: their next call opens the file again."""
        self._unname(held)
        if self._held.get(held.node) is held:
            del self._held[held.node]
        self._returning.discard(held)
        cache = held.node.cache
        if cache is not None and cache.delegation is held:
            cache.delegation = None
            self._caches.expire(held.node)
        for file in held.opens:
            file.delegation = None
            if file.generation == held.generation:
                file.lose()
        held.opens.clear()

    # After a loss

    def start_over(self, generation: int) -> None:
        """A new client ID: the delegations are gone. Local opens are reclaimed as opens (`recovery`)."""
        for held in (*self._held.values(), *self._returning):
            if held.generation == generation:
                continue
            for file in held.opens:
                file.delegation = None
            held.opens.clear()
            self._forget(held)
        self._most = limits.CLIENT_DELEGATIONS
        self._caches.clear()

    def revoked(self, held: Delegation) -> None:
        """The server knows its stateid no more."""
        _log.info("%s: the server has taken the delegation away", held.node.shown)
        self._caches.touch(held.node)
        self._caches.data.drop(held.node)
        self._forget(held)

    async def test(self) -> None:
        """Which ones the server has revoked (§18.48), and free them."""
        assert self.link is not None
        all_held = list(self._held.values())
        for at in range(0, len(all_held), _TESTED_AT_ONCE):
            some = all_held[at : at + _TESTED_AT_ONCE]
            args = TestStateidArgs([held.stateid for held in some])
            values = await self.link.compound([(Op.TEST_STATEID, args)], "TEST_STATEID")
            for held, status in zip(some, values[0].status_codes, strict=False):
                if status in (Stat.OK, Stat.OLD_STATEID):
                    continue
                self.revoked(held)
                try:
                    await self.link.compound(
                        [(Op.FREE_STATEID, FreeStateidArgs(held.stateid))], "FREE_STATEID"
                    )
                except CompoundFailed as failed:
                    if failed.status not in LOST_STATE:
                        _log.debug("FREE_STATEID: %s", failed.status.name)

    def unwanted(self, fh: bytes, answer: Any) -> None:
        """An OPEN that nobody waits for any more has brought this."""
        if self.link is not None and isinstance(answer, (ReadDelegation, WriteDelegation)):
            held = Delegation(NfsNode(fh, 0, None), answer.stateid, self.link.generation, write=False)
            self.give_back(held)

    async def return_all(self) -> None:
        """Before the end: nobody needs to call us back any more."""
        self.wanted = False
        for held in list(self._held.values()):
            self.give_back(held)
        tasks = [held.returning for held in self._returning if held.returning is not None]
        if tasks:
            await asyncio.wait(tasks, timeout=_CLOSE_S)
