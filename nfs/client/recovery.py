"""Opens and locks after the server lost them, or may have: reclaim, and opening again (RFC 8881 §8.4).

client ID gone  -> CLAIM_PREVIOUS for each open, LOCK with reclaim for each lock, RECLAIM_COMPLETE
                   refused (no grace: the lease ran out) -> the open is `lost`
stateid unknown -> the open is `lost`
lost            -> the next call on it opens the file again, by its handle or, where that has gone, by its name;
                   locks are not taken again, as others may have had them: their owners hear of it
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Final

from quicfs.nfs.client.attributes import attr_of
from quicfs.nfs.client.errors import CompoundFailed
from quicfs.nfs.client.link import Link
from quicfs.nfs.client.locking import granted, reclaims
from quicfs.nfs.client.locks import LockOwnerState
from quicfs.nfs.client.requests import GETATTR, GETFH, put
from quicfs.nfs.client.session import Session
from quicfs.nfs.client.status import LOST_STATE, fs_error
from quicfs.nfs.v4.const import DelegationType, Op, SeqStatus, ShareAccess, ShareDeny, Stat
from quicfs.nfs.v4.operations_open import ClaimFh, ClaimNull, ClaimPrevious, OpenArgs
from quicfs.nfs.v4.operations_sessions import FreeStateidArgs, ReclaimCompleteArgs, TestStateidArgs
from quicfs.nfs.v4.types import OpenOwner, StateId
from quicfs.vfs.status import FsError, Status

if TYPE_CHECKING:
    from quicfs.nfs.client.delegations import Delegations
    from quicfs.nfs.client.openfile import NfsOpenFile
    from quicfs.nfs.client.walking import Walker

__all__ = ["Opens"]

_log = logging.getLogger("quicfs.nfs")

_AT_ONCE: Final = 16
_TESTED_AT_ONCE: Final = 128
_NO_HANDLE: Final = frozenset({Stat.STALE, Stat.BADHANDLE, Stat.FHEXPIRED, Stat.NOENT})


class Opens:
    """All open files of one client, whoever they are opened for."""

    def __init__(self) -> None:
        self._files: dict[NfsOpenFile, None] = {}
        self.link: Link | None = None
        self.delegations: Delegations | None = None
        self._checking = False

    def add(self, file: NfsOpenFile) -> None:
        self._files[file] = None

    def remove(self, file: NfsOpenFile) -> None:
        self._files.pop(file, None)

    def __iter__(self) -> Iterator[NfsOpenFile]:
        return iter(list(self._files))

    def __len__(self) -> int:
        return len(self._files)

    # A new client ID

    async def reclaim(self, session: Session, generation: int, timeout: float) -> None:
        """Before anything else is done under a new client ID. Raises SessionGone and the like: try again."""
        if self.delegations is not None:
            self.delegations.start_over(generation)
        files = [file for file in self._files if file.generation != generation and not file.lost]
        loop = asyncio.get_running_loop()
        turns = iter(files)

        async def worker() -> None:
            for file in turns:
                await self._reclaim(file, session, generation, loop.time() + timeout)

        workers = [loop.create_task(worker()) for _ in range(min(_AT_ONCE, len(files)))]
        try:
            await asyncio.gather(*workers)
        finally:
            for each in workers:
                each.cancel()
            await asyncio.gather(*workers, return_exceptions=True)
        if files:
            lost = sum(file.lost for file in files)
            _log.info("%d opens reclaimed, %d lost", len(files) - lost, lost)
        await self._complete(session, loop.time() + timeout)

    async def _complete(self, session: Session, deadline: float) -> None:
        assert self.link is not None
        operation = (Op.RECLAIM_COMPLETE, ReclaimCompleteArgs(False))
        try:
            await self.link.through(session, [operation], "RECLAIM_COMPLETE", deadline=deadline)
        except CompoundFailed as failed:
            if failed.status not in (Stat.COMPLETE_ALREADY, Stat.NOTSUPP):
                raise

    async def _reclaim(self, file: NfsOpenFile, session: Session, generation: int, deadline: float) -> None:
        assert self.link is not None
        node = file.nfs_node
        args = _open_args(file, ClaimPrevious(DelegationType.NONE))
        try:
            values = await self.link.through(
                session,
                [put(node), (Op.OPEN, args)],
                file.shown,
                deadline=deadline,
                cache=True,
                credential=file.fs.credential,
            )
        except CompoundFailed as failed:
            _log.info("%s cannot be reclaimed (%s)", file.shown, failed.status.name)
            file.lose()
            return
        if file.closed:
            return
        held = file.locks.held
        file.opened(node, values[1].stateid, generation)
        for state in file.locks.owners:
            state.stateid = None
        for state in held:
            await self._reclaim_locks(file, state, values[1].stateid, session, deadline)

    async def _reclaim_locks(
        self,
        file: NfsOpenFile,
        state: LockOwnerState,
        open_stateid: StateId,
        session: Session,
        deadline: float,
    ) -> None:
        assert self.link is not None
        for start, end, kind in list(state.ranges):
            operation = reclaims(state, StateId(0, open_stateid.other), start, end, kind)
            try:
                values = await self.link.through(
                    session,
                    [put(file.nfs_node), operation],
                    file.shown,
                    deadline=deadline,
                    cache=True,
                    credential=file.fs.credential,
                )
            except CompoundFailed as failed:
                _log.warning("%s: a lock is lost (%s)", file.shown, failed.status.name)
                state.lost, state.ranges = True, []
                return
            granted(state, values[1].stateid)

    # One open that is gone

    async def reopen(self, file: NfsOpenFile, walker: Walker) -> None:
        """Open it again, if it is still the same object. STALE if not."""
        assert self.link is not None
        node = file.nfs_node
        try:
            values = await self._open_again(file, [put(node)], ClaimFh())
        except CompoundFailed as failed:
            if failed.status not in _NO_HANDLE:
                raise fs_error(failed, file.shown) from failed
            values = await self._open_by_name(file, walker)
        file.opened(node, values[0].stateid, self.link.generation)

    async def _open_again(
        self, file: NfsOpenFile, before: Sequence[Any], claim: ClaimFh | ClaimNull
    ) -> list[Any]:
        operations = [*before, (Op.OPEN, _open_args(file, claim)), GETFH, GETATTR]
        values = await file.fs.compound(operations, file.shown, cache=True)
        return values[len(before) :]

    async def _open_by_name(self, file: NfsOpenFile, walker: Walker) -> list[Any]:
        """The handle has expired (§4.2.3), or the server gives others since it restarted."""
        node = file.nfs_node
        if node.place is None:
            raise FsError(Status.STALE, f"{file.shown} is gone")
        directory, path = node.place
        try:
            found, attr = await walker.look(directory, path)
            if attr.fileid != node.fileid:
                raise FsError(Status.STALE, f"{file.shown} is another file now")
            values = await self._open_again(file, [put(found)], ClaimFh())
        except CompoundFailed as failed:
            raise FsError(Status.STALE, f"{file.shown} is gone") from failed
        except FsError as error:
            if error.status is Status.NOT_FOUND:
                raise FsError(Status.STALE, f"{file.shown} is gone") from error
            raise
        if attr_of(values[2].attributes).fileid != node.fileid:
            raise FsError(Status.STALE, f"{file.shown} is another file now")
        file.fs.nodes.moved(node, values[1].object)
        return values

    # Flags of SEQUENCE

    def on_flags(self, flags: int) -> None:
        """`sr_status_flags` (§18.46.3): some state is gone. Which, TEST_STATEID tells."""
        assert self.link is not None
        if self._checking:
            return
        self._checking = True
        self.link.spawn(self._check(bool(flags & SeqStatus.RESTART_RECLAIM_NEEDED)))

    async def _check(self, restarted: bool) -> None:
        assert self.link is not None
        try:
            session = self.link.current
            if restarted and session is not None:
                # The server knows session and client, but nothing else of us.
                self.link.generation += 1
                await self.reclaim(session, self.link.generation, self.link.settings.timeout)
                return
            files = [file for file in self._files if not file.lost and file.delegation is None]
            for at in range(0, len(files), _TESTED_AT_ONCE):
                await self._test(files[at : at + _TESTED_AT_ONCE])
            if self.delegations is not None:
                await self.delegations.test()
        except (FsError, CompoundFailed, ConnectionError) as error:
            _log.info("asked which state is left: %s", error)
        finally:
            await asyncio.sleep(1.0)  # the flags stay until the server has heard FREE_STATEID
            self._checking = False

    async def _test(self, files: Iterable[NfsOpenFile]) -> None:
        """Opens and locks that the server has revoked are noted, and freed."""
        assert self.link is not None
        asked: list[tuple[NfsOpenFile, LockOwnerState | None, StateId]] = []
        for file in files:
            asked.append((file, None, await file.stateid()))
            asked += [
                (file, state, state.stateid) for state in file.locks.owners if state.stateid is not None
            ]
        if not asked:
            return
        operation = (Op.TEST_STATEID, TestStateidArgs([stateid for _, _, stateid in asked]))
        values = await self.link.compound([operation], "TEST_STATEID")
        for (file, state, stateid), status in zip(asked, values[0].status_codes, strict=True):
            if status is Stat.OK or status is Stat.OLD_STATEID:
                continue
            _log.warning("%s: the server has revoked an open or a lock (%s)", file.shown, status.name)
            if state is None:
                file.forgotten(stateid)
            else:
                state.stateid, state.lost, state.ranges = None, bool(state.ranges), []
            try:
                await self.link.compound([(Op.FREE_STATEID, FreeStateidArgs(stateid))], "FREE_STATEID")
            except CompoundFailed as failed:
                if failed.status not in LOST_STATE:
                    _log.debug("FREE_STATEID: %s", failed.status.name)


def _open_args(file: NfsOpenFile, claim: ClaimPrevious | ClaimFh | ClaimNull) -> OpenArgs:
    access = file.access | ShareAccess.WANT_NO_DELEG
    return OpenArgs(0, access, ShareDeny.NONE, OpenOwner(0, file.owner), None, claim)
