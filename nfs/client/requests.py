"""Operations as they are asked for again and again."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from quicfs.nfs.client.attributes import ATTR
from quicfs.nfs.client.channel import Operation
from quicfs.nfs.client.nodes import NfsNode
from quicfs.nfs.v4.attributes import Attribute
from quicfs.nfs.v4.const import Op
from quicfs.nfs.v4.operations_directories import LookupArgs
from quicfs.nfs.v4.operations_files import GetattrArgs, PutfhArgs

__all__ = [
    "CHANGE",
    "GETATTR",
    "GETFH",
    "LOOKUPP",
    "PUTROOTFH",
    "READLINK",
    "RESTOREFH",
    "SAVEFH",
    "lookups",
    "put",
]

GETATTR: Final[Operation] = (Op.GETATTR, GetattrArgs(ATTR))
CHANGE: Final[Operation] = (Op.GETATTR, GetattrArgs(1 << Attribute.CHANGE))
GETFH: Final[Operation] = (Op.GETFH, None)
SAVEFH: Final[Operation] = (Op.SAVEFH, None)
RESTOREFH: Final[Operation] = (Op.RESTOREFH, None)
PUTROOTFH: Final[Operation] = (Op.PUTROOTFH, None)
LOOKUPP: Final[Operation] = (Op.LOOKUPP, None)
READLINK: Final[Operation] = (Op.READLINK, None)


def put(node: NfsNode) -> Operation:
    return Op.PUTFH, PutfhArgs(node.fh)


def lookups(names: Sequence[str]) -> list[Operation]:
    return [(Op.LOOKUP, LookupArgs(name)) for name in names]
