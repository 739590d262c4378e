"""Attributes as they travel (RFC 8881 §5), written for each set of them that clients ask for by a function made for it.

One row says what an attribute's bytes are. From the rows of a set that is asked for again and again one function is
compiled, with one `struct.Struct` for each run of fixed fields.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Final

from quicfs.nfs.limits import COMPILE_AFTER, MAX_ENCODERS, MAX_IO
from quicfs.nfs.server.owners import Owners
from quicfs.nfs.v4.attributes import Attribute, PackedFattr, bitmap, members, pack_bitmap
from quicfs.nfs.v4.const import ChangeAttrType, FhExpire, FileType, FsCharsetCap
from quicfs.nfs.xdr import Packer
from quicfs.vfs.api import Attr, FileKind, StatFs

__all__ = [
    "CREATE_ONLY",
    "EXCLUSIVE_CREATE",
    "FILE_TYPE",
    "READABLE",
    "SETTABLE",
    "STATFS",
    "SUPPORTED",
    "WRITE_ONLY",
    "Encoder",
    "Facts",
    "encoder",
]

A = Attribute

FILE_TYPE: Final = {
    FileKind.REGULAR: FileType.REG,
    FileKind.DIRECTORY: FileType.DIR,
    FileKind.BLOCK: FileType.BLK,
    FileKind.CHARACTER: FileType.CHR,
    FileKind.SYMLINK: FileType.LNK,
    FileKind.SOCKET: FileType.SOCK,
    FileKind.FIFO: FileType.FIFO,
}


@dataclass(slots=True)
class Facts:
    """What is the same for all objects of one export."""

    fsid: tuple[int, int]
    fh_expire_type: FhExpire
    lease_time: int  # seconds
    xattr_support: bool
    owners: Owners
    cookie_verifier: bytes = bytes(8)


Encoder = Callable[[Attr, Facts, bytes, int, StatFs | None], PackedFattr]
"""attributes, facts, file handle, mounted_on_fileid, statfs -> fattr4. The handle may be b"" when it was not asked for,
and statfs None when nothing of `STATFS` was."""


# Name of the struct code, and the arguments that go with it. a: Attr, f: Facts, s: StatFs, m: mounted_on_fileid.
_FIXED: Final[dict[Attribute, tuple[str, str]]] = {
    A.TYPE: ("I", "TYPES[a.kind]"),
    A.FH_EXPIRE_TYPE: ("I", "f.fh_expire_type"),
    A.CHANGE: ("Q", "a.change & U64"),
    A.SIZE: ("Q", "a.size"),
    A.LINK_SUPPORT: ("I", "1"),
    A.SYMLINK_SUPPORT: ("I", "1"),
    A.NAMED_ATTR: ("I", "0"),
    A.FSID: ("QQ", "*f.fsid"),
    A.UNIQUE_HANDLES: ("I", "1"),
    A.LEASE_TIME: ("I", "f.lease_time"),
    A.RDATTR_ERROR: ("I", "0"),
    A.ACLSUPPORT: ("I", "0"),  # modes only
    A.CANSETTIME: ("I", "1"),
    A.CASE_INSENSITIVE: ("I", "0"),
    A.CASE_PRESERVING: ("I", "1"),
    A.CHOWN_RESTRICTED: ("I", "1"),
    A.FILEID: ("Q", "a.fileid & U64"),
    A.FILES_AVAIL: ("Q", "s.files_free"),
    A.FILES_FREE: ("Q", "s.files_free"),
    A.FILES_TOTAL: ("Q", "s.files"),
    A.HOMOGENEOUS: ("I", "1"),
    A.MAXFILESIZE: ("Q", "I64"),
    A.MAXLINK: ("I", "65000"),  # what the strictest of the usual file systems allows
    A.MAXNAME: ("I", "s.name_max"),
    A.MAXREAD: ("Q", "MAX_IO"),
    A.MAXWRITE: ("Q", "MAX_IO"),
    A.MODE: ("I", "a.mode"),
    A.NO_TRUNC: ("I", "1"),
    A.NUMLINKS: ("I", "a.nlink"),
    A.RAWDEV: ("II", "major(a.rdev), minor(a.rdev)"),
    A.SPACE_AVAIL: ("Q", "s.blocks_available * s.block_size"),
    A.SPACE_FREE: ("Q", "s.blocks_free * s.block_size"),
    A.SPACE_TOTAL: ("Q", "s.blocks * s.block_size"),
    A.SPACE_USED: ("Q", "a.allocated"),
    A.TIME_ACCESS: ("qI", "*divmod(a.atime_ns, NS)"),
    A.TIME_CREATE: ("qI", "*divmod(a.btime_ns, NS)"),
    A.TIME_DELTA: ("qI", "0, 1"),
    A.TIME_METADATA: ("qI", "*divmod(a.ctime_ns, NS)"),
    A.TIME_MODIFY: ("qI", "*divmod(a.mtime_ns, NS)"),
    A.MOUNTED_ON_FILEID: ("Q", "(m or a.fileid) & U64"),
    A.FS_CHARSET_CAP: ("I", "CHARSET"),
    A.CLONE_BLKSIZE: ("I", "s.block_size"),
    A.CHANGE_ATTR_TYPE: ("I", "CHANGE_TYPE"),
    A.XATTR_SUPPORT: ("I", "f.xattr_support"),
}

_BYTES: Final[dict[Attribute, str]] = {
    A.SUPPORTED_ATTRS: "SUPPORTED_BITMAP",
    A.SUPPATTR_EXCLCREAT: "EXCLCREAT_BITMAP",
    A.FILEHANDLE: "opaque(h)",
    A.OWNER: "f.owners.user(a.uid)",
    A.OWNER_GROUP: "f.owners.group(a.gid)",
}

READABLE: Final = bitmap((*_FIXED, *_BYTES))
WRITE_ONLY: Final = bitmap((A.TIME_ACCESS_SET, A.TIME_MODIFY_SET, A.MODE_SET_MASKED, A.MODE_UMASK))
SUPPORTED: Final = READABLE | WRITE_ONLY
CREATE_ONLY: Final = bitmap((A.MODE_UMASK,))  # RFC 8275 §5
SETTABLE: Final = WRITE_ONLY | bitmap((A.SIZE, A.MODE, A.OWNER, A.OWNER_GROUP, A.TIME_CREATE))
EXCLUSIVE_CREATE: Final = SETTABLE & ~bitmap((A.TIME_ACCESS_SET, A.TIME_MODIFY_SET, A.TIME_CREATE))
"""What goes with EXCLUSIVE4_1: not the times, in which the verifier is kept (RFC 8881 §5.8.1.14)."""

STATFS: Final = bitmap((
    A.FILES_AVAIL, A.FILES_FREE, A.FILES_TOTAL, A.MAXNAME, A.SPACE_AVAIL, A.SPACE_FREE, A.SPACE_TOTAL,
    A.CLONE_BLKSIZE,
))  # fmt: skip


def _opaque(value: bytes) -> bytes:
    return len(value).to_bytes(4, "big") + value + bytes(-len(value) & 3)


def _bitmap(mask: int) -> bytes:
    packer = Packer()
    pack_bitmap(mask, packer)
    return packer.getvalue()


_SPACE: Final[dict[str, Any]] = {
    "TYPES": FILE_TYPE, "U64": (1 << 64) - 1, "I64": (1 << 63) - 1, "NS": 1_000_000_000, "MAX_IO": MAX_IO,
    "CHARSET": FsCharsetCap.CONTAINS_NON_UTF8, "CHANGE_TYPE": ChangeAttrType.UNDEFINED,
    "SUPPORTED_BITMAP": _bitmap(SUPPORTED), "EXCLCREAT_BITMAP": _bitmap(EXCLUSIVE_CREATE),
    "opaque": _opaque, "major": os.major, "minor": os.minor, "length": struct.Struct(">I").pack,
    "PackedFattr": PackedFattr,
}  # fmt: skip


def _compiled(attributes: Iterable[Attribute], result: str, **more: object) -> Encoder:
    """`result` with the bytes of the attributes, which must be in number order, in the place of BODY."""
    space = _SPACE | more
    parts: list[str] = []
    codes = ""
    arguments: list[str] = []

    def end_run() -> None:
        nonlocal codes
        if codes:
            space[f"pack{len(parts)}"] = struct.Struct(">" + codes).pack
            parts.append(f"pack{len(parts)}({', '.join(arguments)})")
            codes = ""
            arguments.clear()

    for attribute in attributes:
        if attribute in _FIXED:
            code, argument = _FIXED[attribute]
            codes += code
            arguments.append(argument)
        else:
            end_run()
            parts.append(_BYTES[attribute])
    end_run()
    exec(f"def encode(a, f, h, m, s):\n body = {' + '.join(parts) or repr(b'')}\n return {result}", space)
    made: Encoder = space["encode"]
    return made


class _Encoders:
    """What was made. A client that asks for another set each time has nothing compiled for it."""

    def __init__(self) -> None:
        self._single = {one: _compiled((one,), "body") for one in members(READABLE)}
        self._made: dict[int, Encoder] = {}
        self._asked: dict[int, int] = {}

    def find(self, mask: int) -> Encoder:
        made = self._made.get(mask)
        if made is not None:
            return made
        times = self._asked[mask] = self._asked.get(mask, 0) + 1
        if times < COMPILE_AFTER:
            if len(self._asked) > MAX_ENCODERS:
                self._asked.clear()
            return self._joined(mask)
        if len(self._made) >= MAX_ENCODERS:
            self._made.clear()
        result = "PackedFattr(prefix + length(len(body)) + body)"
        made = self._made[mask] = _compiled(members(mask), result, prefix=_bitmap(mask))
        return made

    def _joined(self, mask: int) -> Encoder:
        prefix = _bitmap(mask)
        rows = [self._single[one] for one in members(mask)]
        return lambda a, f, h, m, s: PackedFattr(
            prefix + _opaque(b"".join([row(a, f, h, m, s) for row in rows]))
        )


encoder: Final = _Encoders().find
"""The function that writes the attributes of a bitmap, of which only those in `READABLE` may be there."""
