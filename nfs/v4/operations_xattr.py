"""Extended attributes (RFC 8276)."""

from __future__ import annotations

from typing import Annotated

from quicfs.nfs.v4.const import Op, SetxattrOption
from quicfs.nfs.v4.operation import Operation
from quicfs.nfs.v4.types import LIST_LIMIT, ChangeInfo, Component
from quicfs.nfs.xdr import Array, Opaque, Struct, Uint32, Uint64, struct

XattrValue = Annotated[bytes, Opaque()]


@struct
class GetxattrArgs(Struct):
    name: Component


@struct
class GetxattrResok(Struct):
    value: XattrValue


@struct
class SetxattrArgs(Struct):
    option: SetxattrOption
    key: Component
    value: XattrValue


@struct
class SetxattrResok(Struct):
    info: ChangeInfo


@struct
class ListxattrsArgs(Struct):
    """`maxcount`: bytes of the whole LISTXATTRS4resok (§8.4.3.2)."""

    cookie: Uint64
    maxcount: Uint32


@struct
class ListxattrsResok(Struct):
    cookie: Uint64
    names: Annotated[list[Component], Array(LIST_LIMIT)]
    eof: bool


@struct
class RemovexattrArgs(Struct):
    name: Component


@struct
class RemovexattrResok(Struct):
    info: ChangeInfo


OPERATIONS = (
    Operation(Op.GETXATTR, GetxattrArgs, GetxattrResok, minor=2),
    Operation(Op.SETXATTR, SetxattrArgs, SetxattrResok, minor=2),
    Operation(Op.LISTXATTRS, ListxattrsArgs, ListxattrsResok, minor=2),
    Operation(Op.REMOVEXATTR, RemovexattrArgs, RemovexattrResok, minor=2),
)
