"""The entries of one QUERY_DIRECTORY response as `DirEntry`s. Level 100 in one pass: listings are mostly this."""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from typing import Final

from quicfs.smb.client.attributes import attr_of_entry, wire_kind
from quicfs.smb.errors import SmbError, SmbProtocolError
from quicfs.smb.fscc.classes import FileInfoClass
from quicfs.smb.fscc.directory import parse_entries
from quicfs.smb.fscc.sid import Sid, unix_id
from quicfs.smb.messages.wire import decode_utf16
from quicfs.smb.names import path_from_wire
from quicfs.vfs.api import Attr, FileKind

__all__ = ["INFO_CLASS", "named_attributes"]

INFO_CLASS: Final = {True: FileInfoClass.POSIX, False: FileInfoClass.ID_BOTH_DIRECTORY}
"""What to ask for, by whether the server has the POSIX extensions."""

# NextEntryOffset and FileIndex, then FILE_POSIX_INFORMATION up to its identifiers (fscc.posix).
_POSIX: Final = struct.Struct("<IIQQQQQQIQIIIII")
_LENGTH: Final = struct.Struct("<I")
_EPOCH: Final = 116_444_736_000_000_000
_DOTS: Final = (".", "..")
_MAX_KNOWN_SIDS: Final = 4096


def named_attributes(data: memoryview, *, posix: bool) -> Iterator[tuple[str, Attr]]:
    """Names of the contract and attributes, without "." and "..". SmbProtocolError for what is no listing."""
    if posix:
        yield from _posix_entries(data)
        return
    for entry in parse_entries(INFO_CLASS[posix], data):
        if entry.name not in _DOTS:
            yield _name(entry.name), attr_of_entry(entry)


def _name(wire: str) -> str:
    try:
        name = path_from_wire(wire, posix=False)
    except SmbError as error:
        raise SmbProtocolError(f"the server lists a name that is none: {wire!r}") from error
    if not name or "/" in name:
        raise SmbProtocolError(f"the server lists a name that is none: {wire!r}")
    return name


def _posix_entries(data: memoryview) -> Iterator[tuple[str, Attr]]:
    uid, gid = os.getuid(), os.getgid()
    known: dict[bytes, int | None] = {}
    at, size = 0, len(data)
    while size:
        sids = at + _POSIX.size
        if sids + 2 > size:
            raise SmbProtocolError("directory entry: truncated")
        next_, _, birth, access, write, change, end, allocated, attributes, inode, _, _, nlink, tag, mode = (
            _POSIX.unpack_from(data, at)
        )
        owner, group_at = _id_at(data, sids, known, uid)
        group, name_at = _id_at(data, group_at, known, gid)
        if name_at + 4 > size:
            raise SmbProtocolError("directory entry: truncated")
        (length,) = _LENGTH.unpack_from(data, name_at)
        name_at += 4
        if name_at + length > (at + next_ if next_ else size):
            raise SmbProtocolError("directory entry: the name does not fit")
        name = decode_utf16(data[name_at : name_at + length], "directory entry: name")
        if name not in _DOTS:
            if not name or "/" in name or "\0" in name:
                raise SmbProtocolError(f"the server lists a name that is none: {name!r}")
            name = name.replace("\uf026", "\\")  # Samba sends backslashes as they are
            permissions, kind = wire_kind(mode, attributes, tag)
            mtime, ctime = (write - _EPOCH) * 100, (change - _EPOCH) * 100
            yield (
                name,
                Attr(
                    kind,
                    permissions,
                    nlink,
                    owner,
                    group,
                    0 if kind is FileKind.DIRECTORY else end,
                    allocated,
                    inode,
                    (access - _EPOCH) * 100,
                    mtime,
                    ctime,
                    (birth - _EPOCH) * 100 if birth else mtime,
                    ctime ^ (end << 1),
                ),
            )
        if not next_:
            return
        at += next_
        if next_ < _POSIX.size or at > size:
            raise SmbProtocolError("directory entry: bad NextEntryOffset")


def _id_at(data: memoryview, at: int, known: dict[bytes, int | None], default: int) -> tuple[int, int]:
    """The Unix id of the SID at `at`, and where the SID ends. A listing has few different ones."""
    if at + 8 > len(data):
        raise SmbProtocolError("directory entry: truncated")
    end = at + 8 + 4 * data[at + 1]
    packed = bytes(data[at:end])
    if packed in known:
        number = known[packed]
    else:
        found = unix_id(Sid.parse(data, at)[0])
        number = found[1] if found else None
        if len(known) < _MAX_KNOWN_SIDS:
            known[packed] = number
    return (default if number is None else number), end
