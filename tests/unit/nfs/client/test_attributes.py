"""What an Attr is made of."""

from __future__ import annotations

import os

from quicfs.nfs.client.attributes import ATTR, attr_of
from quicfs.nfs.v4.attributes import Attribute, Attributes, bitmap
from quicfs.nfs.v4.const import FileType
from quicfs.nfs.v4.types import SpecData
from quicfs.vfs.api import Attr, FileKind

A = Attribute
ALL: Attributes = {
    A.TYPE: FileType.CHR,
    A.CHANGE: 1,
    A.SIZE: 2,
    A.FILEID: 3,
    A.MODE: 0o104644,
    A.NUMLINKS: 5,
    A.OWNER: "6",
    A.OWNER_GROUP: "7",
    A.RAWDEV: SpecData(8, 9),
    A.SPACE_USED: 10,
    A.TIME_ACCESS: 11,
    A.TIME_CREATE: 12,
    A.TIME_METADATA: 13,
    A.TIME_MODIFY: 14,
}


def test_all_of_them() -> None:
    assert bitmap(ALL) == ATTR
    expected = Attr(
        kind=FileKind.CHARACTER,
        mode=0o4644,
        nlink=5,
        uid=6,
        gid=7,
        size=2,
        allocated=10,
        fileid=3,
        atime_ns=11,
        mtime_ns=14,
        ctime_ns=13,
        btime_ns=12,
        change=1,
        rdev=os.makedev(8, 9),
    )
    assert attr_of(ALL) == expected
    assert attr_of(dict(reversed(ALL.items()))) == expected


def test_none_of_them() -> None:
    attr = attr_of({})
    assert (attr.kind, attr.mode, attr.nlink, attr.size, attr.rdev) == (FileKind.REGULAR, 0o644, 1, 0, 0)
    assert attr_of({A.TYPE: FileType.DIR}).mode == 0o755


def test_some_of_them() -> None:
    attr = attr_of({A.SIZE: 5, A.TIME_MODIFY: 7, A.RAWDEV: SpecData(1, 1), A.OWNER: "nobody-here@nowhere"})
    assert (attr.size, attr.allocated) == (5, 5)
    assert attr.atime_ns == attr.mtime_ns == attr.ctime_ns == attr.btime_ns == 7
    assert (attr.rdev, attr.uid) == (0, 65534)
