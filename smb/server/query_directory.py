"""QUERY_DIRECTORY at the server ([MS-SMB2] §3.3.5.18)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from quicfs.smb.errors import SmbError
from quicfs.smb.fscc.classes import FileInfoClass
from quicfs.smb.fscc.directory import ENTRY_PACKERS, DirectoryEntry, EntryList
from quicfs.smb.limits import MAX_DIRECTORY_BUFFER
from quicfs.smb.messages.access import Access
from quicfs.smb.messages.output import pack_output
from quicfs.smb.messages.query_directory import QueryDirectoryFlags, QueryDirectoryRequest
from quicfs.smb.ntstatus import NtStatus
from quicfs.smb.server import attributes
from quicfs.smb.server.attributes import REPARSE_TAGS
from quicfs.smb.server.directory_scan import DirectoryScan
from quicfs.smb.server.opens import FileOpen
from quicfs.smb.server.request import Reply, Request
from quicfs.vfs import Attr, FileKind

__all__ = ["handle_query_directory"]

_RESTART: Final = int(QueryDirectoryFlags.RESTART_SCANS | QueryDirectoryFlags.REOPEN)
_SINGLE: Final = int(QueryDirectoryFlags.RETURN_SINGLE_ENTRY)
_LIST: Final = int(Access.FILE_READ_DATA)


async def handle_query_directory(request: Request) -> Reply:
    asked = QueryDirectoryRequest.parse(request.message)
    open_ = request.file(asked.file_id)
    if open_.kind is not FileKind.DIRECTORY:
        raise SmbError(NtStatus.INVALID_PARAMETER)
    open_.require(_LIST)
    if asked.info_class not in ENTRY_PACKERS:
        raise SmbError(NtStatus.INVALID_INFO_CLASS)
    request.pay(asked.output_length)
    posix = asked.info_class == FileInfoClass.POSIX
    if posix and not request.connection.negotiation.posix:
        raise SmbError(NtStatus.INVALID_INFO_CLASS)
    async with open_.scanning:
        # The pattern counts in the first query, and when the scan starts anew. FileIndex needs no regard:
        # every entry is returned with index 0, which says that the server has none (§3.3.5.18).
        scan = open_.scan
        if scan is None or asked.flags & _RESTART:
            pattern = asked.pattern or (scan.pattern if scan is not None else "")
            scan = open_.scan = DirectoryScan(open_, pattern, posix=posix or open_.posix)
        return await _fill(asked, open_, scan)


async def _fill(asked: QueryDirectoryRequest, open_: FileOpen, scan: DirectoryScan) -> Reply:
    pack = _packer(asked.info_class, open_)
    chain = EntryList(min(asked.output_length, MAX_DIRECTORY_BUFFER))
    first = not scan.returned
    while (found := await scan.peek()) is not None:
        if not chain.append(pack(*found)):
            if not chain.packed:
                raise SmbError(NtStatus.INFO_LENGTH_MISMATCH)
            break
        scan.advance()
        if asked.flags & _SINGLE:
            break
    if not chain.packed:
        raise SmbError(NtStatus.NO_SUCH_FILE if first else NtStatus.NO_MORE_FILES)
    return Reply(pack_output(chain.packed))


def _packer(info_class: int, open_: FileOpen) -> Callable[[str, Attr], bytes]:
    if info_class == FileInfoClass.POSIX:
        device = open_.tree.disk_id & 0xFFFFFFFF
        return lambda name, attr: attributes.posix_info(attr, device, name).pack(with_name=True)
    pack = ENTRY_PACKERS[info_class]
    return lambda name, attr: pack(_entry(name, attr))


def _entry(name: str, attr: Attr) -> DirectoryEntry:
    return DirectoryEntry(
        name,
        *attributes.times(attr),
        attributes.end_of_file(attr),
        attributes.allocation_size(attr),
        attributes.file_attributes(attr, name),
        REPARSE_TAGS[attr.kind],
        attr.fileid,
    )
