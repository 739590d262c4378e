"""XDR (RFC 4506): structures declared as in the RFCs' `.x` files, packing and unpacking compiled from that.

    @struct
    class ReadArgs(Struct):
        stateid: StateId
        offset: Uint64
        count: Uint32

makes a dataclass with slots, `pack(packer)` and `unpack(unpacker)`; runs of fixed fields, those of nested structures
included, become one `struct.Struct`. What a field may be: the integer types below, `bool`, an IntEnum, another such
class, `X | None` (optional-data, and what the RFCs write as `x<1>`),
`Annotated[bytes, Opaque(limit)]`, `Annotated[bytes, Fixed(length)]`, `Annotated[memoryview, Payload(limit)]` (not
copied), `Annotated[str, String(limit)]` (names and paths: os.fsdecode of their bytes),
`Annotated[list[X], Array(limit)]`,
`Annotated[list[X], Chain(limit)]` (a linked list: each element says whether another follows, as directory entries do),
`Annotated[A | B | None, Switch(enum, {tag: class or None})]` for a union whose arms are told apart by their class,
`Annotated[X, Codec(pack, unpack)]` for what has functions of its own, and `Inline` for what is computed of fixed
fields.

Whatever a peer sent, unpacking ends with a value or with XdrError, and allocates in proportion to what it was sent.
"""

from __future__ import annotations

from quicfs.nfs.xdr.chain import PackedChain
from quicfs.nfs.xdr.compiler import Struct, codec, struct
from quicfs.nfs.xdr.notes import (
    Array,
    Chain,
    Codec,
    Fixed,
    Inline,
    Int32,
    Int64,
    Opaque,
    Payload,
    String,
    Switch,
    Uint32,
    Uint64,
)
from quicfs.nfs.xdr.stream import LARGE, Buffer, Packer, Unpacker, XdrError

__all__ = [
    "LARGE",
    "Array",
    "Buffer",
    "Chain",
    "Codec",
    "Fixed",
    "Inline",
    "Int32",
    "Int64",
    "Opaque",
    "PackedChain",
    "Packer",
    "Payload",
    "String",
    "Struct",
    "Switch",
    "Uint32",
    "Uint64",
    "Unpacker",
    "XdrError",
    "codec",
    "struct",
]
