"""File attributes (RFC 8881 §5, RFC 7862 §12, RFC 8275, RFC 8276, RFC 9754): a bitmap and the values in number order.

A bitmap is an int with bit n for attribute n. Values are a dict, `Attributes`. Times are nanoseconds since the Unix
epoch as everywhere in quicfs; of TIME_ACCESS_SET and TIME_MODIFY_SET, None is the server's own clock.

Combinations of attributes that come again and again get a packing and an unpacking function of their own, compiled like
those of structures.
"""

from __future__ import annotations

import struct as _struct
from collections.abc import Iterable, Iterator, Mapping
from enum import IntEnum
from typing import Annotated, Any, Final

from quicfs.nfs.v4.const import ChangeAttrType, FileType, Nfs4Error, Stat
from quicfs.nfs.v4.types import (
    LIST_LIMIT,
    Ace,
    Acl41,
    Bitmap,
    ChangePolicy,
    FileHandle,
    Fsid,
    FsLocations,
    FsLocationsInfo,
    FsStatus,
    LayoutHint,
    ModeMasked,
    ModeUmask,
    OpenArguments,
    RetentionGet,
    RetentionSet,
    SecLabel,
    SpecData,
    Text,
    ThresholdItem,
    pack_bitmap,
    unpack_bitmap,
)
from quicfs.nfs.xdr import Array, Codec, Inline, Packer, Uint32, Uint64, Unpacker, XdrError, codec
from quicfs.nfs.xdr.compiler import compile_codec
from quicfs.nfs.xdr.notes import Pack, Unpack

__all__ = [
    "KNOWN",
    "Attribute",
    "Attributes",
    "Fattr",
    "PackedFattr",
    "bitmap",
    "members",
    "pack_bitmap",
    "pack_fattr",
    "unpack_bitmap",
    "unpack_fattr",
]


class Attribute(IntEnum):
    SUPPORTED_ATTRS = 0
    TYPE = 1
    FH_EXPIRE_TYPE = 2
    CHANGE = 3
    SIZE = 4
    LINK_SUPPORT = 5
    SYMLINK_SUPPORT = 6
    NAMED_ATTR = 7
    FSID = 8
    UNIQUE_HANDLES = 9
    LEASE_TIME = 10
    RDATTR_ERROR = 11
    ACL = 12
    ACLSUPPORT = 13
    ARCHIVE = 14
    CANSETTIME = 15
    CASE_INSENSITIVE = 16
    CASE_PRESERVING = 17
    CHOWN_RESTRICTED = 18
    FILEHANDLE = 19
    FILEID = 20
    FILES_AVAIL = 21
    FILES_FREE = 22
    FILES_TOTAL = 23
    FS_LOCATIONS = 24
    HIDDEN = 25
    HOMOGENEOUS = 26
    MAXFILESIZE = 27
    MAXLINK = 28
    MAXNAME = 29
    MAXREAD = 30
    MAXWRITE = 31
    MIMETYPE = 32
    MODE = 33
    NO_TRUNC = 34
    NUMLINKS = 35
    OWNER = 36
    OWNER_GROUP = 37
    QUOTA_AVAIL_HARD = 38
    QUOTA_AVAIL_SOFT = 39
    QUOTA_USED = 40
    RAWDEV = 41
    SPACE_AVAIL = 42
    SPACE_FREE = 43
    SPACE_TOTAL = 44
    SPACE_USED = 45
    SYSTEM = 46
    TIME_ACCESS = 47
    TIME_ACCESS_SET = 48
    TIME_BACKUP = 49
    TIME_CREATE = 50
    TIME_DELTA = 51
    TIME_METADATA = 52
    TIME_MODIFY = 53
    TIME_MODIFY_SET = 54
    MOUNTED_ON_FILEID = 55
    DIR_NOTIF_DELAY = 56
    DIRENT_NOTIF_DELAY = 57
    DACL = 58
    SACL = 59
    CHANGE_POLICY = 60
    FS_STATUS = 61
    FS_LAYOUT_TYPES = 62
    LAYOUT_HINT = 63
    LAYOUT_TYPES = 64
    LAYOUT_BLKSIZE = 65
    LAYOUT_ALIGNMENT = 66
    FS_LOCATIONS_INFO = 67
    MDSTHRESHOLD = 68
    RETENTION_GET = 69
    RETENTION_SET = 70
    RETENTEVT_GET = 71
    RETENTEVT_SET = 72
    RETENTION_HOLD = 73
    MODE_SET_MASKED = 74
    SUPPATTR_EXCLCREAT = 75
    FS_CHARSET_CAP = 76
    CLONE_BLKSIZE = 77
    SPACE_FREED = 78
    CHANGE_ATTR_TYPE = 79
    SEC_LABEL = 80
    MODE_UMASK = 81
    XATTR_SUPPORT = 82
    OFFLINE = 83
    TIME_DELEG_ACCESS = 84
    TIME_DELEG_MODIFY = 85
    OPEN_ARGUMENTS = 86


A = Attribute
Attributes = dict[Attribute, Any]

# --- times as nanoseconds

_SECOND: Final = 1_000_000_000


def _bad_time(nseconds: int) -> int:
    raise Nfs4Error(Stat.INVAL, f"{nseconds} nanoseconds")  # RFC 8881 §3.3.1


_Time = Annotated[
    int,
    Inline(
        ("q", "I"),
        (f"{{}} // {_SECOND}", f"{{}} % {_SECOND}"),
        f"{{0}} * {_SECOND} + {{1}} if {{1}} < {_SECOND} else bad_time({{1}})",
        {"bad_time": _bad_time},
    ),
]
_pack_time, _unpack_time = codec(_Time)


def _pack_settime(ns: int | None, packer: Packer) -> None:
    packer.uint32(ns is not None)
    if ns is not None:
        _pack_time(ns, packer)


def _unpack_settime(unpacker: Unpacker) -> int | None:
    how = unpacker.uint32()
    if how > 1:
        raise XdrError(f"{how} is no time_how4")
    return int(_unpack_time(unpacker)) if how else None


_SetTime = Annotated[int, Codec(_pack_settime, _unpack_settime)]
_Aces = Annotated[list[Ace], Array(LIST_LIMIT)]
_Numbers = Annotated[list[Uint32], Array(LIST_LIMIT)]
_Thresholds = Annotated[list[ThresholdItem], Array(LIST_LIMIT)]

TYPES: Final[dict[Attribute, Any]] = {
    A.SUPPORTED_ATTRS: Bitmap,
    A.TYPE: FileType,
    A.FH_EXPIRE_TYPE: Uint32,
    A.CHANGE: Uint64,
    A.SIZE: Uint64,
    A.LINK_SUPPORT: bool,
    A.SYMLINK_SUPPORT: bool,
    A.NAMED_ATTR: bool,
    A.FSID: Fsid,
    A.UNIQUE_HANDLES: bool,
    A.LEASE_TIME: Uint32,
    A.RDATTR_ERROR: Stat,
    A.ACL: _Aces,
    A.ACLSUPPORT: Uint32,
    A.ARCHIVE: bool,
    A.CANSETTIME: bool,
    A.CASE_INSENSITIVE: bool,
    A.CASE_PRESERVING: bool,
    A.CHOWN_RESTRICTED: bool,
    A.FILEHANDLE: FileHandle,
    A.FILEID: Uint64,
    A.FILES_AVAIL: Uint64,
    A.FILES_FREE: Uint64,
    A.FILES_TOTAL: Uint64,
    A.FS_LOCATIONS: FsLocations,
    A.HIDDEN: bool,
    A.HOMOGENEOUS: bool,
    A.MAXFILESIZE: Uint64,
    A.MAXLINK: Uint32,
    A.MAXNAME: Uint32,
    A.MAXREAD: Uint64,
    A.MAXWRITE: Uint64,
    A.MIMETYPE: Text,
    A.MODE: Uint32,
    A.NO_TRUNC: bool,
    A.NUMLINKS: Uint32,
    A.OWNER: Text,
    A.OWNER_GROUP: Text,
    A.QUOTA_AVAIL_HARD: Uint64,
    A.QUOTA_AVAIL_SOFT: Uint64,
    A.QUOTA_USED: Uint64,
    A.RAWDEV: SpecData,
    A.SPACE_AVAIL: Uint64,
    A.SPACE_FREE: Uint64,
    A.SPACE_TOTAL: Uint64,
    A.SPACE_USED: Uint64,
    A.SYSTEM: bool,
    A.TIME_ACCESS: _Time,
    A.TIME_ACCESS_SET: _SetTime,
    A.TIME_BACKUP: _Time,
    A.TIME_CREATE: _Time,
    A.TIME_DELTA: _Time,
    A.TIME_METADATA: _Time,
    A.TIME_MODIFY: _Time,
    A.TIME_MODIFY_SET: _SetTime,
    A.MOUNTED_ON_FILEID: Uint64,
    A.DIR_NOTIF_DELAY: _Time,
    A.DIRENT_NOTIF_DELAY: _Time,
    A.DACL: Acl41,
    A.SACL: Acl41,
    A.CHANGE_POLICY: ChangePolicy,
    A.FS_STATUS: FsStatus,
    A.FS_LAYOUT_TYPES: _Numbers,
    A.LAYOUT_HINT: LayoutHint,
    A.LAYOUT_TYPES: _Numbers,
    A.LAYOUT_BLKSIZE: Uint32,
    A.LAYOUT_ALIGNMENT: Uint32,
    A.FS_LOCATIONS_INFO: FsLocationsInfo,
    A.MDSTHRESHOLD: _Thresholds,
    A.RETENTION_GET: RetentionGet,
    A.RETENTION_SET: RetentionSet,
    A.RETENTEVT_GET: RetentionGet,
    A.RETENTEVT_SET: RetentionSet,
    A.RETENTION_HOLD: Uint64,
    A.MODE_SET_MASKED: ModeMasked,
    A.SUPPATTR_EXCLCREAT: Bitmap,
    A.FS_CHARSET_CAP: Uint32,
    A.CLONE_BLKSIZE: Uint32,
    A.SPACE_FREED: Uint64,
    A.CHANGE_ATTR_TYPE: ChangeAttrType,
    A.SEC_LABEL: SecLabel,
    A.MODE_UMASK: ModeUmask,
    A.XATTR_SUPPORT: bool,
    A.OFFLINE: bool,
    A.TIME_DELEG_ACCESS: _Time,
    A.TIME_DELEG_MODIFY: _Time,
    A.OPEN_ARGUMENTS: OpenArguments,
}


def bitmap(attributes: Iterable[int]) -> int:
    mask = 0
    for attribute in attributes:
        mask |= 1 << attribute
    return mask


def members(mask: int) -> Iterator[Attribute]:
    """The attributes of a bitmap that we know, in number order."""
    mask &= KNOWN
    while mask:
        low = mask & -mask
        yield _BY_BIT[low]
        mask ^= low


KNOWN: Final = bitmap(Attribute)
_BY_BIT: Final = {1 << attribute: attribute for attribute in Attribute}

# --- fattr4

COMPILE_AFTER: Final = 8  # uses of a combination before it gets functions of its own
MAX_COMPILED: Final = 512  # of these; peers choose the combinations

_CODECS: Final = {attribute: codec(hint) for attribute, hint in TYPES.items()}
_packing: Final[dict[tuple[Attribute, ...], tuple[bytes, Pack]]] = {}
_unpacking: Final[dict[int, Unpack]] = {}
_seen: Final[dict[object, int]] = {}
_UINT32: Final = _struct.Struct(">I")


class PackedFattr(bytes):
    """A fattr4 as it travels; usable wherever a dict is packed."""

    __slots__ = ()

    @classmethod
    def of(cls, values: Mapping[Attribute, Any]) -> PackedFattr:
        packer = Packer()
        pack_fattr(values, packer)
        return cls(packer.buffer)


def pack_fattr(values: Mapping[Attribute, Any] | PackedFattr, packer: Packer) -> None:
    if type(values) is PackedFattr:
        packer.buffer += values
        return
    header, pack = _packing.get(tuple(values)) or _packing_of(tuple(values))  # type: ignore[arg-type]
    buffer = packer.buffer
    buffer += header
    start = len(buffer)
    pack(values, packer)
    _UINT32.pack_into(buffer, start - 4, len(buffer) - start)


def unpack_fattr(unpacker: Unpacker) -> Attributes:
    """XdrError if the values are not what the bitmap says, Nfs4Error(ATTRNOTSUPP) if it names what no RFC does."""
    mask = unpack_bitmap(unpacker)
    end = unpacker.uint32() + unpacker.position
    if end > unpacker.size:
        raise XdrError("the message ends too early")
    if mask & ~KNOWN:
        unpacker.position = end
        raise Nfs4Error(Stat.ATTRNOTSUPP, f"attributes {mask & ~KNOWN:#x}")
    unpack = _unpacking.get(mask) or _unpacking_of(mask)
    values: Attributes = unpack(unpacker)
    if unpacker.position != end:
        raise XdrError("the attributes are not as long as they should be")
    return values


Fattr = Annotated[Attributes, Codec(pack_fattr, unpack_fattr)]


def _packing_of(attributes: tuple[Attribute, ...]) -> tuple[bytes, Pack]:
    packer = Packer()
    pack_bitmap(bitmap(attributes), packer)
    packer.uint32(0)
    header = bytes(packer.buffer)
    if _comes_often(attributes) and len(_packing) < MAX_COMPILED:
        _packing[attributes] = header, _compile(attributes)[0]
        return _packing[attributes]
    codecs = [(attribute, _CODECS[attribute][0]) for attribute in sorted(attributes)]

    def pack(values: Attributes, packer: Packer) -> None:
        for attribute, pack_one in codecs:
            pack_one(values[attribute], packer)

    return header, pack


def _unpacking_of(mask: int) -> Unpack:
    attributes = tuple(members(mask))
    if _comes_often(mask) and len(_unpacking) < MAX_COMPILED:
        _unpacking[mask] = _compile(attributes)[1]
        return _unpacking[mask]
    return lambda unpacker: {attribute: _CODECS[attribute][1](unpacker) for attribute in attributes}


def _comes_often(key: object) -> bool:
    times = _seen.get(key, 0) + 1
    if len(_seen) >= 4 * MAX_COMPILED:
        _seen.clear()
    _seen[key] = times
    return times >= COMPILE_AFTER


def _compile(attributes: Iterable[Attribute]) -> tuple[Pack, Unpack]:
    """Functions for the values alone, from and to a dict."""
    space = {f"A{attribute:d}": attribute for attribute in sorted(attributes)}
    return compile_codec(
        "fattr4",
        [(f"v{attribute:d}", f"value[{name}]", TYPES[attribute]) for name, attribute in space.items()],
        lambda made: "{" + ", ".join(f"{name}: {it}" for name, it in zip(space, made, strict=True)) + "}",
        dict(space),
    )
