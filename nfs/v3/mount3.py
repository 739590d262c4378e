"""MOUNT version 3 (RFC 1813 §5): from the path of an export to its first file handle."""

from __future__ import annotations

from enum import IntEnum
from typing import Annotated, Final

from quicfs.nfs.v3.types import FileHandle, Procedure
from quicfs.nfs.xdr import Array, Chain, String, Struct, Uint32, struct

PROGRAM: Final = 100005
VERSION: Final = 3

LIST_LIMIT: Final = 65536
DirPath = Annotated[str, String(1024)]
Name = Annotated[str, String(255)]


class MountStat(IntEnum):
    OK = 0
    PERM = 1
    NOENT = 2
    IO = 5
    ACCES = 13
    NOTDIR = 20
    INVAL = 22
    NAMETOOLONG = 63
    NOTSUPP = 10004
    SERVERFAULT = 10006


@struct
class PathArgs(Struct):
    path: DirPath


@struct
class MntOk(Struct):
    fhandle: FileHandle
    auth_flavors: Annotated[list[Uint32], Array(LIST_LIMIT)]


@struct
class Mounted(Struct):
    hostname: Name
    directory: DirPath


@struct
class DumpRes(Struct):
    mounts: Annotated[list[Mounted], Chain(LIST_LIMIT)]


@struct
class Group(Struct):
    name: Name


@struct
class ExportNode(Struct):
    directory: DirPath
    groups: Annotated[list[Group], Chain(LIST_LIMIT)]


@struct
class ExportRes(Struct):
    exports: Annotated[list[ExportNode], Chain(LIST_LIMIT)]


PROCEDURES: Final = {
    row.number: row
    for row in (
        Procedure(0, "NULL"),
        Procedure(1, "MNT", PathArgs, MntOk, None, {int(status): status for status in MountStat}),
        Procedure(2, "DUMP", None, DumpRes),
        Procedure(3, "UMNT", PathArgs),
        Procedure(4, "UMNTALL"),
        Procedure(5, "EXPORT", None, ExportRes),
    )
}
