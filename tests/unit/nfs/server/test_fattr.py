"""Attributes as they travel, made by compiled functions and one by one."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quicfs.nfs.limits import COMPILE_AFTER, MAX_ENCODERS
from quicfs.nfs.server import fattr
from quicfs.nfs.server.owners import Owners
from quicfs.nfs.v4.attributes import Attribute, bitmap, members, unpack_fattr
from quicfs.nfs.v4.const import FhExpire, FileType, Nfs4Error, Stat
from quicfs.nfs.v4.types import Fsid, SpecData
from quicfs.nfs.xdr import Unpacker
from quicfs.vfs.api import Attr, FileKind, StatFs

A = Attribute

ATTR = Attr(
    kind=FileKind.CHARACTER, mode=0o6755, nlink=3, uid=1000, gid=0, size=(1 << 63) - 1, allocated=4096,
    fileid=(1 << 64) - 2, atime_ns=-1, mtime_ns=1_700_000_000_123_456_789, ctime_ns=0, btime_ns=7, change=99,
    rdev=0x501,
)  # fmt: skip
FACTS = fattr.Facts((5, 0), FhExpire.PERSISTENT, 90, True, Owners())
STATFS = StatFs(4096, 100, 50, 40, 1000, 500, 255, False)


def values(mask: int, mounted_on: int = 0) -> dict[Attribute, object]:
    unpacker = Unpacker(fattr.encoder(mask)(ATTR, FACTS, b"handle", mounted_on, STATFS))
    found = unpack_fattr(unpacker)
    unpacker.done()
    return dict(found)


def test_every_attribute_can_be_read_back() -> None:
    found = values(fattr.READABLE)
    assert set(found) == set(members(fattr.READABLE))
    assert found[A.TYPE] is FileType.CHR
    assert found[A.FSID] == Fsid(5, 0)
    assert found[A.FILEHANDLE] == b"handle"
    assert found[A.OWNER] == "1000" and found[A.OWNER_GROUP] == "0"
    assert found[A.RAWDEV] == SpecData(5, 1)
    assert found[A.TIME_ACCESS] == -1 and found[A.TIME_MODIFY] == ATTR.mtime_ns
    assert found[A.SPACE_AVAIL] == 40 * 4096 and found[A.SPACE_USED] == 4096
    assert found[A.MOUNTED_ON_FILEID] == found[A.FILEID] == ATTR.fileid
    assert values(bitmap((A.MOUNTED_ON_FILEID,)), 77) == {A.MOUNTED_ON_FILEID: 77}
    assert found[A.SUPPORTED_ATTRS] == fattr.SUPPORTED
    assert found[A.RDATTR_ERROR] is Stat.OK


def test_what_must_be_there_is_there() -> None:
    """RFC 8881 §5.6: the REQUIRED attributes."""
    required = (0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 19, 75)
    assert all(fattr.SUPPORTED >> number & 1 for number in required)
    assert fattr.EXCLUSIVE_CREATE & bitmap((A.TIME_ACCESS_SET, A.TIME_MODIFY_SET)) == 0


@given(st.sets(st.sampled_from(list(members(fattr.READABLE)))))
def test_compiled_and_single_agree(chosen: set[Attribute]) -> None:
    mask = bitmap(chosen)
    first = values(mask)
    for _ in range(COMPILE_AFTER):
        assert values(mask) == first
    assert set(first) == chosen


def test_sets_that_nobody_asks_for_twice_leave_nothing() -> None:
    for mask in range(4 * MAX_ENCODERS):
        values(mask << 24 & fattr.READABLE)


def test_owners_are_numbers_without_a_domain() -> None:
    owners = Owners()
    assert owners.user(4711) == b"\0\0\0\x044711"
    assert owners.uid("0") == 0 and owners.gid("4294967294") == 4294967294
    for bad in ("", "root", "root@localdomain", "4294967295", "-1", " 1", "1 ", "\u0661", "99999999999"):
        with pytest.raises(Nfs4Error) as refused:
            owners.uid(bad)
        assert refused.value.status is Stat.BADOWNER


def test_owners_are_names_within_a_domain() -> None:
    owners = Owners("example.org")
    assert owners.user(0) == b"\0\0\0\x10root@example.org"
    assert owners.uid("root@EXAMPLE.org") == 0 and owners.gid("root@example.org") == 0
    assert owners.uid("12") == 12
    assert owners.user(3_999_999_999) == b"\0\0\0\x0a3999999999\0\0"
    for bad in ("root", "root@example.com", "no such user@example.org", "@example.org", "r\0t@example.org"):
        with pytest.raises(Nfs4Error):
            owners.uid(bad)
