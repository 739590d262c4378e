"""The procedures of NFSv3 (RFC 1813 §3.3)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Final

from quicfs.nfs.v3.types import (
    CreateMode,
    DirOpArgs,
    Fattr,
    FileHandle,
    Filename,
    FileType,
    Path,
    Procedure,
    Sattr,
    SpecData,
    StableHow,
    Stat,
    Time,
    Verifier,
    WccData,
)
from quicfs.nfs.xdr import (
    Chain,
    Codec,
    PackedChain,
    Packer,
    Payload,
    Struct,
    Uint32,
    Uint64,
    Unpacker,
    XdrError,
    codec,
    struct,
)

PROGRAM: Final = 100003
VERSION: Final = 3


@struct
class FileArgs(Struct):
    """Of GETATTR, READLINK, FSSTAT, FSINFO and PATHCONF."""

    object: FileHandle


@struct
class Attributes(Struct):
    """What comes with a failure of those that read: post_op_attr."""

    attributes: Fattr | None


@struct
class GetattrOk(Struct):
    attributes: Fattr


@struct
class SetattrArgs(Struct):
    object: FileHandle
    new_attributes: Sattr
    guard: Time | None


@struct
class Wcc(Struct):
    """What comes with those that write."""

    wcc: WccData


@struct
class LookupOk(Struct):
    object: FileHandle
    obj_attributes: Fattr | None
    dir_attributes: Fattr | None


@struct
class AccessArgs(Struct):
    object: FileHandle
    access: Uint32


@struct
class AccessOk(Struct):
    attributes: Fattr | None
    access: Uint32


@struct
class ReadlinkOk(Struct):
    attributes: Fattr | None
    data: Path


@struct
class ReadArgs(Struct):
    file: FileHandle
    offset: Uint64
    count: Uint32


@struct
class ReadOk(Struct):
    attributes: Fattr | None
    count: Uint32
    eof: bool
    data: Annotated[memoryview | bytes, Payload()]


@struct
class WriteArgs(Struct):
    file: FileHandle
    offset: Uint64
    count: Uint32
    stable: StableHow
    data: Annotated[memoryview | bytes, Payload()]


@struct
class WriteOk(Struct):
    wcc: WccData
    count: Uint32
    committed: StableHow
    verf: Verifier


# --- making objects


@dataclass(slots=True)
class CreateHow:
    mode: CreateMode
    attributes: Sattr | None = None  # UNCHECKED, GUARDED
    verf: bytes = bytes(8)  # EXCLUSIVE

    def pack(self, packer: Packer) -> None:
        packer.uint32(self.mode)
        if self.mode is CreateMode.EXCLUSIVE:
            packer.fixed(self.verf)
        else:
            (self.attributes or Sattr()).pack(packer)

    @staticmethod
    def unpack(unpacker: Unpacker) -> CreateHow:
        number = unpacker.uint32()
        if number > CreateMode.EXCLUSIVE:
            raise XdrError(f"{number} is no createmode3")
        mode = CreateMode(number)
        if mode is CreateMode.EXCLUSIVE:
            return CreateHow(mode, verf=bytes(unpacker.take(8)))
        return CreateHow(mode, Sattr.unpack(unpacker))


@struct
class CreateArgs(Struct):
    where: DirOpArgs
    how: CreateHow


@struct
class CreateOk(Struct):
    """Of CREATE, MKDIR, SYMLINK and MKNOD."""

    object: FileHandle | None
    attributes: Fattr | None
    dir_wcc: WccData


@struct
class MkdirArgs(Struct):
    where: DirOpArgs
    attributes: Sattr


@struct
class SymlinkArgs(Struct):
    where: DirOpArgs
    attributes: Sattr
    data: Path


@dataclass(slots=True)
class MknodData:
    """mknoddata3. `type` is any number: the server says BADTYPE."""

    type: int
    attributes: Sattr | None = None
    spec: SpecData | None = None  # CHR, BLK

    def pack(self, packer: Packer) -> None:
        packer.uint32(self.type)
        if self.type in _SPECIAL:
            (self.attributes or Sattr()).pack(packer)
        if self.type in _DEVICES:
            (self.spec or SpecData(0, 0)).pack(packer)

    @staticmethod
    def unpack(unpacker: Unpacker) -> MknodData:
        number = unpacker.uint32()
        attributes = Sattr.unpack(unpacker) if number in _SPECIAL else None
        return MknodData(number, attributes, SpecData.unpack(unpacker) if number in _DEVICES else None)


_DEVICES: Final = (FileType.CHR, FileType.BLK)
_SPECIAL: Final = (*_DEVICES, FileType.SOCK, FileType.FIFO)


@struct
class MknodArgs(Struct):
    where: DirOpArgs
    what: MknodData


@struct
class RenameArgs(Struct):
    source: DirOpArgs
    target: DirOpArgs


@struct
class RenameRes(Struct):
    source_wcc: WccData
    target_wcc: WccData


@struct
class LinkArgs(Struct):
    file: FileHandle
    link: DirOpArgs


@struct
class LinkRes(Struct):
    attributes: Fattr | None
    dir_wcc: WccData


# --- directories


@struct
class ReaddirArgs(Struct):
    dir: FileHandle
    cookie: Uint64
    cookieverf: Verifier
    count: Uint32


@struct
class ReaddirplusArgs(Struct):
    dir: FileHandle
    cookie: Uint64
    cookieverf: Verifier
    dircount: Uint32
    maxcount: Uint32


@struct
class Entry(Struct):
    fileid: Uint64
    name: Filename
    cookie: Uint64


@struct
class EntryPlus(Struct):
    fileid: Uint64
    name: Filename
    cookie: Uint64
    attributes: Fattr | None
    handle: FileHandle | None


READDIR_OVERHEAD: Final = 4 + 84 + 8 + 4 + 4
"""Bytes of the results of READDIR and READDIRPLUS beside the entries, attributes of the directory included."""

_pack_entries, _unpack_entries = codec(Annotated[list[Entry], Chain()])
_pack_plus, _unpack_plus = codec(Annotated[list[EntryPlus], Chain()])


@struct
class ReaddirOk(Struct):
    """`entries` is a list when unpacked; a PackedChain will do as well when packed."""

    attributes: Fattr | None
    cookieverf: Verifier
    entries: Annotated[
        Sequence[Entry] | PackedChain, Codec(PackedChain.or_list(_pack_entries), _unpack_entries)
    ]
    eof: bool


@struct
class ReaddirplusOk(Struct):
    attributes: Fattr | None
    cookieverf: Verifier
    entries: Annotated[
        Sequence[EntryPlus] | PackedChain, Codec(PackedChain.or_list(_pack_plus), _unpack_plus)
    ]
    eof: bool


# --- file systems


@struct
class FsstatOk(Struct):
    attributes: Fattr | None
    tbytes: Uint64
    fbytes: Uint64
    abytes: Uint64
    tfiles: Uint64
    ffiles: Uint64
    afiles: Uint64
    invarsec: Uint32


@struct
class FsinfoOk(Struct):
    """`properties`: bits of FsProperty."""

    attributes: Fattr | None
    rtmax: Uint32
    rtpref: Uint32
    rtmult: Uint32
    wtmax: Uint32
    wtpref: Uint32
    wtmult: Uint32
    dtpref: Uint32
    maxfilesize: Uint64
    time_delta: Time
    properties: Uint32


@struct
class PathconfOk(Struct):
    attributes: Fattr | None
    linkmax: Uint32
    name_max: Uint32
    no_trunc: bool
    chown_restricted: bool
    case_insensitive: bool
    case_preserving: bool


@struct
class CommitArgs(Struct):
    file: FileHandle
    offset: Uint64
    count: Uint32


@struct
class CommitOk(Struct):
    wcc: WccData
    verf: Verifier


_STATUS: Final = {int(status): status for status in Stat}

PROCEDURES: Final = {
    row.number: row
    for row in (
        Procedure(0, "NULL"),
        Procedure(1, "GETATTR", FileArgs, GetattrOk, None, _STATUS),
        Procedure(2, "SETATTR", SetattrArgs, Wcc, Wcc, _STATUS),
        Procedure(3, "LOOKUP", DirOpArgs, LookupOk, Attributes, _STATUS),
        Procedure(4, "ACCESS", AccessArgs, AccessOk, Attributes, _STATUS),
        Procedure(5, "READLINK", FileArgs, ReadlinkOk, Attributes, _STATUS),
        Procedure(6, "READ", ReadArgs, ReadOk, Attributes, _STATUS),
        Procedure(7, "WRITE", WriteArgs, WriteOk, Wcc, _STATUS),
        Procedure(8, "CREATE", CreateArgs, CreateOk, Wcc, _STATUS),
        Procedure(9, "MKDIR", MkdirArgs, CreateOk, Wcc, _STATUS),
        Procedure(10, "SYMLINK", SymlinkArgs, CreateOk, Wcc, _STATUS),
        Procedure(11, "MKNOD", MknodArgs, CreateOk, Wcc, _STATUS),
        Procedure(12, "REMOVE", DirOpArgs, Wcc, Wcc, _STATUS),
        Procedure(13, "RMDIR", DirOpArgs, Wcc, Wcc, _STATUS),
        Procedure(14, "RENAME", RenameArgs, RenameRes, RenameRes, _STATUS),
        Procedure(15, "LINK", LinkArgs, LinkRes, LinkRes, _STATUS),
        Procedure(16, "READDIR", ReaddirArgs, ReaddirOk, Attributes, _STATUS),
        Procedure(17, "READDIRPLUS", ReaddirplusArgs, ReaddirplusOk, Attributes, _STATUS),
        Procedure(18, "FSSTAT", FileArgs, FsstatOk, Attributes, _STATUS),
        Procedure(19, "FSINFO", FileArgs, FsinfoOk, Attributes, _STATUS),
        Procedure(20, "PATHCONF", FileArgs, PathconfOk, Attributes, _STATUS),
        Procedure(21, "COMMIT", CommitArgs, CommitOk, Wcc, _STATUS),
    )
}
