"""Server-side copy ([MS-SMB2] §2.2.31.1, §2.2.32.1, §3.3.5.15.5 and §3.3.5.15.6)."""

from __future__ import annotations

import struct
from typing import Final

from quicfs.smb import limits
from quicfs.smb.errors import SmbError, SmbProtocolError
from quicfs.smb.messages.access import Access
from quicfs.smb.messages.wire import unpack
from quicfs.smb.ntstatus import NtStatus
from quicfs.smb.server.opens import FileOpen
from quicfs.vfs import FsError, OpenFile, Status

__all__ = ["copy", "resume_key"]

_REQUEST = struct.Struct("<24sII")
_CHUNK = struct.Struct("<QQII")
_RESPONSE = struct.Struct("<III")
_KEY_SIZE: Final = 24
_READS: Final = int(Access.FILE_READ_DATA)
_WRITES: Final = int(Access.FILE_WRITE_DATA | Access.FILE_APPEND_DATA)
_MAX_OFFSET: Final = (1 << 63) - 1
_PIECE: Final = 1 << 20


def resume_key(open_: FileOpen) -> bytes:
    """SRV_REQUEST_RESUME_KEY: the file id, which is secret enough, in 24 bytes; no context follows."""
    open_.data()
    return open_.file_id.ljust(_KEY_SIZE, b"\0") + bytes(4)


async def copy(target: FileOpen, data: memoryview, *, read_too: bool) -> tuple[NtStatus, bytes]:
    """The status and the SRV_COPYCHUNK_RESPONSE. `read_too`: SRV_COPYCHUNK wants the target readable."""
    key, count, _ = unpack(_REQUEST, data, 0, "SRV_COPYCHUNK")
    source = target.tree.session.opens.get(key[:16])
    if not isinstance(source, FileOpen):
        raise SmbError(NtStatus.OBJECT_NAME_NOT_FOUND)
    source.require(_READS)
    target.require(_WRITES)
    if read_too:
        target.require(_READS)
    if count > limits.MAX_COPY_CHUNKS:
        return _limits()
    if _REQUEST.size + count * _CHUNK.size > len(data):
        raise SmbProtocolError("SRV_COPYCHUNK: truncated")
    chunks = list(_CHUNK.iter_unpack(data[_REQUEST.size : _REQUEST.size + count * _CHUNK.size]))
    lengths = [length for _, _, length, _ in chunks]
    if (
        any(not 0 < length <= limits.MAX_COPY_CHUNK for length in lengths)
        or sum(lengths) > limits.MAX_COPY_DATA
    ):
        return _limits()
    written = total = 0
    for from_, to, length, _ in chunks:
        if from_ + length > _MAX_OFFSET or to + length > _MAX_OFFSET:
            raise SmbError(NtStatus.INVALID_PARAMETER)
        _check_locks(source, target, from_, to, length)
        await _chunk(source, target, from_, to, length)
        written += 1
        total += length
    return NtStatus.SUCCESS, _RESPONSE.pack(written, 0, total)


def _limits() -> tuple[NtStatus, bytes]:
    """§3.3.5.15.6: INVALID_PARAMETER together with what would be allowed."""
    allowed = _RESPONSE.pack(limits.MAX_COPY_CHUNKS, limits.MAX_COPY_CHUNK, limits.MAX_COPY_DATA)
    return NtStatus.INVALID_PARAMETER, allowed


def _check_locks(source: FileOpen, target: FileOpen, from_: int, to: int, length: int) -> None:
    if source.state.locks.conflict(source.owner, from_, length, write=False) or target.state.locks.conflict(
        target.owner, to, length, write=True
    ):
        raise SmbError(NtStatus.FILE_LOCK_CONFLICT)


async def _chunk(source: FileOpen, target: FileOpen, from_: int, to: int, length: int) -> None:
    """All of one chunk. INVALID_VIEW_SIZE when the source ends before it does."""
    read, write = source.data(), target.data()
    while length:
        copied = await _some(target, read, from_, write, to, length)
        if not copied:
            raise SmbError(NtStatus.INVALID_VIEW_SIZE)
        from_, to, length = from_ + copied, to + copied, length - copied


async def _some(target: FileOpen, read: OpenFile, from_: int, write: OpenFile, to: int, length: int) -> int:
    try:
        return await target.tree.fs.copy_range(read, from_, write, to, length)
    except FsError as error:
        if error.status not in (Status.NOT_SUPPORTED, Status.CROSS_DEVICE, Status.INVALID):
            raise
    data = await read.read(from_, min(length, _PIECE))
    return await write.write(to, data) if len(data) else 0
