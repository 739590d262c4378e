"""An open file: its handle, reading and writing in large pieces, and opening it again after a loss."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

from quicfs.smb.client import requests
from quicfs.smb.client.errors import SessionLost
from quicfs.smb.client.link import Link
from quicfs.smb.client.locks import LockTable
from quicfs.smb.client.node import SmbNode
from quicfs.smb.client.operation import CLOSE_RELATED, Answer, Operation, close, ioctl
from quicfs.smb.client.session import Session
from quicfs.smb.client.setting import changes_of
from quicfs.smb.errors import SmbError
from quicfs.smb.messages.access import CreateAction, CreateDisposition, CreateOptions
from quicfs.smb.messages.close import FlushRequest
from quicfs.smb.messages.create import RELATED_FILE_ID
from quicfs.smb.messages.header import Command
from quicfs.smb.messages.ioctl import Fsctl, IoctlResponse
from quicfs.smb.messages.read import ReadRequest, parse_read_response
from quicfs.smb.messages.write import WRITE_THROUGH, WriteRequest, parse_write_response
from quicfs.smb.ntstatus import NtStatus
from quicfs.vfs.api import Attr, LockKind, Node, OpenFile, OpenFlags, SetAttr
from quicfs.vfs.pieces import PIECE, in_turns, read_pieces
from quicfs.vfs.status import FsError, Status

__all__ = ["SmbOpenFile"]

T = TypeVar("T")

_MAX_OFFSET: Final = (1 << 63) - 1

_C = OpenFlags.CREATE
_X = OpenFlags.CREATE | OpenFlags.EXCLUSIVE
_T = OpenFlags.TRUNCATE
_DISPOSITIONS: Final = {
    OpenFlags(0): CreateDisposition.OPEN,
    _C: CreateDisposition.OPEN_IF,
    _X: CreateDisposition.CREATE,
    _T: CreateDisposition.OVERWRITE,
    _C | _T: CreateDisposition.OVERWRITE_IF,
    _X | _T: CreateDisposition.CREATE,
}
_HOW: Final = _X | _T
_OPTIONS: Final = int(CreateOptions.NON_DIRECTORY_FILE)


class SmbOpenFile(OpenFile):
    """Made by the file system: `open`, then `adopt`."""

    def __init__(self, link: Link, flags: OpenFlags, *, posix: bool) -> None:
        if not flags & (OpenFlags.READ | OpenFlags.WRITE):
            raise FsError(Status.INVALID, "opening neither for reading nor for writing")
        self._link = link
        self._flags = flags
        self._posix = posix
        self._access = (requests.READ if OpenFlags.READ in flags else 0) | (
            requests.WRITE if OpenFlags.WRITE in flags else 0
        )
        self._node: SmbNode | None = None
        self._session: Session | None = None
        self._file_id = b""
        self._reopening: asyncio.Lock | None = None
        self._locks = LockTable()
        self._closed = False
        self._size = 0  # as last heard of

    @property
    def node(self) -> Node:
        if self._node is None:
            raise FsError(Status.BAD_FILE, "the file is not open")
        return self._node

    @property
    def shown(self) -> str:
        return self._node.shown if self._node is not None else "?"

    # Opening

    async def open(self, session: Session, wire: str, mode: int) -> tuple[Attr, bool]:
        """CREATE with what the flags ask for; the attributes, and whether the file is new."""
        disposition = _DISPOSITIONS[self._flags & _HOW]
        # A link itself opens only where links are not to be followed; the caller then says LOOP.
        options = _OPTIONS | (requests.LINK_ITSELF if OpenFlags.NOFOLLOW in self._flags else 0)
        return await self._create(session, wire, disposition, options, mode)

    async def _create(
        self, session: Session, wire: str, disposition: CreateDisposition, options: int, mode: int
    ) -> tuple[Attr, bool]:
        request = requests.create(
            wire,
            self._access,
            posix=self._posix,
            disposition=disposition,
            options=options,
            mode=mode & 0o7777,
        )

        def close_again(answers: list[Answer]) -> None:
            if not answers[0].status:
                session.post((close(requests.create_response(answers[0])[0].file_id),))

        asked = [] if self._posix else requests.attr_query(posix=False)
        answers = await session.exchange((request, *asked), orphaned=close_again)
        session.check(answers[0])
        response, attr = requests.create_response(answers[0])
        self._session, self._file_id = session, response.file_id
        if not self._posix:
            for answer in answers[1:]:
                session.check(answer)
            attr = requests.attr_from(answers, 1, posix=False)
        elif attr is None:
            attr = await self._query(session)
        self._size = attr.size
        return attr, response.create_action == CreateAction.CREATED

    def adopt(self, node: SmbNode) -> None:
        self._node = node
        node.opens.append(self)

    async def _handle(self, session: Session) -> bytes:
        """The handle in this session: opened again, by its path, if the session is a new one."""
        if self._closed:
            raise FsError(Status.BAD_FILE, f"{self.shown} is closed")
        if self._session is session:
            return self._file_id
        if self._reopening is None:
            self._reopening = asyncio.Lock()
        async with self._reopening:
            if self._session is not session:
                await self._reopen(session)
        return self._file_id

    async def _reopen(self, session: Session) -> None:
        node = self._node
        if node is None or node.gone:
            raise FsError(
                Status.STALE, f"{self.shown} was removed, and the connection it was open in is lost"
            )
        try:
            options = _OPTIONS | requests.LINK_ITSELF
            attr, _ = await self._create(session, node.path, CreateDisposition.OPEN, options, 0)
        except SmbError as error:
            if error.status in (NtStatus.OBJECT_NAME_NOT_FOUND, NtStatus.OBJECT_PATH_NOT_FOUND):
                raise FsError(Status.STALE, f"{self.shown} is gone") from error
            raise
        if node.fileid and attr.fileid and attr.fileid != node.fileid:
            session.post((close(self._file_id),))
            self._session = None
            raise FsError(Status.STALE, f"{self.shown} is another file now")
        await self._locks.take_again(session, self._file_id)

    async def run(self, operation: Callable[[Session, bytes], Awaitable[T]], *, again: bool = True) -> T:
        async def with_handle(session: Session) -> T:
            return await operation(session, await self._handle(session))

        return await self._link.run(with_handle, self.shown, again=again)

    # Data

    async def read(self, offset: int, length: int) -> bytes | memoryview:
        if offset < 0 or length < 0:
            raise FsError(Status.INVALID, f"reading {length} bytes at {offset}")
        if OpenFlags.READ not in self._flags:
            raise FsError(Status.BAD_FILE, f"{self.shown} is not open for reading")
        length = min(length, _MAX_OFFSET - offset)
        if length <= 0:
            return b""

        async def read(session: Session, handle: bytes) -> bytes | memoryview:
            limit = session.connection.payload_limit(session.connection.max_read)
            if length <= limit:
                return await _read_whole(session, handle, offset, length, self._size)

            async def piece(at: int, wanted: int) -> bytes | memoryview:
                return await _read_whole(session, handle, at, wanted, self._size)

            return await read_pieces(piece, offset, length, min(limit, PIECE))

        return await self.run(read)

    async def write(self, offset: int, data: bytes | memoryview, *, stable: bool = False) -> int:
        if offset < 0 or offset + len(data) > _MAX_OFFSET:
            raise FsError(Status.TOO_BIG, self.shown)
        if OpenFlags.WRITE not in self._flags:
            raise FsError(Status.BAD_FILE, f"{self.shown} is not open for writing")
        if not data:
            return 0
        view = memoryview(data)
        flags = WRITE_THROUGH if stable else 0

        async def write(session: Session, handle: bytes) -> None:
            limit = session.connection.payload_limit(session.connection.max_write)
            if len(view) <= limit:
                await _write_one(session, handle, offset, view, flags)
                return
            size = min(limit, PIECE)
            await in_turns(
                len(view),
                size,
                lambda at: _write_one(session, handle, offset + at, view[at : at + size], flags),
            )

        await self.run(write)
        self._size = max(self._size, offset + len(view))
        return len(view)

    async def fsync(self, *, data_only: bool = False) -> None:
        async def flush(session: Session, handle: bytes) -> None:
            await session.call(Operation(Command.FLUSH, (FlushRequest(handle).pack(),)))

        if OpenFlags.WRITE in self._flags:  # [MS-SMB2] §3.3.5.11: others may not, and have nothing to flush
            await self.run(flush)

    # Attributes

    async def getattr(self) -> Attr:
        async def query(session: Session, handle: bytes) -> Attr:
            return await self._query(session, handle)

        return await self.run(query)

    async def _query(self, session: Session, handle: bytes | None = None) -> Attr:
        asked = requests.attr_query(posix=self._posix, file_id=handle or self._file_id)
        answers = [await session.call(asked[0])] if len(asked) == 1 else await session.compound(asked)
        attr = requests.attr_from(answers, 0, posix=self._posix)
        self._size = attr.size
        return attr

    async def setattr(self, changes: SetAttr) -> Attr:
        async def change(session: Session, handle: bytes) -> Attr:
            wanted = changes_of(changes, session.clock_offset_ns, posix=self._posix)
            asked = requests.attr_query(posix=self._posix, file_id=handle)
            if wanted.access & ~self._access and not self._gone:
                # Changing the mode, or changing through a handle for reading: that takes another open.
                return await self._change_by_path(session, changes)
            answers = await session.compound((*wanted.operations(handle), *asked))
            return requests.attr_from(answers, len(wanted.settings), posix=self._posix)

        return await self.run(change)

    @property
    def _gone(self) -> bool:
        return self._node is None or self._node.gone

    async def _change_by_path(self, session: Session, changes: SetAttr) -> Attr:
        wanted = changes_of(changes, session.clock_offset_ns, posix=self._posix)
        path = self._node.path if self._node is not None else ""
        answers = await session.compound(
            (
                requests.create(path, wanted.access, posix=self._posix, options=requests.LINK_ITSELF),
                *wanted.operations(RELATED_FILE_ID),
                *requests.attr_query(posix=self._posix),
                CLOSE_RELATED,
            )
        )
        return requests.attr_from(answers, 1 + len(wanted.settings), posix=self._posix)

    # Locks, holes, and the end

    async def lock(self, offset: int, length: int, kind: LockKind, *, owner: int, wait: bool = False) -> None:
        async def lock(session: Session, handle: bytes) -> None:
            await self._locks.lock(session, handle, offset, length, kind, owner, wait=wait)

        # A lock that was waited for may have been granted by a session that is gone: asking again is right.
        await self.run(lock)

    async def allocate(self, offset: int, length: int, *, punch_hole: bool = False) -> None:
        if not punch_hole:
            raise FsError(Status.NOT_SUPPORTED, "space reservation")
        zero = offset.to_bytes(8, "little") + (offset + length).to_bytes(8, "little")

        async def punch(session: Session, handle: bytes) -> None:
            await session.call(ioctl(Fsctl.SET_ZERO_DATA, zero, handle, output=0))

        await self.run(punch)

    async def seek_data(self, offset: int, *, hole: bool = False) -> int:
        size = (await self.getattr()).size
        if offset >= size:
            raise FsError(Status.NO_DATA, self.shown)
        query = offset.to_bytes(8, "little") + (size - offset).to_bytes(8, "little")

        async def ranges(session: Session, handle: bytes) -> memoryview:
            operation = ioctl(Fsctl.QUERY_ALLOCATED_RANGES, query, handle, output=16)
            answer = (await session.exchange((operation,)))[0]
            if answer.status != NtStatus.BUFFER_OVERFLOW:  # there are more ranges than the one asked for
                session.check(answer)
            return memoryview(IoctlResponse.parse(answer.message).output)

        # One range is enough: where data begins, or where the data at `offset` ends.
        found = await self.run(ranges)
        if len(found) < 16:
            if hole:
                return offset
            raise FsError(Status.NO_DATA, self.shown)
        start, count = int.from_bytes(found[:8], "little"), int.from_bytes(found[8:16], "little")
        if not hole:
            return max(offset, start)
        return offset if start > offset else min(start + count, size)

    async def close(self) -> None:
        """Writes were answered before, so there is nothing that closing could fail with; it is not waited for."""
        if self._closed:
            return
        self._closed = True
        if self._node is not None and self in self._node.opens:
            self._node.opens.remove(self)
        session = self._session
        if session is None or not session.alive:
            return
        request = (close(self._file_id),)
        if not session.post(request):
            try:
                await session.exchange(request)
            except (SessionLost, TimeoutError):
                pass  # the handle ends with the session


async def _read_whole(
    session: Session, handle: bytes, offset: int, length: int, size: int
) -> bytes | memoryview:
    """`length` bytes in one request; more only if the server gives less without being at the end.

    `size` is that of the file when we last heard of it.
    """
    data = await _read_one(session, handle, offset, length)
    if len(data) == length or not data or offset + len(data) >= size:
        return data
    pieces = [data]
    got = len(data)
    while got < length and offset + got < size:
        more = await _read_one(session, handle, offset + got, length - got)
        if not more:
            break
        pieces.append(more)
        got += len(more)
    return pieces[0] if len(pieces) == 1 else b"".join(pieces)


async def _read_one(session: Session, handle: bytes, offset: int, length: int) -> memoryview:
    body = ReadRequest(handle, offset, length).pack()
    answer = (await session.exchange((Operation(Command.READ, (body,), length),)))[0]
    if answer.status == NtStatus.END_OF_FILE:
        return memoryview(b"")
    session.check(answer)
    return parse_read_response(answer.message)[:length]


async def _write_one(session: Session, handle: bytes, offset: int, data: memoryview, flags: int) -> None:
    done = 0
    while done < len(data):
        rest = data[done:] if done else data
        head = WriteRequest(handle, offset + done, rest, flags).pack_head()
        answer = await session.call(Operation(Command.WRITE, (head, rest), len(rest)))
        count = parse_write_response(answer.message)
        if not 0 < count <= len(rest):
            raise FsError(Status.IO, f"the server wrote {count} of {len(rest)} bytes")
        done += count
