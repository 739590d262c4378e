"""File system information at the server ([MS-SMB2] §3.3.5.20.2; [MS-FSCC] §2.5)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from quicfs.smb.errors import SmbError
from quicfs.smb.fscc import filesystem
from quicfs.smb.fscc.classes import FsInfoClass
from quicfs.smb.fscc.filesystem import FsAttributes
from quicfs.smb.fscc.posix import PosixFsInfo
from quicfs.smb.limits import MAX_IO_SIZE
from quicfs.smb.messages.info import QueryInfoRequest
from quicfs.smb.ntstatus import NtStatus
from quicfs.smb.server import attributes
from quicfs.smb.server.opens import FileOpen
from quicfs.smb.server.request import Request
from quicfs.vfs import StatFs

__all__ = ["answer"]

_SECTOR: Final = 512
# What clients take as the sign of a modern file system; nothing here depends on it.
_NAME: Final = "NTFS"
_ATTRIBUTES: Final = int(
    FsAttributes.CASE_SENSITIVE_SEARCH
    | FsAttributes.CASE_PRESERVED_NAMES
    | FsAttributes.UNICODE_ON_DISK
    | FsAttributes.PERSISTENT_ACLS
    | FsAttributes.SUPPORTS_SPARSE_FILES
    | FsAttributes.SUPPORTS_REPARSE_POINTS
    | FsAttributes.SUPPORTS_HARD_LINKS
)


def _units(found: StatFs) -> tuple[int, int]:
    """Sectors in an allocation unit, and bytes in a sector."""
    if found.block_size % _SECTOR:
        return 1, found.block_size
    return found.block_size // _SECTOR, _SECTOR


def _size(found: StatFs, open_: FileOpen) -> bytes:
    return filesystem.FsSizeInfo(found.blocks, found.blocks_available, *_units(found)).pack()


def _full_size(found: StatFs, open_: FileOpen) -> bytes:
    return filesystem.FsFullSizeInfo(
        found.blocks, found.blocks_available, found.blocks_free, *_units(found)
    ).pack()


def _device(found: StatFs, open_: FileOpen) -> bytes:
    return filesystem.pack_device(read_only=_read_only(found, open_))


def _attribute(found: StatFs, open_: FileOpen) -> bytes:
    flags = _ATTRIBUTES | (FsAttributes.READ_ONLY_VOLUME if _read_only(found, open_) else 0)
    return filesystem.FsAttributeInfo(flags, found.name_max, _NAME).pack()


def _read_only(found: StatFs, open_: FileOpen) -> bool:
    return found.read_only or open_.tree.disk.read_only


def _object_id(found: StatFs, open_: FileOpen) -> bytes:
    return filesystem.pack_object_id(open_.tree.disk_id.to_bytes(8, "little") * 2)


def _posix(found: StatFs, open_: FileOpen) -> bytes:
    return PosixFsInfo(
        MAX_IO_SIZE,
        found.block_size,
        found.blocks,
        found.blocks_free,
        found.blocks_available,
        found.files,
        found.files_free,
        open_.tree.disk_id,
    ).pack()


_CLASSES: Final[dict[int, tuple[Callable[[StatFs, FileOpen], bytes], int]]] = {
    FsInfoClass.SIZE: (_size, 24),
    FsInfoClass.DEVICE: (_device, 8),
    FsInfoClass.ATTRIBUTE: (_attribute, 12),
    FsInfoClass.FULL_SIZE: (_full_size, 32),
    FsInfoClass.OBJECT_ID: (_object_id, 64),
    FsInfoClass.POSIX: (_posix, 56),
}


async def answer(request: Request, asked: QueryInfoRequest, open_: FileOpen) -> tuple[bytes, int]:
    """The structure, and how many bytes of it must fit."""
    if asked.info_class == FsInfoClass.VOLUME:
        fs = open_.tree.fs
        created = attributes.times(await fs.getattr(fs.root))[0]
        serial = open_.tree.disk_id & 0xFFFFFFFF
        return filesystem.FsVolumeInfo(created, serial, open_.tree.disk.name).pack(), 18
    if asked.info_class == FsInfoClass.SECTOR_SIZE:
        return filesystem.pack_sector_size(_SECTOR), 28
    row = _CLASSES.get(asked.info_class)
    if row is None or (asked.info_class == FsInfoClass.POSIX and not request.connection.negotiation.posix):
        raise SmbError(NtStatus.INVALID_INFO_CLASS)
    write, fixed = row
    return write(await open_.tree.fs.statfs(), open_), fixed
