"""SET_INFO at the server ([MS-SMB2] §3.3.5.21; [MS-FSA] §2.1.5.15)."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final

from quicfs.smb.errors import SmbError
from quicfs.smb.filetime import ns_from_filetime
from quicfs.smb.fscc import file_info
from quicfs.smb.fscc.classes import FileInfoClass
from quicfs.smb.fscc.security import SecurityDescriptor
from quicfs.smb.messages.access import Access, FileAttribute
from quicfs.smb.messages.info import SET_INFO_RESPONSE, InfoType, SecurityInformation, SetInfoRequest
from quicfs.smb.ntstatus import NtStatus
from quicfs.smb.server import attributes, renaming
from quicfs.smb.server.opens import FileOpen, PipeOpen
from quicfs.smb.server.request import Reply, Request
from quicfs.vfs import Attr, FileKind, FsError, SetAttr, Status

__all__ = ["handle_set_info"]

_WRITES: Final = int(Access.FILE_WRITE_DATA | Access.FILE_APPEND_DATA)
_WRITE_ATTRIBUTES: Final = int(Access.FILE_WRITE_ATTRIBUTES)
_DELETE: Final = int(Access.DELETE)
_WRITE_DAC: Final = int(Access.WRITE_DAC)
_WRITE_OWNER: Final = int(Access.WRITE_OWNER)
_MAX_SIZE: Final = (1 << 63) - 1
# [MS-FSCC] §2.4.7: 0 leaves a time as it is; -1 and -2 steer automatic updates, which stay on here.
_NO_TIME: Final = (0, (1 << 64) - 1, (1 << 64) - 2)


async def handle_set_info(request: Request) -> Reply:
    asked = SetInfoRequest.parse(request.message)
    request.pay(len(asked.data))
    open_ = request.open(asked.file_id)
    if isinstance(open_, PipeOpen):
        raise SmbError(NtStatus.INVALID_INFO_CLASS)
    if open_.tree.disk.read_only:
        raise SmbError(NtStatus.ACCESS_DENIED)
    data = memoryview(asked.data)
    if asked.info_type == InfoType.SECURITY:
        await _security(open_, asked.additional, data)
    elif asked.info_type == InfoType.FILE:
        row = _CLASSES.get(asked.info_class)
        if row is None:
            raise SmbError(NtStatus.INVALID_INFO_CLASS)
        change, right = row
        if right:
            open_.require(right)
        await change(open_, data)
    else:
        raise SmbError(NtStatus.NOT_SUPPORTED)
    return Reply(SET_INFO_RESPONSE)


async def _setattr(open_: FileOpen, changes: SetAttr) -> Attr:
    if open_.file is not None:
        return await open_.file.setattr(changes)
    return await open_.tree.fs.setattr(open_.node, changes)


def _time(filetime: int) -> int | None:
    if filetime in _NO_TIME:
        return None
    if filetime > _MAX_SIZE:
        raise SmbError(NtStatus.INVALID_PARAMETER)
    return ns_from_filetime(filetime)


async def _basic(open_: FileOpen, data: memoryview) -> None:
    wanted = file_info.BasicInfo.parse(data)
    mode: int | None = None
    flags = wanted.file_attributes
    if flags:
        if flags & FileAttribute.DIRECTORY and open_.kind is not FileKind.DIRECTORY:
            raise SmbError(NtStatus.INVALID_PARAMETER)
        # Of the attributes only READONLY has a place in a Unix file: its permissions.
        if open_.kind is FileKind.REGULAR and not open_.posix:
            attr = await open_.getattr()
            if bool(flags & FileAttribute.READONLY) != attributes.is_read_only(attr):
                mode = attr.mode & ~0o222 if flags & FileAttribute.READONLY else attr.mode | 0o200
    changes = SetAttr(
        mode=mode,
        atime_ns=_time(wanted.last_access_time),
        mtime_ns=_time(wanted.last_write_time),
    )
    if changes != SetAttr():
        await _setattr(open_, changes)
    birth = _time(wanted.creation_time)
    if birth is not None:
        await _set_birth(open_, birth)


async def _set_birth(open_: FileOpen, birth_ns: int) -> None:
    """Where the file system keeps no birth time that can be set, the rest was still done."""
    try:
        await _setattr(open_, SetAttr(btime_ns=birth_ns))
    except FsError as error:
        if error.status not in (Status.NOT_SUPPORTED, Status.INVALID, Status.NOT_PERMITTED):
            raise


async def _end_of_file(open_: FileOpen, data: memoryview) -> None:
    size = file_info.parse_u64(data, "FileEndOfFileInformation")
    if size > _MAX_SIZE:
        raise SmbError(NtStatus.INVALID_PARAMETER)
    await open_.data().setattr(SetAttr(size=size))


async def _allocation(open_: FileOpen, data: memoryview) -> None:
    """[MS-FSA] §2.1.5.15.1: less than the size cuts the file; more is a wish for space."""
    size = file_info.parse_u64(data, "FileAllocationInformation")
    if size > _MAX_SIZE:
        raise SmbError(NtStatus.INVALID_PARAMETER)
    file = open_.data()
    attr = await file.getattr()
    if size < attr.size:
        await file.setattr(SetAttr(size=size))


async def _disposition(open_: FileOpen, data: memoryview) -> None:
    await _set_delete(open_, delete=bool(file_info.parse_u8(data, "FileDispositionInformation")))


async def _disposition_ex(open_: FileOpen, data: memoryview) -> None:
    flags = file_info.parse_u32(data, "FileDispositionInformationEx")
    delete = bool(flags & file_info.DispositionFlags.DELETE)
    if flags & file_info.DispositionFlags.POSIX_SEMANTICS:
        open_.posix_delete = delete
    await _set_delete(
        open_,
        delete=delete,
        read_only_too=bool(flags & file_info.DispositionFlags.IGNORE_READONLY_ATTRIBUTE),
    )


async def _set_delete(open_: FileOpen, *, delete: bool, read_only_too: bool = False) -> None:
    if not delete:
        open_.delete_on_close = False
        open_.state.delete_pending = False
        return
    if not open_.path:
        raise SmbError(NtStatus.CANNOT_DELETE)
    if open_.kind is FileKind.DIRECTORY:
        page = await open_.tree.fs.readdir(open_.node, 0, 1)
        if page.entries:
            raise SmbError(NtStatus.DIRECTORY_NOT_EMPTY)
    elif not (open_.posix or read_only_too) and attributes.is_read_only(await open_.getattr()):
        raise SmbError(NtStatus.CANNOT_DELETE)
    open_.delete_on_close = True


async def _rename(open_: FileOpen, data: memoryview) -> None:
    await renaming.rename(open_, file_info.RenameInfo.parse(data))


async def _link(open_: FileOpen, data: memoryview) -> None:
    await renaming.link(open_, file_info.RenameInfo.parse(data))


async def _nothing(open_: FileOpen, data: memoryview) -> None:
    """Position and mode belong to a file pointer that SMB2 has not."""
    file_info.parse_u32(data, "FilePositionInformation or FileModeInformation")


# For each class: what does it, and the right that it takes.
_CLASSES: Final[dict[int, tuple[Callable[[FileOpen, memoryview], Awaitable[None]], int]]] = {
    FileInfoClass.BASIC: (_basic, _WRITE_ATTRIBUTES),
    FileInfoClass.END_OF_FILE: (_end_of_file, _WRITES),
    FileInfoClass.ALLOCATION: (_allocation, _WRITES),
    FileInfoClass.DISPOSITION: (_disposition, _DELETE),
    FileInfoClass.DISPOSITION_EX: (_disposition_ex, _DELETE),
    FileInfoClass.RENAME: (_rename, _DELETE),
    FileInfoClass.RENAME_EX: (_rename, _DELETE),
    FileInfoClass.LINK: (_link, 0),
    FileInfoClass.POSITION: (_nothing, 0),
    FileInfoClass.MODE: (_nothing, 0),
}


async def _security(open_: FileOpen, wanted: int, data: memoryview) -> None:
    """Owner, group and mode, where the descriptor names them as Unix numbers.

    Other descriptors are refused: to say yes and do nothing would leave somebody with rights that the
    client believes to have taken away.

    A handle of the POSIX extensions may be used as POSIX has it, where fchmod and fchown ask who calls and not how
    the file was opened: there the right to change attributes is enough.
    """
    instead = _WRITE_ATTRIBUTES if open_.posix else 0
    descriptor = SecurityDescriptor.parse(data)
    mode = uid = gid = None
    if wanted & SecurityInformation.DACL:
        open_.require(_WRITE_DAC | instead)
        mode = descriptor.mode
        if mode is None:
            raise SmbError(NtStatus.NOT_SUPPORTED)
    if wanted & SecurityInformation.OWNER:
        open_.require(_WRITE_OWNER | instead)
        uid = descriptor.uid
    if wanted & SecurityInformation.GROUP:
        open_.require(_WRITE_OWNER | instead)
        gid = descriptor.gid
    changes = SetAttr(mode=mode, uid=uid, gid=gid)
    if changes == SetAttr():
        raise SmbError(NtStatus.NOT_SUPPORTED)
    await _setattr(open_, changes)
