"""An open file: its stateid, data in large pieces, locks, and opening it again after the server lost it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Final

from quicfs.nfs.client import locking
from quicfs.nfs.client.attributes import attr_of
from quicfs.nfs.client.channel import Operation
from quicfs.nfs.client.errors import CompoundFailed
from quicfs.nfs.client.locks import LockTable
from quicfs.nfs.client.nodes import NfsNode
from quicfs.nfs.client.requests import GETATTR, put
from quicfs.nfs.client.status import LOST_STATE, fs_error
from quicfs.nfs.client.tries import Tries
from quicfs.nfs.v4.const import DataContent, Op, ShareAccess, StableHow
from quicfs.nfs.v4.operations_io import AllocateArgs, DeallocateArgs, ReadArgs, SeekArgs, WriteArgs
from quicfs.nfs.v4.operations_open import CloseArgs
from quicfs.nfs.v4.types import StateId
from quicfs.vfs.api import Attr, LockKind, Node, OpenFile, OpenFlags, SetAttr
from quicfs.vfs.pieces import PIECE, in_turns, read_pieces
from quicfs.vfs.status import FsError, Status

if TYPE_CHECKING:
    from quicfs.nfs.client.delegations import Delegation
    from quicfs.nfs.client.filesystem import NfsFileSystem

__all__ = ["NfsOpenFile"]

_MAX_OFFSET: Final = (1 << 63) - 1


class NfsOpenFile(OpenFile):
    """Made by the file system. `generation`: of the client ID that `stateid` belongs to; `owner`: its open-owner."""

    def __init__(self, fs: NfsFileSystem, flags: OpenFlags, owner: bytes) -> None:
        if not flags & (OpenFlags.READ | OpenFlags.WRITE):
            raise FsError(Status.INVALID, "opening neither for reading nor for writing")
        self.fs = fs
        self.flags = flags
        self.owner = owner
        self.access = (ShareAccess.READ if OpenFlags.READ in flags else 0) | (
            ShareAccess.WRITE if OpenFlags.WRITE in flags else 0
        )
        self.locks = LockTable(owner)
        self.generation = 0
        self.lost = False  # the server has forgotten the open, as far as we know
        self._node: NfsNode | None = None
        self._stateid: StateId | None = None
        self.delegation: Delegation | None = None  # that the open rests on; the server knows of none then
        self._reopening = asyncio.Lock()
        self.closed = False

    @property
    def node(self) -> Node:
        return self.nfs_node

    @property
    def nfs_node(self) -> NfsNode:
        if self._node is None:
            raise FsError(Status.BAD_FILE, "the file is not open")
        return self._node

    @property
    def shown(self) -> str:
        return self._node.shown if self._node is not None else "?"

    # State

    def opened(self, node: NfsNode, stateid: StateId, generation: int) -> None:
        """The server has it open, for the first time or again. Later changes of the open keep `other`, and sequence
        ID 0 stands for the latest (RFC 8881 §8.2.2)."""
        self._stateid = StateId(0, stateid.other)
        self.generation = generation
        self.lost = False
        self.delegation = None
        if self._node is None:
            self._node = node
            node.opens.append(self)

    def opened_locally(self, held: Delegation) -> None:
        """Under a delegation, without the server."""
        self.opened(held.node, held.stateid, held.generation)
        self.delegation = held
        held.opens.add(self)

    async def stateid(self, *, even_closed: bool = False) -> StateId:
        """One that the server knows, opening the file again if need be."""
        if self.closed and not even_closed:
            raise FsError(Status.BAD_FILE, f"{self.shown} is closed")
        if self.lost or self._stateid is None:
            async with self._reopening:
                if self.lost:
                    await self.fs.reopen(self)
        assert self._stateid is not None
        return self._stateid

    @property
    def known(self) -> StateId | None:
        """The stateid, as long as the server knows it."""
        return None if self.lost or self.closed else self._stateid

    def forgotten(self, stateid: StateId) -> None:
        """The server said that it does not know `stateid`."""
        if stateid != self._stateid:
            return
        if self.delegation is not None:
            self.fs.delegations.revoked(self.delegation)
        else:
            self.lose()

    def _check_locks(self) -> None:
        if self.locks.lost:
            raise FsError(Status.IO, f"{self.shown}: its lock was lost while the server was away")

    def lose(self) -> None:
        """The open is gone, and the locks with it."""
        self.lost = True
        self.locks.lose()

    async def run(self, build: Callable[[StateId], Sequence[Operation]], **options: Any) -> list[Any]:
        """As `exchange`; what fails is an FsError."""
        try:
            return await self.exchange(build, **options)
        except CompoundFailed as failed:
            raise fs_error(failed, self.shown) from failed

    async def exchange(
        self, build: Callable[[StateId], Sequence[Operation]], *, even_closed: bool = False, **options: Any
    ) -> list[Any]:
        """The results of `build(stateid)`, after PUTFH; with another stateid if the server has forgotten this one.
        CompoundFailed counts from the first of these, too."""
        node, tries = self.nfs_node, Tries(self)
        while True:
            stateid = await self.stateid(even_closed=even_closed)
            self._check_locks()
            try:
                values = await self.fs.compound([put(node), *build(stateid)], self.shown, **options)
                return values[1:]
            except CompoundFailed as failed:
                if not tries.again(failed.status):
                    raise CompoundFailed(failed.status, failed.results[1:], self.shown) from failed
                self.forgotten(stateid)

    # Data

    async def read(self, offset: int, length: int) -> bytes | memoryview:
        if offset < 0 or length < 0:
            raise FsError(Status.INVALID, f"reading {length} bytes at {offset}")
        if OpenFlags.READ not in self.flags:
            raise FsError(Status.BAD_FILE, f"{self.shown} is not open for reading")
        length = min(length, _MAX_OFFSET - offset)
        if length <= 0:
            return b""
        self._check_locks()
        behind = self.fs.behind
        if behind.has(self.nfs_node):
            await behind.flush(self.nfs_node)
        known = self.fs.caches.read(self.nfs_node, offset, length)
        if known is not None:
            return known
        limit = self.fs.read_limit
        if (data := await self.fs.around.read(self, offset, length)) is not None:
            return data
        if length <= limit:
            return await self.read_whole(offset, length)
        return await read_pieces(self.read_whole, offset, length, min(limit, PIECE))

    async def read_whole(self, offset: int, length: int) -> bytes | memoryview:
        """From the server, in one READ if it gives that much."""
        data, eof = await self._read_one(offset, length)
        if eof or len(data) >= length:
            return data
        pieces = [data]  # the server gives less than it could
        got = len(data)
        while got < length and not eof:
            data, eof = await self._read_one(offset + got, length - got)
            if not data:
                break
            pieces.append(data)
            got += len(data)
        return b"".join(pieces)

    async def _read_one(self, offset: int, length: int) -> tuple[memoryview, bool]:
        caches = self.fs.caches
        ticket = caches.clock
        result = (await self.run(lambda stateid: [(Op.READ, ReadArgs(stateid, offset, length))]))[0]
        data = memoryview(result.data)[:length]
        caches.keep(self.nfs_node, offset, data, ticket, eof=result.eof)
        return data, result.eof

    async def write(self, offset: int, data: bytes | memoryview, *, stable: bool = False) -> int:
        if offset < 0 or offset + len(data) > _MAX_OFFSET:
            raise FsError(Status.TOO_BIG, self.shown)
        if OpenFlags.WRITE not in self.flags:
            raise FsError(Status.BAD_FILE, f"{self.shown} is not open for writing")
        if not data:
            return 0
        view = memoryview(data).cast("B")
        if not stable and not isinstance(view.obj, bytes):
            view = memoryview(
                bytes(view)
            )  # it is kept until it is committed; the caller may use the buffer again
        self._check_locks()
        behind = self.fs.behind
        if not stable and await behind.write(self, offset, view):
            return len(view)
        if behind.has(self.nfs_node):
            await behind.flush(self.nfs_node)
        how = StableHow.FILE_SYNC if stable else StableHow.UNSTABLE
        limit = self.fs.write_limit
        if len(view) <= limit:
            await self._write_piece(offset, view, how)
        else:
            size = min(limit, PIECE)
            await in_turns(
                len(view),
                size,
                lambda at: self._write_piece(offset + at, view[at : at + size], how),
            )
        return len(view)

    async def _write_piece(self, offset: int, data: memoryview, how: StableHow) -> None:
        node = self.nfs_node
        unstable = self.fs.unstable
        gate = unstable.of(node)
        await gate.begin_write()
        try:
            done = 0
            while done < len(data):
                rest = data[done:] if done else data
                args_offset = offset + done
                result = (
                    await self.run(
                        lambda stateid, rest=rest, at=args_offset: [  # type: ignore[misc]
                            (Op.WRITE, WriteArgs(stateid, at, how, rest))
                        ]
                    )
                )[0]
                if not 0 < result.count <= len(rest):
                    raise FsError(Status.IO, f"the server wrote {result.count} of {len(rest)} bytes")
                if result.committed == StableHow.UNSTABLE:
                    if how is not StableHow.UNSTABLE:
                        raise FsError(Status.IO, "the server does not write through")  # §18.32.3: it must
                    unstable.keep(node, args_offset, rest[: result.count], result.writeverf)
                done += result.count
        finally:
            gate.end_write()
        await unstable.bound()

    async def write_rest(self, offset: int, data: memoryview) -> None:
        """What the server has not taken at first."""
        await self._write_piece(offset, data, StableHow.UNSTABLE)

    async def flush(self) -> None:
        node = self.nfs_node
        await self.fs.behind.flush(node)
        self._raise_error(node)

    async def fsync(self, *, data_only: bool = False) -> None:
        await self.fs.behind.flush(self.nfs_node)
        await self.fs.unstable.commit(self.nfs_node)

    # Attributes

    async def getattr(self) -> Attr:
        known = self.fs.caches.attr(self.nfs_node)
        if known is not None:
            return known
        await self.fs.behind.flush(self.nfs_node)
        values = await self.fs.run([put(self.nfs_node), GETATTR], self.shown)
        return attr_of(values[1].attributes)

    async def setattr(self, changes: SetAttr) -> Attr:
        return await self.fs.change(self.nfs_node, changes, self)

    # Locks, holes, and the end

    async def lock(self, offset: int, length: int, kind: LockKind, *, owner: int, wait: bool = False) -> None:
        await self.fs.behind.flush(self.nfs_node)
        if self.delegation is not None:
            await self.fs.delegations.make_server_open(self)
        await locking.lock(self, offset, length, kind, owner, wait=wait)

    async def seek_data(self, offset: int, *, hole: bool = False) -> int:
        if offset < 0:
            raise FsError(Status.INVALID, self.shown)
        self.fs.need_minor_2("seek for data")
        await self.fs.behind.flush(self.nfs_node)
        what = DataContent.HOLE if hole else DataContent.DATA
        result = (await self.run(lambda stateid: [(Op.SEEK, SeekArgs(stateid, offset, what))]))[0]
        if result.eof and not hole:
            # RFC 7862 §15.11.3: no data follows; NXIO is said only where the offset is past the end.
            raise FsError(Status.NO_DATA, self.shown)
        found: int = result.offset
        return found

    async def allocate(self, offset: int, length: int, *, punch_hole: bool = False) -> None:
        if offset < 0 or length <= 0:
            raise FsError(Status.INVALID, self.shown)
        self.fs.need_minor_2("space reservation")
        await self.fs.behind.flush(self.nfs_node)
        op, args = (Op.DEALLOCATE, DeallocateArgs) if punch_hole else (Op.ALLOCATE, AllocateArgs)
        await self.run(lambda stateid: [(op, args(stateid, offset, length))])
        if punch_hole:
            self.fs.unstable.cut(self.nfs_node, offset, offset + length)
        self.fs.unstable.touched(self.nfs_node)

    async def close(self) -> None:
        """What was written is at the server, and is committed soon; nobody waits for CLOSE alone, save for one that
        gives locks back. An error of what nobody waited for surfaces here."""
        if self.closed:
            return
        self.closed = True
        node = self._node
        if node is None or self._stateid is None:
            return
        try:
            await self._close(node, self._stateid)
        finally:
            if self in node.opens:
                node.opens.remove(self)
            self.fs.forget(self)
            if self.delegation is not None:
                self.delegation.opens.discard(self)
        self._raise_error(node)

    def _raise_error(self, node: NfsNode) -> None:
        file = node.unstable
        if file is not None and file.error is not None and OpenFlags.WRITE in self.flags:
            error, file.error = file.error, None
            raise error

    async def _close(self, node: NfsNode, stateid: StateId) -> None:
        behind = self.fs.behind
        if not self.lost and (done := behind.close(self, stateid)) is not None:
            await asyncio.shield(done)
            return
        if behind.has(node):
            await behind.flush(node)
        if self.delegation is not None or self.lost:
            return
        locks = [each for each in self.locks.owners if each.stateid is not None]
        # Under a delegation nobody else can be in the way of this open; before it goes back, CLOSE goes out.
        hurry = self.fs.delegations.of(node) is None
        if not locks and self.fs.poster.post_close(node.fh, stateid, self.fs.credential, hurry=hurry):
            return
        operations = [put(node), *locking.releases(locks), (Op.CLOSE, CloseArgs(0, stateid))]
        try:
            await self.fs.compound(operations, self.shown, cache=True)
        except CompoundFailed as failed:
            if failed.status not in LOST_STATE:
                raise fs_error(failed, self.shown) from failed
        except FsError as error:
            if error.status not in (Status.TIMEOUT, Status.DISCONNECTED):
                raise  # else the open ends with our lease
