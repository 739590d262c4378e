"""Every operation of NFSv4.1 and 4.2, in one table. The structures are in the `operations_*` next to this file."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import chain
from types import MappingProxyType
from typing import Final

from quicfs.nfs.v4 import (
    operations_directories,
    operations_files,
    operations_io,
    operations_open,
    operations_pnfs,
    operations_sessions,
    operations_xattr,
)
from quicfs.nfs.v4.const import CbOp, Op
from quicfs.nfs.v4.operation import Operation, table

__all__ = ["OPERATIONS", "Operation"]

_FAMILIES: Final = (
    operations_directories,
    operations_files,
    operations_io,
    operations_open,
    operations_pnfs,
    operations_sessions,
    operations_xattr,
)

OPERATIONS: Final[Mapping[Op | CbOp, Operation]] = MappingProxyType(
    table(chain([Operation(Op.ILLEGAL)], *(family.OPERATIONS for family in _FAMILIES)))
)
"""ILLEGAL is there for its result: no call names it."""
