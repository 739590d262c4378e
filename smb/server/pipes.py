"""Named pipes of IPC$: the doors to RPC services ([MS-SMB2] §3.3.5.9 and [MS-CIFS] on pipes)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol

from quicfs.smb.errors import SmbError
from quicfs.smb.limits import MAX_PIPE_DATA
from quicfs.smb.messages.access import FileAttribute
from quicfs.smb.messages.create import CreateRequest, CreateResponse
from quicfs.smb.ntstatus import NtStatus
from quicfs.smb.server.opens import PipeOpen
from quicfs.smb.server.request import Reply, Request
from quicfs.smb.server.session import Tree

__all__ = ["Pipe", "PipeFactory", "create", "read", "write"]


class Pipe(Protocol):
    """What is written is answered at once; reads fetch the answer message by message, or in pieces."""

    @property
    def readable(self) -> int:
        """Bytes left of the message that `read` gives next; 0 when there is none."""

    def write(self, data: bytes) -> None:
        """Raises SmbError for what is no RPC."""

    def read(self, limit: int) -> bytes: ...

    def close(self) -> None: ...


PipeFactory = Callable[[], Pipe]


def read(pipe: Pipe, limit: int) -> tuple[bytes, NtStatus]:
    """A message, or with BUFFER_OVERFLOW its first part."""
    size = pipe.readable
    if not size:
        raise SmbError(NtStatus.PIPE_EMPTY)
    status = NtStatus.BUFFER_OVERFLOW if size > limit else NtStatus.SUCCESS
    return pipe.read(limit), status


def write(pipe: Pipe, data: memoryview) -> None:
    if len(data) > MAX_PIPE_DATA:
        raise SmbError(NtStatus.INVALID_PARAMETER)
    pipe.write(bytes(data))


def create(request: Request, tree: Tree, asked: CreateRequest) -> Reply:
    pipes: Mapping[str, PipeFactory] = request.connection.server.pipes
    name = asked.name.removeprefix("\\").lower().removeprefix("pipe\\")
    factory = pipes.get(name)
    if factory is None:
        raise SmbError(NtStatus.OBJECT_NAME_NOT_FOUND)
    open_ = PipeOpen(tree, factory())
    tree.session.opens[open_.file_id] = open_
    request.chain.file_id, request.chain.failed = open_.file_id, None
    body = CreateResponse(open_.file_id, 1, 0, 0, 0, 0, 4096, 0, FileAttribute.NORMAL)
    return Reply(body.pack())
