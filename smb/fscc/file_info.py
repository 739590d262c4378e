"""File information classes ([MS-FSCC] §2.4): what QUERY_INFO returns and SET_INFO takes."""

from __future__ import annotations

import enum
import struct
from collections.abc import Iterable
from dataclasses import dataclass

from quicfs.smb.errors import SmbProtocolError
from quicfs.smb.messages.wire import align8, decode_utf16, encode_utf16, take, unpack

__all__ = [
    "ALIGNMENT_BYTE",
    "AllInfo",
    "AttributeTagInfo",
    "BasicInfo",
    "DispositionFlags",
    "NetworkOpenInfo",
    "RenameInfo",
    "StandardInfo",
    "pack_name",
    "pack_streams",
    "pack_u32",
    "pack_u64",
    "parse_name",
    "parse_streams",
    "parse_u8",
    "parse_u32",
    "parse_u64",
]

_BASIC = struct.Struct("<QQQQI")  # FileBasicInformation ends with 4 reserved bytes
_RESERVED4 = bytes(4)
_STANDARD = struct.Struct("<QQI??H")
_NETWORK = struct.Struct("<QQQQQQII")
_TAG = struct.Struct("<II")
_RENAME = struct.Struct("<B7xQI")
_ALL_TAIL = struct.Struct("<QIIQII")  # Internal, Ea, Access, Position, Mode, Alignment
_STREAM = struct.Struct("<IIQQ")
_U32 = struct.Struct("<I")
_U64 = struct.Struct("<Q")
ALIGNMENT_BYTE = 0


@dataclass(slots=True)
class BasicInfo:
    """§2.4.7. FILETIMEs; when set: 0 leaves a time alone, -1 and -2 (as unsigned) only steer updates."""

    creation_time: int
    last_access_time: int
    last_write_time: int
    change_time: int
    file_attributes: int  # 0 when set: leave them

    @classmethod
    def parse(cls, data: memoryview) -> BasicInfo:
        return cls(*unpack(_BASIC, data, 0, "FileBasicInformation"))

    def pack(self) -> bytes:
        return (
            _BASIC.pack(
                self.creation_time,
                self.last_access_time,
                self.last_write_time,
                self.change_time,
                self.file_attributes,
            )
            + _RESERVED4
        )


@dataclass(slots=True)
class StandardInfo:
    """§2.4.47."""

    allocation_size: int
    end_of_file: int
    number_of_links: int
    delete_pending: bool
    directory: bool

    @classmethod
    def parse(cls, data: memoryview) -> StandardInfo:
        allocation, end, links, pending, directory, _ = unpack(_STANDARD, data, 0, "FileStandardInformation")
        return cls(allocation, end, links, pending, directory)

    def pack(self) -> bytes:
        return _STANDARD.pack(
            self.allocation_size,
            self.end_of_file,
            self.number_of_links,
            self.delete_pending,
            self.directory,
            0,
        )


@dataclass(slots=True)
class AllInfo:
    """§2.4.2."""

    basic: BasicInfo
    standard: StandardInfo
    file_id: int
    ea_size: int
    access: int
    position: int
    mode: int
    name: str

    @classmethod
    def parse(cls, data: memoryview) -> AllInfo:
        basic, standard = BasicInfo.parse(data), StandardInfo.parse(data[40:])
        file_id, ea, access, position, mode, _ = unpack(_ALL_TAIL, data, 64, "FileAllInformation")
        return cls(basic, standard, file_id, ea, access, position, mode, parse_name(data[96:]))

    def pack(self) -> bytes:
        tail = _ALL_TAIL.pack(
            self.file_id, self.ea_size, self.access, self.position, self.mode, ALIGNMENT_BYTE
        )
        return b"".join((self.basic.pack(), self.standard.pack(), tail, pack_name(self.name)))


@dataclass(slots=True)
class NetworkOpenInfo:
    """§2.4.34."""

    creation_time: int
    last_access_time: int
    last_write_time: int
    change_time: int
    allocation_size: int
    end_of_file: int
    file_attributes: int

    @classmethod
    def parse(cls, data: memoryview) -> NetworkOpenInfo:
        return cls(*unpack(_NETWORK, data, 0, "FileNetworkOpenInformation")[:7])

    def pack(self) -> bytes:
        return _NETWORK.pack(
            self.creation_time,
            self.last_access_time,
            self.last_write_time,
            self.change_time,
            self.allocation_size,
            self.end_of_file,
            self.file_attributes,
            0,
        )


@dataclass(slots=True)
class AttributeTagInfo:
    """§2.4.6."""

    file_attributes: int
    reparse_tag: int

    @classmethod
    def parse(cls, data: memoryview) -> AttributeTagInfo:
        return cls(*unpack(_TAG, data, 0, "FileAttributeTagInformation"))

    def pack(self) -> bytes:
        return _TAG.pack(self.file_attributes, self.reparse_tag)


@dataclass(slots=True)
class RenameInfo:
    """§2.4.42.2 and §2.4.27.2: FileRenameInformation and FileLinkInformation for SMB2 have one form.

    With FileRenameInformationEx the first byte holds flags, of which bit 0 means the same.
    """

    name: str  # from the share's root, backslashes between components
    replace_if_exists: bool = False

    @classmethod
    def parse(cls, data: memoryview) -> RenameInfo:
        flags, _, length = unpack(_RENAME, data, 0, "FileRenameInformation")
        name = take(data, _RENAME.size, length, "FileRenameInformation: name")
        return cls(decode_utf16(name, "FileRenameInformation: name"), bool(flags & 1))

    def pack(self) -> bytes:
        name = encode_utf16(self.name)
        packed = _RENAME.pack(self.replace_if_exists, 0, len(name)) + name
        return packed + bytes(max(0, 24 - len(packed)))  # Windows wants the whole fixed structure


class DispositionFlags(enum.IntFlag):
    """FileDispositionInformationEx, §2.4.12."""

    DELETE = 0x01
    POSIX_SEMANTICS = 0x02
    FORCE_IMAGE_SECTION_CHECK = 0x04
    ON_CLOSE = 0x08
    IGNORE_READONLY_ATTRIBUTE = 0x10


def pack_u32(value: int) -> bytes:
    return _U32.pack(value)


def pack_u64(value: int) -> bytes:
    return _U64.pack(value)


def parse_u8(data: memoryview, what: str) -> int:
    if not data:
        raise SmbProtocolError(f"{what}: truncated")
    return data[0]


def parse_u32(data: memoryview, what: str) -> int:
    value: int = unpack(_U32, data, 0, what)[0]
    return value


def parse_u64(data: memoryview, what: str) -> int:
    value: int = unpack(_U64, data, 0, what)[0]
    return value


def pack_name(name: str) -> bytes:
    """FileNameInformation and FileNormalizedNameInformation (§2.4.31, §2.4.36)."""
    encoded = encode_utf16(name)
    return _U32.pack(len(encoded)) + encoded


def parse_name(data: memoryview) -> str:
    (length,) = unpack(_U32, data, 0, "FileNameInformation")
    return decode_utf16(take(data, 4, length, "FileNameInformation"), "FileNameInformation")


def pack_streams(streams: Iterable[tuple[str, int, int]]) -> bytes:
    """FileStreamInformation (§2.4.49): name such as `::$DATA`, size, allocation."""
    packed = bytearray()
    last = 0
    for name, size, allocation in streams:
        start = align8(len(packed))
        if packed:
            packed += bytes(start - len(packed))
            _U32.pack_into(packed, last, start - last)
        encoded = encode_utf16(name)
        packed += _STREAM.pack(0, len(encoded), size, allocation) + encoded
        last = start
    return bytes(packed)


def parse_streams(data: memoryview) -> list[tuple[str, int, int]]:
    streams: list[tuple[str, int, int]] = []
    at = 0
    while data:
        next_, length, size, allocation = unpack(_STREAM, data, at, "FileStreamInformation")
        name = take(data, at + _STREAM.size, length, "FileStreamInformation: name")
        streams.append((decode_utf16(name, "FileStreamInformation: name"), size, allocation))
        if not next_:
            break
        if next_ < _STREAM.size:
            raise SmbProtocolError("FileStreamInformation: bad NextEntryOffset")
        at += next_
    return streams
