"""Holes in files at the server ([MS-FSCC] §2.3.61 SET_SPARSE, §2.3.67 SET_ZERO_DATA, §2.3.48 ranges)."""

from __future__ import annotations

import struct
from typing import Final

from quicfs.smb.errors import SmbError
from quicfs.smb.messages.access import Access
from quicfs.smb.messages.wire import unpack
from quicfs.smb.ntstatus import NtStatus
from quicfs.smb.server.opens import FileOpen
from quicfs.vfs import FsError, OpenFile, Status

__all__ = ["allocated_ranges", "set_sparse", "set_zero_data"]

_RANGE = struct.Struct("<QQ")
_MAX_OFFSET: Final = (1 << 63) - 1
_WRITES: Final = int(Access.FILE_WRITE_DATA | Access.FILE_APPEND_DATA)
_MAX_RANGES: Final = 4096
_ZEROS: Final = bytes(1 << 20)
_MAX_ZEROED: Final = 256 << 20  # written out where holes cannot be punched


def set_sparse(open_: FileOpen) -> None:
    """Every file may have holes; there is nothing to switch."""
    open_.require(_WRITES | Access.FILE_WRITE_ATTRIBUTES)
    open_.data()


async def set_zero_data(open_: FileOpen, data: memoryview) -> None:
    start, end = unpack(_RANGE, data, 0, "SET_ZERO_DATA")
    if start > end or end > _MAX_OFFSET:
        raise SmbError(NtStatus.INVALID_PARAMETER)
    open_.require(_WRITES)
    file = open_.data()
    end = min(end, (await file.getattr()).size)
    if start >= end:
        return
    if open_.state.locks.conflict(open_.owner, start, end - start, write=True):
        raise SmbError(NtStatus.FILE_LOCK_CONFLICT)
    try:
        await file.allocate(start, end - start, punch_hole=True)
    except FsError as error:
        if error.status is not Status.NOT_SUPPORTED or end - start > _MAX_ZEROED:
            raise
        while start < end:
            start += await file.write(start, memoryview(_ZEROS)[: end - start])


async def allocated_ranges(open_: FileOpen, data: memoryview, limit: int) -> tuple[bytes, bool]:
    """The ranges with data inside the one asked for, and whether these are all."""
    start, length = unpack(_RANGE, data, 0, "QUERY_ALLOCATED_RANGES")
    if start > _MAX_OFFSET or length > _MAX_OFFSET:
        raise SmbError(NtStatus.INVALID_PARAMETER)
    open_.require(Access.FILE_READ_DATA)
    file = open_.data()
    end = min(start + length, (await file.getattr()).size)
    found = bytearray()
    while start < end:
        if len(found) + _RANGE.size > limit or len(found) >= _MAX_RANGES * _RANGE.size:
            if not found:
                raise SmbError(NtStatus.BUFFER_TOO_SMALL)
            return bytes(found), False
        first, last = await _next_range(file, start, end)
        if first >= end:
            break
        found += _RANGE.pack(first, last - first)
        start = last
    return bytes(found), True


async def _next_range(file: OpenFile, start: int, end: int) -> tuple[int, int]:
    try:
        first = await file.seek_data(start)
        last = await file.seek_data(first, hole=True)
    except FsError as error:
        if error.status is Status.NO_DATA:
            return end, end
        if error.status is Status.NOT_SUPPORTED:
            return start, end
        raise
    return first, min(last, end)
