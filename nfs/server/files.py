"""The files that some client has open, locked or delegated, and what stands in the way of whom.

There is one `FileState` for each such file, found by its handle. What conflicts with what:

    opens         share reservations (shares.py)
    locks         byte ranges (lock_table.py), and those of other programs by way of the open file
    delegations   everything that their holder was told need not be asked for (delegations.py)

A client whose lease has run out keeps what it has until somebody else wants it: then it is `ClientTable.expire`d.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import os
import resource
from collections.abc import Coroutine, Hashable, Iterable
from typing import TYPE_CHECKING, Any, Final, cast

from quicfs.nfs import limits
from quicfs.nfs.server.lock_table import LockTable
from quicfs.nfs.server.shares import ShareTable
from quicfs.nfs.server.stateids import ClientState, StateIdSource
from quicfs.nfs.v4.const import Nfs4Error, Stat
from quicfs.vfs.api import Attr, OpenFile
from quicfs.vfs.status import FsError

if TYPE_CHECKING:
    from quicfs.nfs.server.clients import Client
    from quicfs.nfs.server.context import Target
    from quicfs.nfs.server.delegations import Delegation
    from quicfs.nfs.server.locks import Locker, Waiter
    from quicfs.nfs.server.opens import Open
    from quicfs.nfs.server.server import NfsServer

__all__ = ["FileState", "Files", "HeldFile", "Holder", "clients_of", "release_each"]

_log = logging.getLogger("quicfs.nfs")

Holder = tuple[ClientState, bytes]
"""An open owner or a lock owner."""

_UNLIMITED: Final = 1 << 20
_READ: Final = 1
_WRITE: Final = 2


def clients_of(holders: Iterable[Hashable]) -> list[ClientState]:
    """Of what `ShareTable` knows as holders."""
    return [cast(Holder, holder)[0] for holder in holders]


class HeldFile:
    """An open file of the tree, as long as an open, a lock or a delegation needs it."""

    __slots__ = ("_users", "file", "readable", "writable")

    def __init__(self, file: OpenFile, *, readable: bool, writable: bool) -> None:
        self.file = file
        self.readable = readable
        self.writable = writable
        self._users = 1

    def share(self) -> HeldFile:
        """For one more user."""
        self._users += 1
        return self

    async def release(self) -> None:
        """FsError when what was written before could not be kept."""
        self._users -= 1
        if not self._users:
            await self.file.close()


async def release_each(held: Iterable[HeldFile]) -> None:
    """All of them, whatever becomes of one. FsError: the first."""
    failed: FsError | None = None
    for one in held:
        try:
            await one.release()
        except FsError as error:
            failed = failed or error
    if failed is not None:
        raise failed


class FileState:
    """`raw` is the handle of the file. `size` is a size that it has had lately, 0 if none is known."""

    __slots__ = (
        "delegations",
        "files",
        "lock_turn",
        "lockers",
        "locks",
        "made_in",
        "opens",
        "raw",
        "shares",
        "size",
        "waiters",
    )

    def __init__(self, files: Files, raw: bytes) -> None:
        self.files = files
        self.raw = raw
        self.shares = ShareTable()
        self.locks = LockTable()
        self.opens: dict[Holder, Open] = {}
        self.delegations: dict[ClientState, Delegation] = {}
        self.lockers: dict[Holder, Locker] = {}
        self.waiters: list[Waiter] = []
        self.lock_turn = asyncio.Lock()
        self.size = 0
        self.made_in: Target | None = None  # the directory in which its name is not yet on disk

    @property
    def idle(self) -> bool:
        return not (self.opens or self.delegations or self.lockers)

    def some_held(self) -> HeldFile | None:
        """Some open file, whichever it is."""
        for opened in self.opens.values():
            return opened.held
        for delegation in self.delegations.values():
            return delegation.held
        return None

    def any_held(self) -> HeldFile | None:
        """Some open file; a writable one if there is one."""
        found = [opened.held for opened in self.opens.values()]
        found += [delegation.held for delegation in self.delegations.values()]
        return max(found, key=lambda held: held.writable, default=None)

    async def sync_name(self) -> None:
        """The name that it was made under is on disk when this returns."""
        directory, self.made_in = self.made_in, None
        if directory is not None:
            await directory.fs.fsync(directory.node)

    def in_the_way(self, client: ClientState | None, *, write: bool) -> list[Delegation]:
        """The delegations of others that reading (or changing) the file conflicts with (RFC 8881 §10.4)."""
        return [
            held
            for holder, held in self.delegations.items()
            if holder is not client and (write or held.write)
        ]


class Files:
    """All of a server. `run`: 4 bytes that tell this run of the server from others."""

    def __init__(self, server: NfsServer, *, run: bytes) -> None:
        self.server = server
        self.stateids = StateIdSource(run)
        self.opens = self.lockers = self.delegations = 0  # how many there are
        soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        self._room = soft // 2 if soft > 0 else _UNLIMITED  # the rest is for the tree and for connections
        self.lock_numbers = itertools.count(1)
        self.write_verifier = os.urandom(8)
        self._files: dict[bytes, FileState] = {}
        self._shy: dict[bytes, float] = {}  # until when, in the order of these times
        self._tasks: set[asyncio.Task[None]] = set()

    def __len__(self) -> int:
        return len(self._files)

    def crowded(self, client: ClientState) -> bool:
        """Whether this process should open no more files for `client`: each may have as many as are left over, so that
        one who takes all that he gets leaves half of them to others."""
        left = self._room - self.opens - self.lockers - self.delegations
        return client.opens + client.lock_owners + client.delegations >= left

    def new_client(self, client: Client) -> ClientState:
        """What `Client.state` is."""
        return ClientState(client, self)

    def get(self, raw: bytes) -> FileState | None:
        return self._files.get(raw)

    def obtain(self, raw: bytes) -> FileState:
        """For one who is going to put something into it before anything else happens."""
        file = self._files.get(raw)
        if file is None:
            file = self._files[raw] = FileState(self, raw)
        return file

    def tidy(self, file: FileState) -> None:
        """Forget the file if nothing is left of it."""
        if file.idle and self._files.get(file.raw) is file:
            del self._files[file.raw]

    def new_verifier(self) -> None:
        """What was written and not committed may be lost: clients are to write it again (§18.32.4)."""
        self.write_verifier = os.urandom(8)

    async def attr_of_open(self, raw: bytes) -> Attr | None:
        """Of a file that is open here, also when its last name is gone; None if it is not open."""
        file = self._files.get(raw)
        held = file.some_held() if file is not None else None
        return None if held is None else await held.file.getattr()

    # --- files that were fought over

    def shy_of(self, raw: bytes, now: float) -> None:
        """A delegation of this file was called back: give out no other for a while."""
        self._shy.pop(raw, None)
        if len(self._shy) >= limits.MAX_SHY_FILES:
            del self._shy[next(iter(self._shy))]
        self._shy[raw] = now + limits.DELEGATION_SHY_S

    def is_shy_of(self, raw: bytes, now: float) -> bool:
        until = self._shy.get(raw)
        if until is not None and now >= until:
            del self._shy[raw]
            until = None
        return until is not None

    # --- conflicts

    async def expire_idle(self, holders: Iterable[ClientState], now: float) -> bool:
        """End those of the clients whose lease has run out. Whether there was one: it is worth another look then."""
        ended = False
        for state in set(holders):
            if state.client.lease_expired(now):
                await self.server.clients.expire(state.client)
                ended = True
        return ended

    async def conflicts(self, target: Target, *, write: bool, by: Client | None = None) -> None:
        """For reads and writes that come without an open: LOCKED if an open denies them (§9.1.2), DELAY while a
        delegation is called back."""
        file = self._files.get(target.raw)
        if file is None:
            return
        while deniers := file.shares.deniers(_WRITE if write else _READ):
            if not await self.expire_idle(clients_of(deniers), self.server.clock()):
                raise Nfs4Error(Stat.LOCKED)
        await self.recall(target, for_write=write, by=by)

    async def recall(self, target: Target, *, for_write: bool, by: Client | None = None) -> None:
        """Before something is done to a file that others may have a delegation of: DELAY while it is called back."""
        file = self._files.get(target.raw)
        if file is not None and file.delegations:
            own = None if by is None else file.delegations.get(by.state)
            if own is not None:
                own.touched()
            await self.recall_state(file, None if by is None else by.state, for_write=for_write)

    async def recall_state(self, file: FileState, client: ClientState | None, *, for_write: bool) -> None:
        """As `recall`."""
        found = file.in_the_way(client, write=for_write)
        if not found:
            return
        now = self.server.clock()
        await self.expire_idle([held.client for held in found], now)
        waiting = [held.recall(now) for held in file.in_the_way(client, write=for_write)]
        if waiting:
            # Most come back at once, which spares the other client a second attempt.
            await asyncio.wait(waiting, timeout=_PATIENCE_S)
            if file.in_the_way(client, write=for_write):
                raise Nfs4Error(Stat.DELAY)

    # --- time

    async def tick(self, now: float) -> None:
        """To be called every second or so: takes delegations away that were not returned in time, and looks whether
        other programs have changed files that are delegated."""
        for file in [file for file in self._files.values() if file.delegations]:
            for held in list(file.delegations.values()):
                if held.overdue(now):
                    _log.warning("client %s did not return a delegation; revoked", held.client.client.name)
                    await held.client.revoke(held, Stat.DELEG_REVOKED)
                elif await held.changed_elsewhere():
                    held.recall(now)

    def spawn(self, work: Coroutine[Any, Any, None]) -> None:
        """Something that no caller waits for."""
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def aclose(self) -> None:
        """Stop what is under way; the files themselves stay with their clients."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


_PATIENCE_S: Final = 0.05
"""How long one who is in the way of a delegation waits before it hears DELAY."""
