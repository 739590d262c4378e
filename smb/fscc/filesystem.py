"""File system information classes ([MS-FSCC] §2.5)."""

from __future__ import annotations

import enum
import struct
from dataclasses import dataclass

from quicfs.smb.messages.wire import decode_utf16, encode_utf16, take, unpack

__all__ = [
    "FsAttributeInfo",
    "FsAttributes",
    "FsFullSizeInfo",
    "FsSizeInfo",
    "FsVolumeInfo",
    "pack_device",
    "pack_object_id",
    "pack_sector_size",
]


class FsAttributes(enum.IntFlag):
    """§2.5.1."""

    CASE_SENSITIVE_SEARCH = 0x00000001
    CASE_PRESERVED_NAMES = 0x00000002
    UNICODE_ON_DISK = 0x00000004
    PERSISTENT_ACLS = 0x00000008
    FILE_COMPRESSION = 0x00000010
    SUPPORTS_SPARSE_FILES = 0x00000040
    SUPPORTS_REPARSE_POINTS = 0x00000080
    READ_ONLY_VOLUME = 0x00080000
    SUPPORTS_HARD_LINKS = 0x00400000
    SUPPORTS_OPEN_BY_FILE_ID = 0x01000000


_VOLUME = struct.Struct("<QIIBx")
_SIZE = struct.Struct("<QQII")
_FULL_SIZE = struct.Struct("<QQQII")
_DEVICE = struct.Struct("<II")
_ATTRIBUTE = struct.Struct("<IiI")
_SECTOR = struct.Struct("<IIIIIII")


@dataclass(slots=True)
class FsVolumeInfo:
    """§2.5.9."""

    creation_time: int
    serial_number: int
    label: str

    @classmethod
    def parse(cls, data: memoryview) -> FsVolumeInfo:
        created, serial, length, _ = unpack(_VOLUME, data, 0, "FileFsVolumeInformation")
        label = take(data, _VOLUME.size, length, "FileFsVolumeInformation: label")
        return cls(created, serial, decode_utf16(label, "FileFsVolumeInformation: label"))

    def pack(self) -> bytes:
        label = encode_utf16(self.label)
        return _VOLUME.pack(self.creation_time, self.serial_number, len(label), 0) + label


@dataclass(slots=True)
class FsSizeInfo:
    """§2.5.8: in allocation units."""

    total: int
    available: int
    sectors_per_unit: int
    bytes_per_sector: int

    @classmethod
    def parse(cls, data: memoryview) -> FsSizeInfo:
        return cls(*unpack(_SIZE, data, 0, "FileFsSizeInformation"))

    def pack(self) -> bytes:
        return _SIZE.pack(self.total, self.available, self.sectors_per_unit, self.bytes_per_sector)


@dataclass(slots=True)
class FsFullSizeInfo:
    """§2.5.4: in allocation units; the first "available" is the caller's, the second the volume's."""

    total: int
    caller_available: int
    available: int
    sectors_per_unit: int
    bytes_per_sector: int

    @classmethod
    def parse(cls, data: memoryview) -> FsFullSizeInfo:
        return cls(*unpack(_FULL_SIZE, data, 0, "FileFsFullSizeInformation"))

    def pack(self) -> bytes:
        return _FULL_SIZE.pack(
            self.total, self.caller_available, self.available, self.sectors_per_unit, self.bytes_per_sector
        )


@dataclass(slots=True)
class FsAttributeInfo:
    """§2.5.1."""

    attributes: int
    maximum_component_length: int
    name: str

    @classmethod
    def parse(cls, data: memoryview) -> FsAttributeInfo:
        attributes, longest, length = unpack(_ATTRIBUTE, data, 0, "FileFsAttributeInformation")
        name = take(data, _ATTRIBUTE.size, length, "FileFsAttributeInformation: name")
        return cls(attributes, longest, decode_utf16(name, "FileFsAttributeInformation: name"))

    def pack(self) -> bytes:
        name = encode_utf16(self.name)
        return _ATTRIBUTE.pack(self.attributes, self.maximum_component_length, len(name)) + name


def pack_device(*, read_only: bool) -> bytes:
    """§2.5.10: a disk, remote and mounted."""
    return _DEVICE.pack(0x07, 0x20 | 0x10 | (0x02 if read_only else 0))


def pack_object_id(object_id: bytes) -> bytes:
    """§2.5.6: 16 bytes, and 48 that we have no use for."""
    return object_id + bytes(48)


def pack_sector_size(size: int) -> bytes:
    """§2.5.7: one size for all; alignment flags say that sectors and partition are aligned."""
    return _SECTOR.pack(size, size, size, size, 0x03, 0, 0)
