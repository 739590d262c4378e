"""One request on its way through the server, and what its handler returns."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from quicfs.smb.errors import SmbError
from quicfs.smb.limits import CREDIT_SIZE, MAX_IO_SIZE, MAX_WAITING
from quicfs.smb.messages.create import RELATED_FILE_ID
from quicfs.smb.messages.error import ERROR_BODY, ErrorResponse
from quicfs.smb.messages.header import RELATED_OPERATIONS, Header
from quicfs.smb.ntstatus import NtStatus
from quicfs.smb.server.opens import FileOpen, PipeOpen
from quicfs.smb.server.session import Session, Tree

if TYPE_CHECKING:
    from quicfs.smb.server.connection import Connection

__all__ = ["Chain", "Reply", "Request"]


class Reply:
    """The body of a response: its parts in order, and the status for its header."""

    __slots__ = ("on_wire", "parts", "sign", "status")

    def __init__(
        self,
        *parts: bytes | memoryview,
        status: NtStatus = NtStatus.SUCCESS,
        sign: bool = False,
        on_wire: Callable[[Sequence[bytes | memoryview]], None] | None = None,
    ) -> None:
        self.parts: Sequence[bytes | memoryview] = parts
        self.status = status
        self.sign = sign  # also where the request was not
        self.on_wire = on_wire  # gets the finished message, for the preauth integrity hash

    @classmethod
    def error(cls, status: NtStatus, data: bytes = b"", *, contexts: bool = False) -> Reply:
        """`contexts`: whether the dialect is 3.1.1, which wraps `data`."""
        body = ErrorResponse(data).pack(contexts=contexts) if data else ERROR_BODY
        return cls(body, status=status)


@dataclass(slots=True, eq=False)
class Chain:
    """What related requests of one compound hand on ([MS-SMB2] §3.3.5.2.7.2)."""

    file_id: bytes | None = None
    failed: NtStatus | None = None  # why there is no file id
    tree_id: int | None = None


class Request:
    __slots__ = (
        "answered",
        "async_id",
        "before",
        "cancelled",
        "chain",
        "charge",
        "connection",
        "encrypted",
        "header",
        "last",
        "message",
        "problem",
        "session",
        "started",
        "task",
        "tree",
        "waits_for",
    )

    def __init__(
        self, connection: Connection, header: Header, message: memoryview, chain: Chain, *, encrypted: bool
    ) -> None:
        self.connection = connection
        self.header = header
        self.message = message  # from the header on
        self.chain = chain
        self.encrypted = encrypted
        self.charge = header.credit_charge or 1
        self.session: Session | None = None
        self.before: list[tuple[Request, Reply]] = []  # answers of the same packet, not sent yet
        self.tree: Tree | None = None
        self.problem: NtStatus | None = None  # found before the handler's turn
        self.last = True  # of its packet
        self.async_id = 0
        self.answered = False  # its response is on the way: too late for an interim one
        self.started = 0.0
        self.task: asyncio.Task[None] | None = None
        self.cancelled: NtStatus | None = None  # with this status
        self.waits_for: FileOpen | None = None

    @property
    def related(self) -> bool:
        return bool(self.header.flags & RELATED_OPERATIONS)

    @property
    def valid_session(self) -> Session:
        if self.session is None:
            raise SmbError(NtStatus.USER_SESSION_DELETED)
        return self.session

    @property
    def valid_tree(self) -> Tree:
        if self.tree is None:
            raise SmbError(NtStatus.NETWORK_NAME_DELETED)
        return self.tree

    def open(self, file_id: bytes) -> FileOpen | PipeOpen:
        """The open that a request names; it must belong to the request's own session and tree."""
        chain = self.chain
        if file_id == RELATED_FILE_ID and self.related:
            if chain.file_id is None:
                raise SmbError(chain.failed or NtStatus.INVALID_PARAMETER)
            file_id = chain.file_id
        found = self.valid_session.opens.get(file_id)
        if found is None or found.tree is not self.tree:
            raise SmbError(NtStatus.FILE_CLOSED)
        chain.file_id = file_id
        return found

    def file(self, file_id: bytes) -> FileOpen:
        found = self.open(file_id)
        if isinstance(found, PipeOpen):
            raise SmbError(NtStatus.INVALID_DEVICE_REQUEST)
        return found

    def pay(self, size: int) -> None:
        """§3.3.5.2.5: the credits charged must cover `size` bytes of request or response."""
        if size > MAX_IO_SIZE:
            raise SmbError(NtStatus.INVALID_PARAMETER)
        if size > CREDIT_SIZE * self.charge and self.connection.large_mtu:
            raise SmbError(NtStatus.INVALID_PARAMETER)

    @asynccontextmanager
    async def waiting(self, open_: FileOpen) -> AsyncIterator[None]:
        """Around a wait that can last: the client is told, and may cancel it; their number is limited.

        It also ends when `open_` is closed.
        """
        connection = self.connection
        if connection.waiting >= MAX_WAITING:
            raise SmbError(NtStatus.INSUFFICIENT_RESOURCES)
        connection.waiting += 1
        self.waits_for = open_
        try:
            await connection.send_interim(self)
            yield
        finally:
            self.waits_for = None
            connection.waiting -= 1
