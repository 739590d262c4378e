"""From what SMB says about a file to `Attr`: POSIX extensions where there are any, else the best guess."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Final

from quicfs.smb.filetime import ns_from_filetime
from quicfs.smb.fscc.directory import DirectoryEntry
from quicfs.smb.fscc.file_info import AllInfo
from quicfs.smb.fscc.posix import PosixFileType, PosixInfo
from quicfs.smb.fscc.reparse import ReparseTag
from quicfs.smb.fscc.sid import Sid, unix_id
from quicfs.smb.messages.access import FileAttribute
from quicfs.smb.messages.create import CreateResponse
from quicfs.smb.messages.create_contexts import POSIX, QUERY_ON_DISK_ID, PosixCreateResponse, parse_on_disk_id
from quicfs.vfs.api import Attr, FileKind

__all__ = ["attr_of_all_info", "attr_of_create", "attr_of_entry", "attr_of_posix", "wire_kind"]

_KINDS: Final[dict[int, FileKind]] = {
    PosixFileType.REGULAR: FileKind.REGULAR,
    PosixFileType.DIRECTORY: FileKind.DIRECTORY,
    PosixFileType.SYMLINK: FileKind.SYMLINK,
    PosixFileType.CHARACTER: FileKind.CHARACTER,
    PosixFileType.BLOCK: FileKind.BLOCK,
    PosixFileType.FIFO: FileKind.FIFO,
    PosixFileType.SOCKET: FileKind.SOCKET,
}
_TAGS: Final[dict[int, FileKind]] = {
    ReparseTag.SYMLINK: FileKind.SYMLINK,
    ReparseTag.NFS: FileKind.SYMLINK,
    ReparseTag.LX_SYMLINK: FileKind.SYMLINK,
    ReparseTag.AF_UNIX: FileKind.SOCKET,
    ReparseTag.LX_FIFO: FileKind.FIFO,
    ReparseTag.LX_CHR: FileKind.CHARACTER,
    ReparseTag.LX_BLK: FileKind.BLOCK,
}
_READONLY: Final = int(FileAttribute.READONLY)
_DIRECTORY: Final = int(FileAttribute.DIRECTORY)
_REPARSE: Final = int(FileAttribute.REPARSE_POINT)
_SPECIAL: Final = _DIRECTORY | _REPARSE


def _kind(attributes: int, tag: int) -> FileKind:
    if attributes & _REPARSE and (kind := _TAGS.get(tag)) is not None:
        return kind
    return FileKind.DIRECTORY if attributes & _DIRECTORY else FileKind.REGULAR


def wire_kind(mode: int, attributes: int, tag: int) -> tuple[int, FileKind]:
    """Permissions and kind. Servers that leave the type out of the mode say it in the attributes."""
    kind = _KINDS.get(mode >> 12 & 0xF)
    if kind is None or kind is FileKind.REGULAR:
        kind = _kind(attributes, tag) if attributes & _SPECIAL else FileKind.REGULAR
    return mode & 0o7777, kind


def guessed_mode(attributes: int, kind: FileKind) -> int:
    """For servers without the POSIX extensions."""
    if kind is FileKind.SYMLINK:
        return 0o777
    if kind is FileKind.DIRECTORY:
        return 0o755
    return 0o444 if attributes & _READONLY else 0o644


def _owner(sid: Sid, default: int) -> int:
    found = unix_id(sid)
    return found[1] if found else default


def _attr(
    kind: FileKind,
    mode: int,
    nlink: int,
    uid: int,
    gid: int,
    size: int,
    allocated: int,
    file_id: int,
    times: tuple[int, int, int, int],
) -> Attr:
    """`times` are the FILETIMEs of creation, access, write and change."""
    birth, access, write, change = times
    mtime = ns_from_filetime(write)
    ctime = ns_from_filetime(change) if change else mtime
    return Attr(
        kind,
        mode,
        nlink,
        uid,
        gid,
        0 if kind is FileKind.DIRECTORY else size,
        allocated,
        file_id,
        ns_from_filetime(access) if access else mtime,
        mtime,
        ctime,
        ns_from_filetime(birth) if birth else mtime,
        ctime ^ (size << 1),
    )


def attr_of_posix(info: PosixInfo) -> Attr:
    mode, kind = wire_kind(info.mode, info.file_attributes, info.reparse_tag)
    return _attr(
        kind,
        mode,
        info.nlink,
        _owner(info.owner, os.getuid()),
        _owner(info.group, os.getgid()),
        info.end_of_file,
        info.allocation_size,
        info.inode,
        (info.creation_time, info.last_access_time, info.last_write_time, info.change_time),
    )


def attr_of_create(response: CreateResponse) -> Attr | None:
    """From the answer to a CREATE alone, if it carries all that is needed: POSIX and QFid contexts."""
    contexts: Mapping[bytes, bytes | memoryview] = response.contexts
    posix, on_disk = contexts.get(POSIX), contexts.get(QUERY_ON_DISK_ID)
    if posix is None or on_disk is None:
        return None
    more = PosixCreateResponse.parse(memoryview(posix))
    mode, kind = wire_kind(more.mode, response.file_attributes, more.reparse_tag)
    return _attr(
        kind,
        mode,
        more.nlink,
        _owner(more.owner, os.getuid()),
        _owner(more.group, os.getgid()),
        response.end_of_file,
        response.allocation_size,
        parse_on_disk_id(memoryview(on_disk))[0],
        (
            response.creation_time,
            response.last_access_time,
            response.last_write_time,
            response.change_time,
        ),
    )


def attr_of_all_info(info: AllInfo, tag: int = 0) -> Attr:
    basic, standard = info.basic, info.standard
    kind = _kind(basic.file_attributes, tag)
    return _attr(
        kind,
        guessed_mode(basic.file_attributes, kind),
        max(1, standard.number_of_links),
        os.getuid(),
        os.getgid(),
        standard.end_of_file,
        standard.allocation_size,
        info.file_id,
        (basic.creation_time, basic.last_access_time, basic.last_write_time, basic.change_time),
    )


def attr_of_entry(entry: DirectoryEntry) -> Attr:
    if entry.posix is not None:
        return attr_of_posix(entry.posix)
    kind = _kind(entry.file_attributes, entry.ea_size)
    return _attr(
        kind,
        guessed_mode(entry.file_attributes, kind),
        1,
        os.getuid(),
        os.getgid(),
        entry.end_of_file,
        entry.allocation_size,
        entry.file_id,
        (entry.creation_time, entry.last_access_time, entry.last_write_time, entry.change_time),
    )
