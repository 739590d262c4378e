"""Writing behind a write delegation (RFC 8881 §10.4): small writes, times and modes wait for what comes next.

A file that a program makes, writes, dates and closes costs two calls then: OPEN, and one COMPOUND of all the rest.
Nobody else sees the file meanwhile: the server asks for the delegation first, and what waits goes out before it goes
back. Nothing waits for long, much never does, and flush, fsync and close wait for it and hear of what went wrong.

    waiting --flush, close, SETATTR, a look at the file, a recall, time--> under way --answer--> gone
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

from quicfs.nfs import limits
from quicfs.nfs.client.caching import Caches
from quicfs.nfs.client.channel import Operation
from quicfs.nfs.client.errors import CompoundFailed
from quicfs.nfs.client.nodes import NfsNode
from quicfs.nfs.client.posting import Outcome, Poster
from quicfs.nfs.client.requests import GETATTR, put
from quicfs.nfs.client.status import LOST_STATE, fs_error
from quicfs.nfs.client.unstable import UnstableData
from quicfs.nfs.v4.attributes import Attribute, Attributes
from quicfs.nfs.v4.const import Op, StableHow
from quicfs.nfs.v4.operations_files import SetattrArgs
from quicfs.nfs.v4.operations_io import WriteArgs
from quicfs.nfs.v4.operations_open import CloseArgs
from quicfs.nfs.v4.types import ANONYMOUS, StateId
from quicfs.vfs.api import Attr
from quicfs.vfs.status import FsError, Status

if TYPE_CHECKING:
    from quicfs.nfs.client.openfile import NfsOpenFile

__all__ = ["Behind", "WriteBehind"]

_log = logging.getLogger("quicfs.nfs")

_WAIT_S: Final = 0.05  # the longest that anything waits for more
_SMALL: Final = 64 << 10  # a write that is put off
_BATCH: Final = 256 << 10  # bytes that one file puts off, while as many are under way
_PIECES: Final = 64
_PUT_OFF: Final = frozenset({Attribute.MODE, Attribute.TIME_ACCESS_SET, Attribute.TIME_MODIFY_SET})


class Behind:
    """What was done to one file and is not at the server yet. `attributes`: for SETATTR."""

    __slots__ = (
        "attributes",
        "before",
        "changes",
        "end",
        "file",
        "mtime_ns",
        "name",
        "pieces",
        "size",
        "timer",
    )

    def __init__(self, file: NfsOpenFile, name: str) -> None:
        self.file = file
        self.name = name
        self.before: Behind | None = None  # what is under way
        self.pieces: list[tuple[int, list[memoryview]]] = []
        self.size = 0
        self.end = 0
        self.mtime_ns = 0
        self.attributes: Attributes = {}
        self.changes = 0
        self.timer: asyncio.TimerHandle | None = None

    def write(self, offset: int, data: memoryview) -> None:
        last = self.pieces[-1] if self.pieces else None
        if last is not None and last[0] + sum(map(len, last[1])) == offset:
            last[1].append(data)
        else:
            self.pieces.append((offset, [data]))
        self.size += len(data)
        self.end = max(self.end, offset + len(data))
        self.mtime_ns = time.time_ns()
        self.attributes.pop(Attribute.TIME_MODIFY_SET, None)  # writing sets it
        self.changes += 1

    def seen(self, attr: Attr) -> Attr:
        """The file's attributes, as they will be."""
        if self.before is not None:
            attr = self.before.seen(attr)
        now = time.time_ns()
        atime, mtime = attr.atime_ns, self.mtime_ns or attr.mtime_ns
        if Attribute.TIME_ACCESS_SET in self.attributes:
            atime = _ns(self.attributes[Attribute.TIME_ACCESS_SET], now)
        if Attribute.TIME_MODIFY_SET in self.attributes:
            mtime = _ns(self.attributes[Attribute.TIME_MODIFY_SET], now)
        return replace(
            attr,
            size=max(attr.size, self.end),
            mode=self.attributes.get(Attribute.MODE, attr.mode),
            atime_ns=atime,
            mtime_ns=mtime,
            ctime_ns=max(attr.ctime_ns, now),
            change=attr.change + self.changes,
        )

    def writes(self) -> list[tuple[int, memoryview]]:
        return [
            (offset, parts[0] if len(parts) == 1 else memoryview(b"".join(parts)))
            for offset, parts in self.pieces
        ]

    def operations(self, stateid: StateId) -> list[Operation]:
        made: list[Operation] = [
            (Op.WRITE, WriteArgs(stateid, offset, StableHow.UNSTABLE, data)) for offset, data in self.writes()
        ]
        if self.attributes:
            made.append((Op.SETATTR, SetattrArgs(ANONYMOUS, dict(sorted(self.attributes.items())))))
        return made


def _ns(value: int | None, now: int) -> int:
    return now if value is None else value


class WriteBehind:
    """Of all files of one client."""

    def __init__(self, caches: Caches, unstable: UnstableData, poster: Poster) -> None:
        self._caches = caches
        self._unstable = unstable
        self._poster = poster
        self._waiting: dict[NfsNode, Behind] = {}
        self._under_way: dict[NfsNode, tuple[Behind, asyncio.Future[None]]] = {}
        self._names: dict[str, set[NfsNode]] = {}  # by their last names
        self._total = 0

    # Putting off

    def may(self, file: NfsOpenFile) -> Attr | None:
        """Whether changes of this file can wait: its attributes then, as they are at the server."""
        node = file.nfs_node
        held = file.fs.delegations.of(node)
        if held is None or not held.write or not self._caches.leased() or file.locks.owners:
            return None
        attr = self._caches.base(node)
        # What has one name only, and one that we know, is not reached by another.
        return attr if attr is not None and attr.nlink == 1 and node.place is not None else None

    async def write(self, file: NfsOpenFile, offset: int, data: memoryview) -> bool:
        """Put it off; False if that is not possible. Waits while as much is under way as waits."""
        node = file.nfs_node
        while True:
            if len(data) > _SMALL or self.may(file) is None:
                return False
            behind = self._waiting.get(node)
            full = behind is not None and (behind.size + len(data) > _BATCH or len(behind.pieces) >= _PIECES)
            if not full and self._total + len(data) <= limits.BEHIND:
                break
            if behind is None:
                return False  # other files take all the room
            if (under_way := self._under_way.get(node)) is not None:
                await asyncio.shield(under_way[1])
            else:
                file.fs.spawn(self._send(node, self._take(node)))
        behind = behind or self._begin(file)
        behind.write(offset, data)
        self._total += len(data)
        self._caches.data.cut(node, offset, offset + len(data))
        file.fs.delegations.wrote(node, offset + len(data))
        return True

    def set(self, file: NfsOpenFile, changes: Attributes) -> bool:
        """The same for SETATTR of times, and of a mode that gives more rights than before, by the owner of the file,
        who may. What takes rights away is done at once."""
        node = file.nfs_node
        if not _PUT_OFF.issuperset(changes):
            return False
        attr = self.may(file)
        if attr is None or attr.uid != getattr(file.fs.credential, "uid", None):
            return False
        if (mode := changes.get(Attribute.MODE)) is not None and (
            mode & attr.mode != attr.mode or mode > 0o777
        ):
            return False
        behind = self._waiting.get(node) or self._begin(file)
        behind.attributes.update(changes)
        behind.changes += 1
        return True

    def take_attributes(self, node: NfsNode) -> Attributes:
        """Those that wait, for a SETATTR that follows what was written."""
        behind = self._waiting.get(node)
        if behind is None:
            return {}
        taken: Attributes = dict(behind.attributes)
        behind.attributes.clear()
        return taken

    def _begin(self, file: NfsOpenFile) -> Behind:
        node = file.nfs_node
        behind = self._waiting[node] = Behind(file, _last_name(node))
        if (under_way := self._under_way.get(node)) is not None:
            behind.before = under_way[0]
        self._caches.of(node).behind = behind
        self._names.setdefault(behind.name, set()).add(node)
        behind.timer = asyncio.get_running_loop().call_later(_WAIT_S, self._due, node)
        return behind

    def _due(self, node: NfsNode) -> None:
        behind = self._waiting.get(node)
        if behind is not None:
            behind.file.fs.spawn(self.flush(node))

    def _take(self, node: NfsNode) -> Behind:
        """It is under way from here on, alone; `_arrived` follows."""
        behind = self._waiting.pop(node)
        if behind.timer is not None:
            behind.timer.cancel()
        self._under_way[node] = behind, asyncio.get_running_loop().create_future()
        return behind

    def _arrived(self, node: NfsNode, behind: Behind) -> None:
        self._total -= behind.size
        _, done = self._under_way.pop(node)
        later = self._waiting.get(node)
        self._caches.of(node).behind = later
        if later is not None:
            later.before = None
        if later is None or later.name != behind.name:
            nodes = self._names.get(behind.name)
            if nodes is not None:
                nodes.discard(node)
                if not nodes:
                    del self._names[behind.name]
        done.set_result(None)

    async def _turn(self, node: NfsNode) -> Behind | None:
        """What waits, once nothing of the file is under way: it is now."""
        while (under_way := self._under_way.get(node)) is not None:
            await asyncio.shield(under_way[1])
        return self._take(node) if node in self._waiting else None

    # Bringing it to the server

    def has(self, node: NfsNode) -> bool:
        return node in self._waiting or node in self._under_way

    async def flush(self, node: NfsNode) -> None:
        """What was done to it before is at the server when this returns; fsync and close tell what went wrong."""
        behind = await self._turn(node)
        if behind is not None:
            await asyncio.shield(behind.file.fs.spawn(self._send(node, behind)))

    async def flush_named(self, name: str) -> None:
        """Before something is looked for under this name."""
        for node in list(self._names.get(name, ())):
            await self.flush(node)

    async def flush_all(self) -> None:
        for node in [*self._under_way, *self._waiting]:
            await self.flush(node)

    async def _send(self, node: NfsNode, behind: Behind) -> None:
        try:
            await self._exchange(node, behind, lambda stateid: [GETATTR])
        except CompoundFailed as failed:
            self._failed(node, fs_error(failed, node.shown))
        except FsError as error:
            self._failed(node, error)
        finally:
            self._arrived(node, behind)

    async def _exchange(
        self, node: NfsNode, behind: Behind, more: Callable[[StateId], Sequence[Operation]]
    ) -> list[Any]:
        """With `more` after it: the results of that."""
        count = 0

        def build(stateid: StateId) -> list[Operation]:
            nonlocal count
            operations = behind.operations(stateid)
            count = len(operations)
            return [*operations, *more(stateid)]

        values = await behind.file.exchange(build, cache=True, even_closed=True)
        await self._written(node, behind, values)
        return values[count:]

    async def _written(self, node: NfsNode, behind: Behind, values: Sequence[Any]) -> None:
        for (offset, data), value in zip(behind.writes(), values, strict=False):
            self._unstable.keep(node, offset, data[: value.count], value.writeverf)
            if value.count < len(data):
                await behind.file.write_rest(offset + value.count, data[value.count :])

    async def flush_with(
        self, node: NfsNode, more: Callable[[StateId], Sequence[Operation]]
    ) -> list[Any] | None:
        """In one COMPOUND, what waits and then `more`: the results of that. None if nothing waits, or if it was not to
        be had in one: then it is at the server now, and `more` is still to be done."""
        behind = await self._turn(node)
        if behind is None:
            return None
        try:
            return await self._exchange(node, behind, more)
        except CompoundFailed as failed:
            if failed.index >= len(behind.operations(ANONYMOUS)):
                await self._written(node, behind, [result.value for result in failed.results])
                return None
            self._failed(node, fs_error(failed, node.shown))
            return None
        except FsError as error:
            self._failed(node, error)
            raise
        finally:
            self._arrived(node, behind)

    def close(self, file: NfsOpenFile, stateid: StateId) -> asyncio.Future[None] | None:
        """What waits, and CLOSE; None if nothing does. The future is done when all of that is."""
        node = file.nfs_node
        behind = self._waiting.get(node)
        if behind is None or behind.file is not file or node in self._under_way:
            return None
        own = file.delegation is None
        operations = [put(node), *behind.operations(stateid), GETATTR]
        if own:
            operations.append((Op.CLOSE, CloseArgs(0, stateid)))

        def done(outcome: Outcome) -> None:
            if isinstance(outcome, list):
                file.fs.spawn(self._closed(node, behind, outcome[1:]))
            elif isinstance(outcome, CompoundFailed) and outcome.status not in LOST_STATE:
                self._failed(node, fs_error(outcome, node.shown))
                if own:
                    self._poster.post_close(node.fh, stateid, file.fs.credential)
                self._arrived(node, behind)
            else:
                file.fs.spawn(self._rescue(node, behind))

        self._take(node)
        if not self._poster.post(operations, file.fs.credential, done, size=behind.size):
            self._waiting[node] = behind
            self._under_way.pop(node)[1].set_result(None)
            return None
        return self._under_way[node][1]

    async def _closed(self, node: NfsNode, behind: Behind, values: Sequence[Any]) -> None:
        try:
            await self._written(node, behind, values)
        except FsError as error:
            self._failed(node, error)
        finally:
            self._arrived(node, behind)

    async def _rescue(self, node: NfsNode, behind: Behind) -> None:
        """The server has lost the open meanwhile, or we the server: no share reservation of ours is in the way."""
        fs = behind.file.fs
        try:
            values = await fs.run([put(node), *behind.operations(ANONYMOUS)], node.shown)
            await self._written(node, behind, values[1:])
        except FsError as error:
            self._failed(node, error)
        finally:
            self._arrived(node, behind)

    def _failed(self, node: NfsNode, error: FsError) -> None:
        if error.status is Status.STALE and all(file.closed for file in node.opens):
            return  # what was removed need not be written
        _log.warning("%s: what was written is lost: %s", node.shown, error)
        self._caches.touch(node)
        self._unstable.of(node).error = error


def _last_name(node: NfsNode) -> str:
    return node.place[1].rpartition("/")[2] if node.place is not None else ""
