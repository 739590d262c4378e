"""Operations on directories and names (RFC 8881 §18)."""

from __future__ import annotations

import struct as _struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Final

from quicfs.nfs.v4.attributes import Attributes, Fattr, PackedFattr, pack_fattr
from quicfs.nfs.v4.const import FileType, Op
from quicfs.nfs.v4.operation import Operation
from quicfs.nfs.v4.types import (
    PATH_LIMIT,
    Bitmap,
    ChangeInfo,
    Component,
    LinkText,
    SpecData,
    Verifier,
)
from quicfs.nfs.xdr import (
    Chain,
    Codec,
    PackedChain,
    Packer,
    String,
    Struct,
    Uint32,
    Uint64,
    Unpacker,
    XdrError,
    codec,
    struct,
)
from quicfs.nfs.xdr.compiler import ENCODING
from quicfs.nfs.xdr.stream import PADDING

_pack_link, _unpack_link = codec(LinkText)


@dataclass(slots=True)
class CreateType:
    """createtype4. `type` is any number: the server says BADTYPE (§18.4.3)."""

    type: int
    linkdata: str = ""  # of FileType.LNK
    devdata: SpecData | None = None  # of BLK and CHR

    def pack(self, packer: Packer) -> None:
        packer.uint32(self.type)
        if self.type == FileType.LNK:
            _pack_link(self.linkdata, packer)
        elif self.type in (FileType.BLK, FileType.CHR):
            if self.devdata is None:
                raise XdrError("a device without numbers")
            self.devdata.pack(packer)

    @staticmethod
    def unpack(unpacker: Unpacker) -> CreateType:
        kind = unpacker.uint32()
        if kind == FileType.LNK:
            return CreateType(kind, linkdata=_unpack_link(unpacker))
        if kind in (FileType.BLK, FileType.CHR):
            return CreateType(kind, devdata=SpecData.unpack(unpacker))
        return CreateType(kind)


@struct
class CreateArgs(Struct):
    objtype: CreateType
    objname: Component
    createattrs: Fattr


@struct
class CreateResok(Struct):
    cinfo: ChangeInfo
    attrset: Bitmap


@struct
class LinkArgs(Struct):
    newname: Component


@struct
class LinkResok(Struct):
    cinfo: ChangeInfo


@struct
class LookupArgs(Struct):
    objname: Component


@struct
class ReadlinkResok(Struct):
    link: LinkText


@struct
class RemoveArgs(Struct):
    target: Component


@struct
class RemoveResok(Struct):
    cinfo: ChangeInfo


@struct
class RenameArgs(Struct):
    oldname: Component
    newname: Component


@struct
class RenameResok(Struct):
    source_cinfo: ChangeInfo
    target_cinfo: ChangeInfo


# --- READDIR


@struct
class ReaddirArgs(Struct):
    cookie: Uint64
    cookieverf: Verifier
    dircount: Uint32
    maxcount: Uint32
    attr_request: Bitmap


@struct
class Entry(Struct):
    cookie: Uint64
    name: Annotated[str, String(PATH_LIMIT)]
    attrs: Fattr


_ENTRY: Final = _struct.Struct(">IQI")


class PackedEntries(PackedChain):
    """Entries packed one by one as they are found, up to the bytes that a client asked for."""

    OVERHEAD: Final = 16  # of READDIR4resok beside the entries: verifier, end of the list, eof

    __slots__ = ()

    def __init__(self, maxcount: int) -> None:
        """`maxcount`: bytes of the whole READDIR4resok (§18.23.3)."""
        super().__init__(maxcount - self.OVERHEAD)

    def add(self, cookie: int, name: str, attrs: Attributes | PackedFattr) -> bool:
        """False if there is no room for this one; it is not added then."""
        buffer = self.packer.buffer
        before = len(buffer)
        raw = name.encode(ENCODING, "surrogateescape")
        buffer += _ENTRY.pack(1, cookie, len(raw))
        buffer += raw
        buffer += PADDING[len(raw) & 3]
        pack_fattr(attrs, self.packer)
        return self.fits(before)


_pack_list, _unpack_list = codec(Annotated[list[Entry], Chain()])


@struct
class ReaddirResok(Struct):
    """`entries` is a list when unpacked; PackedEntries will do as well when packed."""

    cookieverf: Verifier
    entries: Annotated[Sequence[Entry] | PackedEntries, Codec(PackedChain.or_list(_pack_list), _unpack_list)]
    eof: bool


OPERATIONS = (
    Operation(Op.CREATE, CreateArgs, CreateResok),
    Operation(Op.LINK, LinkArgs, LinkResok),
    Operation(Op.LOOKUP, LookupArgs),
    Operation(Op.LOOKUPP),
    Operation(Op.READDIR, ReaddirArgs, ReaddirResok),
    Operation(Op.READLINK, None, ReadlinkResok),
    Operation(Op.REMOVE, RemoveArgs, RemoveResok),
    Operation(Op.RENAME, RenameArgs, RenameResok),
)
