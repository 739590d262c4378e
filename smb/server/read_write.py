"""READ and WRITE at the server ([MS-SMB2] §3.3.5.12 and §3.3.5.13)."""

from __future__ import annotations

from typing import Final

from quicfs.smb.errors import SmbError
from quicfs.smb.messages.access import Access
from quicfs.smb.messages.read import ReadRequest, pack_read_response
from quicfs.smb.messages.write import WRITE_THROUGH, WriteRequest, pack_write_response
from quicfs.smb.ntstatus import NtStatus
from quicfs.smb.server import pipes
from quicfs.smb.server.opens import FileOpen, PipeOpen
from quicfs.smb.server.request import Reply, Request

__all__ = ["handle_read", "handle_write"]

_READS: Final = int(Access.FILE_READ_DATA | Access.FILE_EXECUTE)
_WRITES: Final = int(Access.FILE_WRITE_DATA | Access.FILE_APPEND_DATA)
_WRITE_ANYWHERE: Final = int(Access.FILE_WRITE_DATA)
_MAX_OFFSET: Final = (1 << 63) - 1
_TO_END_OF_FILE: Final = (1 << 64) - 1


async def handle_read(request: Request) -> Reply:
    asked = ReadRequest.parse(request.message)
    open_ = request.open(asked.file_id)
    request.pay(asked.length)
    if isinstance(open_, PipeOpen):
        message, status = pipes.read(open_.pipe, asked.length)
        return Reply(pack_read_response(len(message)), message, status=status)
    open_.require(_READS)
    file = open_.data()
    if asked.offset > _MAX_OFFSET - asked.length:
        raise SmbError(NtStatus.INVALID_PARAMETER)
    locks = open_.state.locks
    if locks and locks.conflict(open_.owner, asked.offset, asked.length, write=False):
        raise SmbError(NtStatus.FILE_LOCK_CONFLICT)
    data = await file.read(asked.offset, asked.length)
    # §3.3.5.12: nothing there, or less than the client insists on.
    if len(data) < asked.minimum_count or (not len(data) and asked.length):
        raise SmbError(NtStatus.END_OF_FILE)
    return Reply(pack_read_response(len(data)), data)


async def handle_write(request: Request) -> Reply:
    asked = WriteRequest.parse(request.message)
    open_ = request.open(asked.file_id)
    length = len(asked.data)
    request.pay(length)
    if isinstance(open_, PipeOpen):
        pipes.write(open_.pipe, memoryview(asked.data))
        return Reply(pack_write_response(length))
    open_.require(_WRITES)
    offset = await _offset(open_, asked.offset)
    if offset > _MAX_OFFSET - length:
        raise SmbError(NtStatus.INVALID_PARAMETER)
    locks = open_.state.locks
    if locks and locks.conflict(open_.owner, offset, length, write=True):
        raise SmbError(NtStatus.FILE_LOCK_CONFLICT)
    stable = open_.write_through or bool(asked.flags & WRITE_THROUGH)
    written = await open_.data().write(offset, asked.data, stable=stable)
    return Reply(pack_write_response(written))


async def _offset(open_: FileOpen, offset: int) -> int:
    """[MS-FSA] §2.1.5.4: -1 is the end of the file, and an open that may only append writes nowhere else."""
    if offset != _TO_END_OF_FILE and open_.access & _WRITE_ANYWHERE:
        return offset
    end = (await open_.getattr()).size
    if offset == _TO_END_OF_FILE:
        return end
    if offset < end:
        raise SmbError(NtStatus.ACCESS_DENIED)
    return offset
