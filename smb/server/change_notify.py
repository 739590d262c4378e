"""CHANGE_NOTIFY at the server ([MS-SMB2] §3.3.5.19)."""

from __future__ import annotations

import asyncio
from typing import Final

from quicfs.smb.errors import SmbError
from quicfs.smb.messages.access import Access
from quicfs.smb.messages.change_notify import WATCH_TREE, ChangeNotifyRequest, pack_notifications
from quicfs.smb.messages.output import pack_output
from quicfs.smb.ntstatus import NtStatus
from quicfs.smb.server.opens import FileOpen
from quicfs.smb.server.request import Reply, Request
from quicfs.smb.server.watches import DirectoryWatch
from quicfs.vfs import FileKind, FsError, Status

__all__ = ["handle_change_notify"]

_LIST: Final = int(Access.FILE_READ_DATA)


async def handle_change_notify(request: Request) -> Reply:
    asked = ChangeNotifyRequest.parse(request.message)
    open_ = request.file(asked.file_id)
    if open_.kind is not FileKind.DIRECTORY:
        raise SmbError(NtStatus.INVALID_PARAMETER)
    open_.require(_LIST)
    request.pay(asked.output_length)
    if open_.watch is None:
        open_.watch = _watch(open_, asked)
    async with request.waiting(open_):
        if open_.watch is None:
            # The file system cannot tell: the request waits until the client gives it up.
            await asyncio.get_running_loop().create_future()
            raise SmbError(NtStatus.CANCELLED)
        changes = await open_.watch.take()
    data = pack_notifications(changes) if changes is not None else b""
    if changes is None or len(data) > asked.output_length:
        # §3.3.5.19: more than can be told; the client looks for itself.
        raise SmbError(NtStatus.NOTIFY_ENUM_DIR)
    return Reply(pack_output(data))


def _watch(open_: FileOpen, asked: ChangeNotifyRequest) -> DirectoryWatch | None:
    try:
        changes = open_.tree.fs.watch(open_.node, recursive=bool(asked.flags & WATCH_TREE))
    except FsError as error:
        if error.status is Status.NOT_SUPPORTED:
            return None
        raise
    return DirectoryWatch(changes, filter_=asked.completion_filter, posix=open_.posix)
