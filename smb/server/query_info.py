"""QUERY_INFO at the server ([MS-SMB2] §3.3.5.20)."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from typing import Final

from quicfs.smb.errors import SmbError
from quicfs.smb.fscc import file_info
from quicfs.smb.fscc.classes import FileInfoClass
from quicfs.smb.fscc.security import SecurityDescriptor, descriptor_of_mode
from quicfs.smb.messages.access import Access, CreateOptions
from quicfs.smb.messages.info import InfoType, QueryInfoRequest, SecurityInformation
from quicfs.smb.messages.output import pack_output
from quicfs.smb.names import path_to_wire
from quicfs.smb.ntstatus import NtStatus
from quicfs.smb.server import attributes, query_filesystem
from quicfs.smb.server.attributes import REPARSE_TAGS
from quicfs.smb.server.opens import FileOpen, PipeOpen
from quicfs.smb.server.request import Reply, Request
from quicfs.vfs import Attr, FileKind

__all__ = ["handle_query_info"]

_READ_ATTRIBUTES: Final = int(Access.FILE_READ_ATTRIBUTES)
_READ_CONTROL: Final = int(Access.READ_CONTROL)
_SHORT_NAME: Final = re.compile(r"[\w!#$%&'()@^`{}~-]{1,8}(\.[\w!#$%&'()@^`{}~-]{1,3})?", re.ASCII)


async def handle_query_info(request: Request) -> Reply:
    asked = QueryInfoRequest.parse(request.message)
    request.pay(max(asked.output_length, len(asked.input)))
    open_ = request.open(asked.file_id)
    if isinstance(open_, PipeOpen):
        return _pipe(asked)
    answer = _TYPES.get(asked.info_type)
    if answer is None:
        raise SmbError(
            NtStatus.NOT_SUPPORTED if asked.info_type == InfoType.QUOTA else NtStatus.INVALID_PARAMETER
        )
    return await answer(request, asked, open_)


def fit(data: bytes, limit: int, fixed: int) -> Reply:
    """`data`, or as much as the client has room for; at least `fixed` bytes must fit."""
    if len(data) <= limit:
        return Reply(pack_output(data))
    if limit < fixed:
        raise SmbError(NtStatus.INFO_LENGTH_MISMATCH)
    return Reply(pack_output(data[:limit]), status=NtStatus.BUFFER_OVERFLOW)


# Files


def _basic(open_: FileOpen, attr: Attr) -> file_info.BasicInfo:
    return file_info.BasicInfo(*attributes.times(attr), attributes.file_attributes(attr, open_.name))


def _standard(open_: FileOpen, attr: Attr) -> file_info.StandardInfo:
    pending = open_.delete_on_close or open_.state.delete_pending
    return file_info.StandardInfo(
        attributes.allocation_size(attr),
        attributes.end_of_file(attr),
        max(1, attr.nlink - pending),
        pending,
        attr.kind is FileKind.DIRECTORY,
    )


def _mode(open_: FileOpen) -> int:
    return (CreateOptions.WRITE_THROUGH if open_.write_through else 0) | (
        CreateOptions.DELETE_ON_CLOSE if open_.delete_on_close else 0
    )


def _all(open_: FileOpen, attr: Attr) -> bytes:
    return file_info.AllInfo(
        _basic(open_, attr),
        _standard(open_, attr),
        attr.fileid,
        0,
        open_.access,
        0,
        _mode(open_),
        path_to_wire(open_.path, posix=open_.posix),
    ).pack()


def _name(open_: FileOpen, attr: Attr) -> bytes:
    return file_info.pack_name(path_to_wire(open_.path, posix=open_.posix))


def _normalized_name(open_: FileOpen, attr: Attr) -> bytes:
    return file_info.pack_name(path_to_wire(open_.path, posix=open_.posix)[1:])


def _alternate_name(open_: FileOpen, attr: Attr) -> bytes:
    """[MS-FSA] §2.1.5.12.2: the 8.3 name; files here have no other than their own."""
    name = path_to_wire(open_.path, posix=open_.posix).rpartition("\\")[2]
    if _SHORT_NAME.fullmatch(name) is None:
        raise SmbError(NtStatus.OBJECT_NAME_NOT_FOUND)
    return file_info.pack_name(name)


def _network_open(open_: FileOpen, attr: Attr) -> bytes:
    return file_info.NetworkOpenInfo(
        *attributes.times(attr),
        attributes.allocation_size(attr),
        attributes.end_of_file(attr),
        attributes.file_attributes(attr, open_.name),
    ).pack()


def _attribute_tag(open_: FileOpen, attr: Attr) -> bytes:
    found = attributes.file_attributes(attr, open_.name)
    return file_info.AttributeTagInfo(found, REPARSE_TAGS[attr.kind]).pack()


def _streams(open_: FileOpen, attr: Attr) -> bytes:
    if attr.kind is not FileKind.REGULAR:
        return b""
    return file_info.pack_streams([("::$DATA", attr.size, attributes.allocation_size(attr))])


def _posix(open_: FileOpen, attr: Attr) -> bytes:
    return attributes.posix_info(attr, open_.tree.disk_id & 0xFFFFFFFF).pack(with_name=False)


def _compression(open_: FileOpen, attr: Attr) -> bytes:
    return file_info.pack_u64(attributes.end_of_file(attr)) + bytes(8)


def _id(open_: FileOpen, attr: Attr) -> bytes:
    return file_info.pack_u64(open_.tree.disk_id) + file_info.pack_u64(attr.fileid) + bytes(8)


_Class = tuple[Callable[[FileOpen, Attr], bytes], int, int]

# For each class: what writes it, the bytes that must fit, the right that it takes ([MS-FSA] §2.1.5.12).
_FILE_CLASSES: Final[dict[int, _Class]] = {
    FileInfoClass.BASIC: (lambda o, a: _basic(o, a).pack(), 40, _READ_ATTRIBUTES),
    FileInfoClass.STANDARD: (lambda o, a: _standard(o, a).pack(), 24, 0),
    FileInfoClass.INTERNAL: (lambda o, a: file_info.pack_u64(a.fileid), 8, 0),
    FileInfoClass.EA: (lambda o, a: file_info.pack_u32(0), 4, 0),
    FileInfoClass.ACCESS: (lambda o, a: file_info.pack_u32(o.access), 4, 0),
    FileInfoClass.NAME: (_name, 4, 0),
    FileInfoClass.POSITION: (lambda o, a: bytes(8), 8, 0),
    FileInfoClass.MODE: (lambda o, a: file_info.pack_u32(_mode(o)), 4, 0),
    FileInfoClass.ALIGNMENT: (lambda o, a: file_info.pack_u32(file_info.ALIGNMENT_BYTE), 4, 0),
    FileInfoClass.ALL: (_all, 100, _READ_ATTRIBUTES),
    FileInfoClass.ALTERNATE_NAME: (_alternate_name, 4, 0),
    FileInfoClass.STREAM: (_streams, 0, 0),
    FileInfoClass.COMPRESSION: (_compression, 16, 0),
    FileInfoClass.NETWORK_OPEN: (_network_open, 56, _READ_ATTRIBUTES),
    FileInfoClass.ATTRIBUTE_TAG: (_attribute_tag, 8, _READ_ATTRIBUTES),
    FileInfoClass.NORMALIZED_NAME: (_normalized_name, 4, 0),
    FileInfoClass.ID: (_id, 24, 0),
    FileInfoClass.POSIX: (_posix, 80, _READ_ATTRIBUTES),
}


async def _file(request: Request, asked: QueryInfoRequest, open_: FileOpen) -> Reply:
    row = _FILE_CLASSES.get(asked.info_class)
    if row is None:
        if asked.info_class == FileInfoClass.FULL_EA:
            raise SmbError(NtStatus.NO_EAS_ON_FILE)
        raise SmbError(NtStatus.INVALID_INFO_CLASS)
    if asked.info_class == FileInfoClass.POSIX and not request.connection.negotiation.posix:
        raise SmbError(NtStatus.INVALID_INFO_CLASS)
    write, fixed, right = row
    if right:
        open_.require(right)
    return fit(write(open_, await open_.getattr()), asked.output_length, fixed)


def _pipe(asked: QueryInfoRequest) -> Reply:
    """Clients look at the size of a pipe before they use it; there is nothing more to tell."""
    if (asked.info_type, asked.info_class) != (InfoType.FILE, FileInfoClass.STANDARD):
        raise SmbError(NtStatus.INVALID_INFO_CLASS)
    return fit(file_info.StandardInfo(4096, 0, 1, True, False).pack(), asked.output_length, 24)


# Security


async def _security(request: Request, asked: QueryInfoRequest, open_: FileOpen) -> Reply:
    open_.require(_READ_CONTROL)
    attr = await open_.getattr()
    whole = descriptor_of_mode(attr.mode, attr.uid, attr.gid)
    wanted = asked.additional
    data = SecurityDescriptor(
        whole.owner if wanted & SecurityInformation.OWNER else None,
        whole.group if wanted & SecurityInformation.GROUP else None,
        whole.dacl if wanted & SecurityInformation.DACL else None,
    ).pack()
    if len(data) > asked.output_length:
        # §3.3.5.20.3: the error tells the size that would do.
        raise SmbError(NtStatus.BUFFER_TOO_SMALL, data=file_info.pack_u32(len(data)))
    return Reply(pack_output(data))


async def _filesystem(request: Request, asked: QueryInfoRequest, open_: FileOpen) -> Reply:
    data, fixed = await query_filesystem.answer(request, asked, open_)
    return fit(data, asked.output_length, fixed)


_TYPES: Final[dict[int, Callable[[Request, QueryInfoRequest, FileOpen], Awaitable[Reply]]]] = {
    InfoType.FILE: _file,
    InfoType.FILESYSTEM: _filesystem,
    InfoType.SECURITY: _security,
}
