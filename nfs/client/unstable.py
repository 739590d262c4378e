"""Written data that the server may still lose (RFC 8881 §18.32): kept here until COMMIT says that it is on disk.

A server that restarted answers with another verifier; what it had not committed is then written again. All of this is
bounded: when there is too much, or when a file has been left alone for a while, it is committed.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

from quicfs.nfs import limits
from quicfs.nfs.client.nodes import NfsNode
from quicfs.vfs.status import FsError, Status

__all__ = ["Piece", "Unstable", "UnstableData"]

_log = logging.getLogger("quicfs.nfs")

_IDLE_S: Final = 10.0  # files not written to for so long are committed
_LOOK_S: Final = 1.0
_AT_ONCE: Final = 8
_ROUNDS: Final = 5  # a server that restarts between each write and its COMMIT is given up

Piece = tuple[int, memoryview, bytes]
"""Offset, data, the verifier that came with the answer."""


class Unstable:
    """Of one file. Writes go on side by side; writing again waits for them, and they for it, so that old data never
    comes after newer."""

    def __init__(self, node: NfsNode) -> None:
        self.node = node
        self.pieces: list[Piece] = []
        self.size = 0
        self.dirty = False  # something is to be committed
        self.touched = 0.0
        self.error: FsError | None = None  # of a COMMIT that nobody waited for
        self.promised: set[bytes] = (
            set()
        )  # verifiers of what the server changed by itself, and we could not repeat
        self.committing = asyncio.Lock()
        self._writing = 0
        self._quiet = asyncio.Event()
        self._quiet.set()
        self._open = asyncio.Event()
        self._open.set()

    async def begin_write(self) -> None:
        while not self._open.is_set():
            await self._open.wait()
        self._writing += 1
        self._quiet.clear()

    def end_write(self) -> None:
        self._writing -= 1
        if not self._writing:
            self._quiet.set()

    async def begin_again(self) -> None:
        self._open.clear()
        await self._quiet.wait()

    def end_again(self) -> None:
        self._open.set()

    def note(self, offset: int, data: memoryview, verifier: bytes) -> int:
        """The server has it, unstable. By how much what is kept grew. Older data below it stays: if they are written
        again, all are, in the same order."""
        self.pieces.append((offset, data, verifier))
        self.size += len(data)
        self.dirty = True
        return len(data)

    def cut(self, start: int, end: int) -> None:
        """Forget what lies in [start, end)."""
        kept: list[Piece] = []
        for offset, data, verifier in self.pieces:
            last = offset + len(data)
            if last <= start or end <= offset:
                kept.append((offset, data, verifier))
                continue
            if offset < start:
                kept.append((offset, data[: start - offset], verifier))
            if end < last:
                kept.append((end, data[end - offset :], verifier))
        self.pieces = kept
        self.size = sum(len(data) for _, data, _ in kept)


Write = Callable[[NfsNode, Piece], Awaitable[bytes]]
Commit = Callable[[NfsNode], Awaitable[bytes]]


class UnstableData:
    """Of all files. `write(node, piece)` writes it once more, `commit(node)` is COMMIT; both give the verifier."""

    def __init__(self, write: Write, commit: Commit) -> None:
        self._write = write
        self._commit = commit
        self._files: dict[NfsNode, Unstable] = {}
        self._total = 0
        self._keeper: asyncio.Task[None] | None = None
        self._hurry = asyncio.Event()

    def of(self, node: NfsNode) -> Unstable:
        if node.unstable is None:
            node.unstable = Unstable(node)
        return node.unstable

    def keep(self, node: NfsNode, offset: int, data: memoryview, verifier: bytes) -> None:
        """The server has it, unstable."""
        self._total += self.of(node).note(offset, data, verifier)
        self.touched(node)

    def touched(self, node: NfsNode, verifier: bytes | None = None) -> None:
        """Something was changed that only COMMIT makes last; with `verifier`, it is lost if COMMIT's is another."""
        file = self.of(node)
        if verifier is not None:
            file.promised.add(verifier)
        file.dirty = True
        file.touched = asyncio.get_running_loop().time()
        self._files[node] = file
        if self._keeper is None:
            self._keeper = asyncio.get_running_loop().create_task(self._keep_house())
        if self._total > limits.UNSTABLE:
            self._hurry.set()

    async def bound(self) -> None:
        """Waits when far too much is kept."""
        if self._total > 2 * limits.UNSTABLE:
            largest = max(self._files.values(), key=lambda each: each.size)
            await self.commit(largest.node)

    def cut(self, node: NfsNode, start: int, end: int) -> None:
        """What was written to [start, end) is there no more: the file was cut short, or has a hole."""
        file = node.unstable
        if file is not None:
            before = file.size
            file.cut(start, end)
            self._total += file.size - before

    async def commit(self, node: NfsNode) -> None:
        """What was written before is on disk when this returns. FsError also for what was lost earlier."""
        file = node.unstable
        if file is None:
            return
        async with file.committing:
            error, file.error = file.error, None
            if error is not None:
                raise error
            if file.dirty:
                await self._commit_file(file)

    async def _commit_file(self, file: Unstable) -> None:
        for _ in range(_ROUNDS):
            file.dirty = False
            pieces = file.pieces
            count = len(pieces)
            try:
                verifier = await self._commit(file.node)
            except BaseException:
                file.dirty = True
                raise
            if file.pieces is not pieces:
                # The file was cut short meanwhile.
                known = {id(piece) for piece in pieces[:count]}
                pieces = file.pieces
                count = next((n for n, piece in enumerate(pieces) if id(piece) not in known), len(pieces))
            # What came after something that was lost is written again after it, lost or not: they may overlap.
            lost = next((n for n, piece in enumerate(pieces[:count]) if piece[2] != verifier), count)
            self._total -= file.size
            file.pieces = pieces[lost:]
            file.size = sum(len(piece[1]) for piece in file.pieces)
            self._total += file.size
            promised, file.promised = file.promised, set()
            if promised - {verifier}:
                raise FsError(
                    Status.IO, f"{file.node.shown}: the server restarted, and lost what it had copied"
                )
            if lost == count:
                if not file.dirty and not file.pieces:
                    self._files.pop(file.node, None)
                return
            _log.warning(
                "%s: the server restarted; %d writes are repeated", file.node.shown, len(file.pieces)
            )
            await self._write_again(file)
        raise FsError(Status.IO, f"{file.node.shown}: the server loses what is written")

    async def _write_again(self, file: Unstable) -> None:
        await file.begin_again()
        try:
            file.dirty = True
            self._total -= file.size
            pieces, file.pieces, file.size = file.pieces, [], 0
            done = 0
            try:
                for offset, data, verifier in pieces:
                    again = await self._write(file.node, (offset, data, verifier))
                    self._total += file.note(offset, data, again)
                    done += 1
            finally:
                for offset, data, verifier in pieces[done:]:
                    self._total += file.note(offset, data, verifier)
        finally:
            file.end_again()

    async def _keep_house(self) -> None:
        """Commits in the background, the largest first when there is too much."""
        loop = asyncio.get_running_loop()
        while self._files:
            self._hurry.clear()
            if self._total > limits.UNSTABLE:
                due = [max(self._files.values(), key=lambda each: each.size)]
            else:
                now = loop.time()
                due = [file for file in self._files.values() if file.touched + _IDLE_S <= now]
            for at in range(0, len(due), _AT_ONCE):
                await asyncio.gather(*(self._commit_later(file) for file in due[at : at + _AT_ONCE]))
            if self._total > limits.UNSTABLE:
                continue
            try:
                async with asyncio.timeout(_LOOK_S):
                    await self._hurry.wait()
            except TimeoutError:
                pass
        self._keeper = None

    async def _commit_later(self, file: Unstable) -> None:
        try:
            async with file.committing:
                if file.dirty:
                    await self._commit_file(file)
                else:
                    self._files.pop(file.node, None)
        except FsError as error:
            if error.status in (Status.TIMEOUT, Status.DISCONNECTED) and file.node.opens:
                file.touched = asyncio.get_running_loop().time()  # the server is away: later
                return
            if error.status in (Status.TIMEOUT, Status.DISCONNECTED) and self._total <= limits.UNSTABLE:
                file.touched = asyncio.get_running_loop().time()
                return
            self._give_up(file, error)

    def _give_up(self, file: Unstable, error: FsError) -> None:
        gone = error.status is Status.STALE and not file.node.opens
        if not gone:  # what was removed need not be on disk
            _log.warning("%s: %d bytes that were written are lost: %s", file.node.shown, file.size, error)
            file.error = error
        self._drop(file)

    def removed(self, node: NfsNode) -> None:
        """Its last name is gone. If nobody has it open, neither, what was written to it need not be kept."""
        file = node.unstable
        if file is not None and not node.opens and not file.committing.locked():
            self._drop(file)

    def _drop(self, file: Unstable) -> None:
        self._total -= file.size
        file.pieces, file.size, file.dirty = [], 0, False
        self._files.pop(file.node, None)

    async def commit_all(self, within: Callable[[FsError], None]) -> None:
        """Before the end. `within` hears of what cannot be committed."""
        for file in list(self._files.values()):
            try:
                await self.commit(file.node)
            except FsError as error:
                if not (error.status is Status.STALE and not file.node.opens):
                    within(error)
                self._drop(file)

    async def aclose(self) -> None:
        if self._keeper is not None:
            self._keeper.cancel()
            await asyncio.gather(self._keeper, return_exceptions=True)

    @property
    def total(self) -> int:
        """Bytes kept."""
        return self._total

    @property
    def files(self) -> Sequence[Unstable]:
        return list(self._files.values())
