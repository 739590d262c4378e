"""CLOSE and FLUSH at the server ([MS-SMB2] §3.3.5.10 and §3.3.5.11)."""

from __future__ import annotations

from typing import Final

from quicfs.smb.messages.access import Access
from quicfs.smb.messages.close import POSTQUERY_ATTRIB, CloseRequest, CloseResponse, FlushRequest
from quicfs.smb.messages.simple import EMPTY_BODY
from quicfs.smb.server import attributes
from quicfs.smb.server.opens import FileOpen, PipeOpen
from quicfs.smb.server.request import Reply, Request
from quicfs.vfs import FileKind

__all__ = ["handle_close", "handle_flush"]

_NOTHING: Final = CloseResponse().pack()
_WRITES: Final = int(Access.FILE_WRITE_DATA | Access.FILE_APPEND_DATA)


async def handle_close(request: Request) -> Reply:
    asked = CloseRequest.parse(request.message)
    open_ = request.open(asked.file_id)
    body = _NOTHING
    if asked.flags & POSTQUERY_ATTRIB and isinstance(open_, FileOpen):
        body = await _attributes(open_)
    request.valid_session.opens.pop(open_.file_id, None)
    request.connection.cancel_waiting(open_)
    await open_.close()
    return Reply(body)


async def _attributes(open_: FileOpen) -> bytes:
    attr = await open_.getattr()
    return CloseResponse(
        POSTQUERY_ATTRIB,
        *attributes.times(attr),
        attributes.allocation_size(attr),
        attributes.end_of_file(attr),
        attributes.file_attributes(attr, open_.name),
    ).pack()


async def handle_flush(request: Request) -> Reply:
    asked = FlushRequest.parse(request.message)
    open_ = request.open(asked.file_id)
    if isinstance(open_, PipeOpen):
        return Reply(EMPTY_BODY)
    # §3.3.5.11: flushing needs the right to write; a directory's is that to add to it.
    if open_.kind is FileKind.DIRECTORY:
        await open_.tree.fs.fsync(open_.node)
    else:
        open_.require(_WRITES)
        await open_.data().fsync()
    return Reply(EMPTY_BODY)
