"""Copying inside the server: FSCTL_SRV_COPYCHUNK ([MS-SMB2] §2.2.31.1, §3.2.4.20.2)."""

from __future__ import annotations

import struct
from typing import Final

from quicfs.smb.client.errors import SessionLost
from quicfs.smb.client.openfile import SmbOpenFile
from quicfs.smb.client.operation import ioctl
from quicfs.smb.client.session import Session
from quicfs.smb.errors import SmbProtocolError
from quicfs.smb.messages.ioctl import Fsctl, IoctlResponse
from quicfs.vfs.status import FsError, Status

__all__ = ["copy_range"]

_HEAD = struct.Struct("<24sII")
_CHUNK = struct.Struct("<QQII")
_RESULT = struct.Struct("<III")
_CHUNK_SIZE: Final = 1 << 20  # what every server allows: 16 chunks of 1 MiB (§3.3.3)
_CHUNKS: Final = 16


async def copy_range(
    source: SmbOpenFile, offset: int, target: SmbOpenFile, target_offset: int, length: int
) -> int:
    """The bytes copied, at most 16 MiB at a time; 0 at the end of `source`."""
    size = (await source.getattr()).size
    length = min(length, size - offset, _CHUNK_SIZE * _CHUNKS)
    if length <= 0:
        return 0

    async def key_of(session: Session, handle: bytes) -> tuple[Session, bytes]:
        answer = await session.call(ioctl(Fsctl.SRV_REQUEST_RESUME_KEY, b"", handle, output=32))
        key = bytes(IoctlResponse.parse(answer.message).output[:24])
        if len(key) != 24:
            raise SmbProtocolError("a resume key that is too short")
        return session, key

    async def copy(session: Session, handle: bytes) -> int:
        made_in, key = await source.run(key_of)
        if made_in is not session:
            raise SessionLost("the connection was lost between two halves of a copy", sent=False)
        chunks = [
            _CHUNK.pack(offset + at, target_offset + at, min(_CHUNK_SIZE, length - at), 0)
            for at in range(0, length, _CHUNK_SIZE)
        ]
        data = _HEAD.pack(key, len(chunks), 0) + b"".join(chunks)
        answer = await session.call(ioctl(Fsctl.SRV_COPYCHUNK_WRITE, data, handle, output=_RESULT.size))
        output = IoctlResponse.parse(answer.message).output
        if len(output) < _RESULT.size:
            raise SmbProtocolError("a copy without its result")
        return int(_RESULT.unpack_from(output)[2])

    copied = await target.run(copy)
    if not 0 < copied <= length:
        raise FsError(Status.IO, f"the server copied {copied} of {length} bytes")
    return copied
