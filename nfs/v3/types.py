"""What the procedures of NFSv3 share (RFC 1813 §2.5, §2.6).

Times are nanoseconds since the Unix epoch. NFSv3 has unsigned seconds: what lies outside goes out as the nearest that
fits.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum
from typing import Annotated, Any, Final

from quicfs.nfs.xdr import (
    Codec,
    Fixed,
    Inline,
    Opaque,
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
from quicfs.vfs import NOW

FHSIZE: Final = 64
VERIFIER_SIZE: Final = 8
NAME_LIMIT: Final = 4096  # the server says NAMETOOLONG
PATH_LIMIT: Final = 65536

FileHandle = Annotated[bytes, Opaque(FHSIZE)]
Verifier = Annotated[bytes, Fixed(VERIFIER_SIZE)]
Filename = Annotated[str, String(NAME_LIMIT)]
Path = Annotated[str, String(PATH_LIMIT)]


class Stat(IntEnum):
    """nfsstat3."""

    OK = 0
    PERM = 1
    NOENT = 2
    IO = 5
    NXIO = 6
    ACCES = 13
    EXIST = 17
    XDEV = 18
    NODEV = 19
    NOTDIR = 20
    ISDIR = 21
    INVAL = 22
    FBIG = 27
    NOSPC = 28
    ROFS = 30
    MLINK = 31
    NAMETOOLONG = 63
    NOTEMPTY = 66
    DQUOT = 69
    STALE = 70
    REMOTE = 71
    BADHANDLE = 10001
    NOT_SYNC = 10002
    BAD_COOKIE = 10003
    NOTSUPP = 10004
    TOOSMALL = 10005
    SERVERFAULT = 10006
    BADTYPE = 10007
    JUKEBOX = 10008


class FileType(IntEnum):
    REG = 1
    DIR = 2
    BLK = 3
    CHR = 4
    LNK = 5
    SOCK = 6
    FIFO = 7


class Access(IntEnum):
    READ = 0x01
    LOOKUP = 0x02
    MODIFY = 0x04
    EXTEND = 0x08
    DELETE = 0x10
    EXECUTE = 0x20


class StableHow(IntEnum):
    UNSTABLE = 0
    DATA_SYNC = 1
    FILE_SYNC = 2


class CreateMode(IntEnum):
    UNCHECKED = 0
    GUARDED = 1
    EXCLUSIVE = 2


class FsProperty(IntEnum):
    """Bits of FSINFO."""

    LINK = 0x01
    SYMLINK = 0x02
    HOMOGENEOUS = 0x08
    CANSETTIME = 0x10


# --- times

_SECOND: Final = 1_000_000_000


_LAST: Final = (0x1_0000_0000 * _SECOND) - 1


def _fitting(ns: int) -> int:
    return min(max(ns, 0), _LAST)


Time = Annotated[
    int,
    Inline(
        ("I", "I"),
        (f"fitting({{}}) // {_SECOND}", f"fitting({{}}) % {_SECOND}"),
        f"{{0}} * {_SECOND} + {{1}}",
        {"fitting": _fitting},
    ),
]
_pack_time, _unpack_time = codec(Time)


def _pack_set_time(ns: int | None, packer: Packer) -> None:
    if ns is None:
        packer.uint32(0)
    elif ns == NOW:
        packer.uint32(1)
    else:
        packer.uint32(2)
        _pack_time(ns, packer)


def _unpack_set_time(unpacker: Unpacker) -> int | None:
    match unpacker.uint32():
        case 0:
            return None
        case 1:
            return NOW
        case 2:
            return int(_unpack_time(unpacker))
        case other:
            raise XdrError(f"{other} is no time_how")


SetTime = Annotated[int | None, Codec(_pack_set_time, _unpack_set_time)]

# --- attributes


@struct
class SpecData(Struct):
    major: Uint32
    minor: Uint32


@struct
class Fattr(Struct):
    type: FileType
    mode: Uint32
    nlink: Uint32
    uid: Uint32
    gid: Uint32
    size: Uint64
    used: Uint64
    rdev: SpecData
    fsid: Uint64
    fileid: Uint64
    atime: Time
    mtime: Time
    ctime: Time


@struct
class Sattr(Struct):
    """None leaves it; times take vfs.NOW for the server's own clock."""

    mode: Uint32 | None = None
    uid: Uint32 | None = None
    gid: Uint32 | None = None
    size: Uint64 | None = None
    atime: SetTime = None
    mtime: SetTime = None


@struct
class WccAttr(Struct):
    """Before the operation."""

    size: Uint64
    mtime: Time
    ctime: Time


@struct
class WccData(Struct):
    before: WccAttr | None
    after: Fattr | None


NO_WCC: Final = WccData(None, None)


@struct
class DirOpArgs(Struct):
    dir: FileHandle
    name: Filename


# --- procedures


@dataclass(frozen=True, slots=True)
class Procedure:
    """One row of a program: its arguments and what follows the status. `status` None: the results have none."""

    number: int
    name: str
    args: type[Struct] | None = None
    ok: type[Struct] | None = None
    failed: type[Struct] | None = None
    status: Mapping[int, Any] | None = None

    def pack_result(self, packer: Packer, status: int, result: Struct | None) -> None:
        expected = self.failed if status else self.ok
        if expected is not None and type(result) is not expected:
            raise TypeError(f"{self.name} carries {expected.__name__}, not {result!r}")
        if self.status is not None:
            packer.uint32(status)
        if expected is not None and result is not None:
            result.pack(packer)

    def unpack_result(self, unpacker: Unpacker) -> tuple[Any, Any]:
        """(status, what follows it). Client's half."""
        status = 0
        if self.status is not None:
            number = unpacker.uint32()
            if number not in self.status:
                raise XdrError(f"{number} is no status of {self.name}")
            status = self.status[number]
        expected = self.failed if status else self.ok
        return status, None if expected is None else expected.unpack(unpacker)
