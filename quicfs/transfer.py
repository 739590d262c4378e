"""Copying trees between two file systems of the contract: `get` one way, `put` the other.

Many files are under way at once, in one event loop. Work waits on a stack: the entries of a directory
are done before its next page is asked for, so memory stays bounded by depth times page size. Modes and
times are preserved; a directory gets its own after all that it holds.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Final

from quicfs.errors import UserError
from quicfs.progress import CopyProgress
from quicfs.vfs import Attr, FileKind, FileSystem, FsError, Node, OpenFile, OpenFlags, SetAttr, Status

__all__ = ["Copier"]

_log = logging.getLogger("quicfs.transfer")

PARALLEL: Final = 32
"""Entries under way at once; enough to fill a path with latency, few enough for any server."""
CHUNK: Final = 1 << 20
CHUNKS_AHEAD: Final = 8
"""Pieces of one large file under way at once."""
PAGE: Final = 256

# After these nothing else can succeed either.
_HOPELESS: Final = frozenset(
    {
        Status.DISCONNECTED,
        Status.TIMEOUT,
        Status.NO_SPACE,
        Status.QUOTA,
        Status.READ_ONLY,
        Status.NO_RESOURCES,
    }
)


@dataclass(slots=True)
class _Directory:
    """A directory being copied. `pending` counts its entries and pages that are not done yet."""

    source: Node
    target: Node
    attr: Attr
    path: str
    parent: _Directory | None
    pending: int = 0

    def below(self, name: str) -> str:
        return f"{self.path}/{name}" if self.path else name


@dataclass(slots=True)
class _Job:
    """One piece of work, for which `directory` waits."""

    run: Callable[[], Coroutine[Any, Any, None]]
    directory: _Directory
    path: str


class Copier:
    """Copies from `source` to `target`. One copier makes one copy."""

    def __init__(
        self, source: FileSystem, target: FileSystem, progress: CopyProgress, *, parallel: int = PARALLEL
    ) -> None:
        self._source = source
        self._target = target
        self._progress = progress
        self._parallel = parallel
        self._stack: list[_Job] = []
        self._running = 0
        self._wake = asyncio.Event()
        self._failed = 0
        self._first_failure = ""

    async def copy_file(self, source_path: str, target_path: str) -> None:
        """One regular file, links to it followed; paths are relative to the roots. Raises FsError."""
        _, attr = await self._source.lookup(self._source.root, source_path, follow=True)
        if attr.kind is not FileKind.REGULAR:
            raise FsError(Status.IS_DIR if attr.kind is FileKind.DIRECTORY else Status.INVALID, source_path)
        self._progress.found(attr.size)
        reader, _, _ = await self._source.open(self._source.root, source_path, OpenFlags.READ)
        await self._copy_content(reader, self._target.root, target_path, attr)

    async def copy_tree(self, source_path: str, target_path: str) -> None:
        """A directory with all that it holds, into `target_path`, which is made when it is not there.

        What fails on the way is logged and skipped; a UserError at the end counts it. What makes all
        further work hopeless (no space, connection lost) is raised as the FsError that it is.
        """
        node, attr = await self._source.lookup(self._source.root, source_path, follow=True)
        if attr.kind is not FileKind.DIRECTORY:
            raise FsError(Status.NOT_DIR, source_path)
        target = await self._make_directory(self._target.root, target_path)
        top = _Directory(node, target, attr, source_path, None)
        self._push(lambda: self._list(top, 0), top, source_path)
        await _all_of(self._work() for _ in range(self._parallel))
        if self._failed:
            raise UserError(f"{self._failed:,} of the entries could not be copied: {self._first_failure}")

    # The stack and its workers

    def _push(self, run: Callable[[], Coroutine[Any, Any, None]], directory: _Directory, path: str) -> None:
        directory.pending += 1
        self._stack.append(_Job(run, directory, path))
        self._wake.set()

    async def _work(self) -> None:
        while self._stack or self._running:
            if not self._stack:
                self._wake.clear()
                await self._wake.wait()
                continue
            job = self._stack.pop()
            self._running += 1
            try:
                await job.run()
            except FsError as error:
                self._note(job.path, error)
            await self._done(job.directory)
            self._running -= 1
            if not self._running:
                self._wake.set()

    def _note(self, path: str, error: FsError) -> None:
        if error.status in _HOPELESS:
            raise error
        self._failed += 1
        self._first_failure = self._first_failure or f"{path}: {error}"
        _log.warning("%s was not copied: %s", path, error)

    async def _done(self, directory: _Directory | None) -> None:
        """One thing less is pending; the last one out sets mode and times, which counts for its parent."""
        while directory is not None:
            directory.pending -= 1
            if directory.pending:
                return
            try:
                await self._target.setattr(directory.target, _metadata(directory.attr))
            except FsError as error:
                self._note(directory.path, error)
            directory = directory.parent

    # Entries, by kind

    async def _list(self, directory: _Directory, cookie: int) -> None:
        page = await self._source.readdir(directory.source, cookie, PAGE)
        if page.entries and not page.eof:
            last = page.entries[-1].cookie
            self._push(lambda: self._list(directory, last), directory, directory.path)
        for entry in page.entries:
            copy = self._COPY.get(entry.attr.kind)
            path = directory.below(entry.name)
            if copy is None:
                _log.warning("%s is a %s and was left out", path, entry.attr.kind.value)
                continue
            if entry.attr.kind is FileKind.REGULAR:
                self._progress.found(entry.attr.size)
            self._push(_bind(copy, self, directory, entry.name, entry.attr), directory, path)

    async def _copy_directory(self, parent: _Directory, name: str, attr: Attr) -> None:
        source, _ = await self._source.lookup(parent.source, name)
        target = await self._make_directory(parent.target, name)
        directory = _Directory(source, target, attr, parent.below(name), parent)
        parent.pending += 1  # until the directory has its own mode and times
        self._push(lambda: self._list(directory, 0), directory, directory.path)

    async def _copy_regular(self, parent: _Directory, name: str, attr: Attr) -> None:
        reader, _, _ = await self._source.open(parent.source, name, OpenFlags.READ | OpenFlags.NOFOLLOW)
        await self._copy_content(reader, parent.target, name, attr)

    async def _copy_symlink(self, parent: _Directory, name: str, attr: Attr) -> None:
        node, _ = await self._source.lookup(parent.source, name)
        link = await self._source.readlink(node)
        try:
            made, _ = await self._target.symlink(parent.target, name, link)
        except FsError as error:
            if error.status is not Status.EXISTS:
                raise
            await self._target.unlink(parent.target, name)
            made, _ = await self._target.symlink(parent.target, name, link)
        await self._target.setattr(made, SetAttr(atime_ns=attr.atime_ns, mtime_ns=attr.mtime_ns))

    _COPY: Final = {
        FileKind.DIRECTORY: _copy_directory,
        FileKind.REGULAR: _copy_regular,
        FileKind.SYMLINK: _copy_symlink,
    }

    async def _make_directory(self, parent: Node, path: str) -> Node:
        try:
            # Writable until it has its final mode at the end.
            node, _ = await self._target.mkdir(parent, path, 0o700)
        except FsError as error:
            if error.status is not Status.EXISTS:
                raise
            node, attr = await self._target.lookup(parent, path, follow=True)
            if attr.kind is not FileKind.DIRECTORY:
                raise FsError(Status.NOT_DIR, path) from None
        return node

    # One file

    async def _copy_content(self, reader: OpenFile, directory: Node, path: str, attr: Attr) -> None:
        """Copy and close `reader`, as long as the file was when it was listed."""
        try:
            writer = await self._create(directory, path)
            try:
                offsets = iter(range(0, attr.size, CHUNK))
                if attr.size <= CHUNK:
                    await self._pump(reader, writer, offsets)
                else:
                    await _all_of(self._pump(reader, writer, offsets) for _ in range(CHUNKS_AHEAD))
                await writer.setattr(_metadata(attr))
            finally:
                await writer.close()
        finally:
            await reader.close()
        self._progress.file_done()

    async def _create(self, directory: Node, path: str) -> OpenFile:
        flags = OpenFlags.WRITE | OpenFlags.CREATE | OpenFlags.TRUNCATE | OpenFlags.NOFOLLOW
        try:
            file, _, _ = await self._target.open(directory, path, flags, 0o600)
        except FsError as error:
            if error.status is not Status.LOOP:
                raise
            await self._target.unlink(directory, path)  # a link is replaced, never written through
            file, _, _ = await self._target.open(directory, path, flags, 0o600)
        return file

    async def _pump(self, reader: OpenFile, writer: OpenFile, offsets: Iterator[int]) -> None:
        """Copy chunks at the next offsets that nobody else took, up to the end of the file."""
        for offset in offsets:
            data = await reader.read(offset, CHUNK)
            if not data:
                return
            await writer.write(offset, data)
            self._progress.advance(len(data))


def _metadata(attr: Attr) -> SetAttr:
    return SetAttr(mode=attr.mode, atime_ns=attr.atime_ns, mtime_ns=attr.mtime_ns)


def _bind(
    copy: Callable[..., Coroutine[Any, Any, None]], *arguments: object
) -> Callable[[], Coroutine[Any, Any, None]]:
    return lambda: copy(*arguments)


async def _all_of(works: Iterable[Coroutine[Any, Any, None]]) -> None:
    """Run them together; the first failure ends the others and is raised as it is."""
    try:
        async with asyncio.TaskGroup() as group:
            for work in works:
                group.create_task(work)
    except BaseExceptionGroup as errors:
        raise errors.exceptions[0] from None
