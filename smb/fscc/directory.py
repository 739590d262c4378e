"""Directory entries of QUERY_DIRECTORY ([MS-FSCC] §2.4.8 FileBothDirectory and its relatives)."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from quicfs.smb.errors import SmbProtocolError
from quicfs.smb.fscc.classes import FileInfoClass
from quicfs.smb.fscc.posix import PosixInfo
from quicfs.smb.messages.wire import decode_utf16, encode_utf16, take, unpack

__all__ = ["ENTRY_PACKERS", "DirectoryEntry", "EntryList", "parse_entries"]

# NextEntryOffset and FileIndex stand in front of all of them; FileName, without alignment, behind.
_PREFIX = struct.Struct("<II")
_DIRECTORY = struct.Struct("<QQQQQQII")
_FULL = struct.Struct("<QQQQQQIII")
_BOTH = struct.Struct("<QQQQQQIIIBB24s")
_ID_BOTH = struct.Struct("<QQQQQQIIIBB24sHQ")
_ID_FULL = struct.Struct("<QQQQQQIIIIQ")
_NAMES = struct.Struct("<I")
_NO_SHORT_NAME = bytes(24)


@dataclass(slots=True)
class DirectoryEntry:
    name: str
    creation_time: int = 0  # FILETIMEs
    last_access_time: int = 0
    last_write_time: int = 0
    change_time: int = 0
    end_of_file: int = 0
    allocation_size: int = 0
    file_attributes: int = 0
    ea_size: int = 0  # of a reparse point: its tag
    file_id: int = 0
    posix: PosixInfo | None = None  # of level 100 only


def _common(e: DirectoryEntry, name_length: int) -> tuple[int, int, int, int, int, int, int, int]:
    return (
        e.creation_time,
        e.last_access_time,
        e.last_write_time,
        e.change_time,
        e.end_of_file,
        e.allocation_size,
        e.file_attributes,
        name_length,
    )


def _pack_directory(e: DirectoryEntry) -> bytes:
    name = encode_utf16(e.name)
    return _DIRECTORY.pack(*_common(e, len(name))) + name


def _pack_full(e: DirectoryEntry) -> bytes:
    name = encode_utf16(e.name)
    return _FULL.pack(*_common(e, len(name)), e.ea_size) + name


def _pack_both(e: DirectoryEntry) -> bytes:
    name = encode_utf16(e.name)
    return _BOTH.pack(*_common(e, len(name)), e.ea_size, 0, 0, _NO_SHORT_NAME) + name


def _pack_id_both(e: DirectoryEntry) -> bytes:
    name = encode_utf16(e.name)
    return _ID_BOTH.pack(*_common(e, len(name)), e.ea_size, 0, 0, _NO_SHORT_NAME, 0, e.file_id) + name


def _pack_id_full(e: DirectoryEntry) -> bytes:
    name = encode_utf16(e.name)
    return _ID_FULL.pack(*_common(e, len(name)), e.ea_size, 0, e.file_id) + name


def _pack_names(e: DirectoryEntry) -> bytes:
    name = encode_utf16(e.name)
    return _NAMES.pack(len(name)) + name


def _pack_posix(e: DirectoryEntry) -> bytes:
    if e.posix is None:
        raise ValueError("an entry of level 100 needs its PosixInfo")
    e.posix.name = e.name
    return e.posix.pack(with_name=True)


ENTRY_PACKERS: dict[int, Callable[[DirectoryEntry], bytes]] = {
    FileInfoClass.DIRECTORY: _pack_directory,
    FileInfoClass.FULL_DIRECTORY: _pack_full,
    FileInfoClass.BOTH_DIRECTORY: _pack_both,
    FileInfoClass.NAMES: _pack_names,
    FileInfoClass.ID_BOTH_DIRECTORY: _pack_id_both,
    FileInfoClass.ID_FULL_DIRECTORY: _pack_id_full,
    FileInfoClass.POSIX: _pack_posix,
}


class EntryList:
    """Chains packed entries, each on an 8-byte boundary, up to `limit` bytes."""

    __slots__ = ("_last", "_limit", "packed")

    def __init__(self, limit: int) -> None:
        self.packed = bytearray()
        self._limit = limit
        self._last = 0

    def append(self, entry: bytes, file_index: int = 0) -> bool:
        """False, and nothing added, when it does not fit any more."""
        packed = self.packed
        start = (len(packed) + 7) & ~7
        if start + _PREFIX.size + len(entry) > self._limit:
            return False
        if packed:
            packed += bytes(start - len(packed))
            _NAMES.pack_into(packed, self._last, start - self._last)
        packed += _PREFIX.pack(0, file_index)
        packed += entry
        self._last = start
        return True


def _name(one: memoryview, at: int, length: int) -> str:
    return decode_utf16(take(one, at, length, "directory entry: name"), "directory entry: name")


def _parse_fixed(layout: struct.Struct, *, with_ea: bool) -> Callable[[memoryview], DirectoryEntry]:
    def parse(one: memoryview) -> DirectoryEntry:
        c, a, w, ch, end, allocation, attributes, length, *rest = unpack(layout, one, 0, "directory entry")
        name = _name(one, layout.size, length)
        ea_size = rest[0] if with_ea else 0
        file_id = rest[-1] if layout in (_ID_BOTH, _ID_FULL) else 0
        return DirectoryEntry(name, c, a, w, ch, end, allocation, attributes, ea_size, file_id)

    return parse


def _parse_names(one: memoryview) -> DirectoryEntry:
    (length,) = unpack(_NAMES, one, 0, "directory entry")
    return DirectoryEntry(_name(one, _NAMES.size, length))


def _parse_posix(one: memoryview) -> DirectoryEntry:
    p = PosixInfo.parse(one)
    return DirectoryEntry(
        p.name,
        p.creation_time,
        p.last_access_time,
        p.last_write_time,
        p.change_time,
        p.end_of_file,
        p.allocation_size,
        p.file_attributes,
        p.reparse_tag,
        p.inode,
        p,
    )


_PARSERS: dict[int, Callable[[memoryview], DirectoryEntry]] = {
    FileInfoClass.DIRECTORY: _parse_fixed(_DIRECTORY, with_ea=False),
    FileInfoClass.FULL_DIRECTORY: _parse_fixed(_FULL, with_ea=True),
    FileInfoClass.BOTH_DIRECTORY: _parse_fixed(_BOTH, with_ea=True),
    FileInfoClass.NAMES: _parse_names,
    FileInfoClass.ID_BOTH_DIRECTORY: _parse_fixed(_ID_BOTH, with_ea=True),
    FileInfoClass.ID_FULL_DIRECTORY: _parse_fixed(_ID_FULL, with_ea=True),
    FileInfoClass.POSIX: _parse_posix,
}


def parse_entries(info_class: int, data: memoryview) -> Iterator[DirectoryEntry]:
    """The entries of one response, "." and ".." among them where the server sends them."""
    parse = _PARSERS[info_class]
    at = 0
    while data:
        next_, _ = unpack(_PREFIX, data, at, "directory entry")
        if next_ and (next_ < _PREFIX.size or at + next_ > len(data)):
            raise SmbProtocolError("directory entry: bad NextEntryOffset")
        yield parse(data[at + _PREFIX.size : at + next_ if next_ else len(data)])
        if not next_:
            return
        at += next_
