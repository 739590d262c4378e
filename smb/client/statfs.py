"""Sizes of the server's file system."""

from __future__ import annotations

from typing import Final

from quicfs.smb.client.operation import Answer, Operation, query
from quicfs.smb.fscc.classes import FsInfoClass
from quicfs.smb.fscc.filesystem import FsAttributeInfo, FsAttributes, FsFullSizeInfo
from quicfs.smb.fscc.posix import PosixFsInfo
from quicfs.smb.messages.info import InfoType
from quicfs.smb.messages.output import parse_output
from quicfs.vfs.api import StatFs

__all__ = ["statfs_from", "statfs_query"]

_MANY: Final = 1 << 32  # files, where the server does not count them
_NAME_MAX: Final = 255


def statfs_query(*, posix: bool) -> list[Operation]:
    size = FsInfoClass.POSIX if posix else FsInfoClass.FULL_SIZE
    return [
        query(size, kind=InfoType.FILESYSTEM, length=128),
        query(FsInfoClass.ATTRIBUTE, kind=InfoType.FILESYSTEM, length=1024),
    ]


def statfs_from(answers: list[Answer], at: int, *, posix: bool) -> StatFs:
    data = parse_output(answers[at].message)
    attributes = FsAttributeInfo.parse(parse_output(answers[at + 1].message))
    read_only = bool(attributes.attributes & FsAttributes.READ_ONLY_VOLUME)
    # Windows counts UTF-16 units, Linux bytes; both stop at 255.
    name_max = min(attributes.maximum_component_length, _NAME_MAX) or _NAME_MAX
    if posix:
        info = PosixFsInfo.parse(data)
        block = info.block_size or 4096
        files, files_free = info.total_files, info.files_free
        blocks = (info.total_blocks, info.blocks_free, info.blocks_available)
    else:
        full = FsFullSizeInfo.parse(data)
        block = full.sectors_per_unit * full.bytes_per_sector or 4096
        files = files_free = _MANY
        blocks = (full.total, full.available, full.caller_available)
    return StatFs(block, *blocks, files, files_free, name_max, read_only)
