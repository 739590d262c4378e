"""fattr4 (RFC 8881 §5): bitmaps, values in number order, functions compiled for combinations that come often."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quicfs.nfs.v4.attributes import (
    KNOWN,
    Attribute,
    PackedFattr,
    bitmap,
    members,
    pack_bitmap,
    pack_fattr,
    unpack_bitmap,
    unpack_fattr,
)
from quicfs.nfs.v4.const import FileType, Nfs4Error, Stat
from quicfs.nfs.v4.types import Fsid
from quicfs.nfs.xdr import Packer, Unpacker, XdrError
from tests.unit.nfs.xdr_values import BITMAPS, attribute_value, some_attributes

A = Attribute


def packed(values: object) -> bytes:
    packer = Packer()
    pack_fattr(values, packer)  # type: ignore[arg-type]
    return packer.getvalue()


def test_bytes_of_a_bitmap() -> None:
    def of(mask: int) -> str:
        packer = Packer()
        pack_bitmap(mask, packer)
        return packer.getvalue().hex(" ", 4)

    assert of(0) == "00000000"
    assert of(bitmap([A.TYPE, A.SIZE])) == "00000001 00000012"
    assert of(bitmap([A.MODE])) == "00000002 00000000 00000002"
    assert of(bitmap([A.SUPPORTED_ATTRS, A.XATTR_SUPPORT])) == "00000003 00000001 00000000 00040000"


@given(BITMAPS)
def test_bitmaps_come_back(mask: int) -> None:
    packer = Packer()
    pack_bitmap(mask, packer)
    assert unpack_bitmap(Unpacker(packer.getvalue())) == mask


def test_bitmap_with_words_of_nothing_and_with_too_many() -> None:
    assert unpack_bitmap(Unpacker(bytes.fromhex("00000003 00000002 00000000 00000000"))) == 2
    with pytest.raises(XdrError):
        unpack_bitmap(Unpacker(b"\xff\xff\xff\xff" + bytes(64)))


def test_bytes_of_attributes() -> None:
    values = {
        A.OWNER: "root",
        A.TYPE: FileType.DIR,
        A.SIZE: 4096,
        A.FSID: Fsid(1, 2),
        A.TIME_MODIFY: 1_500_000_000,
    }
    expected = (
        "00000002 00000112 00200010"  # type, size, fsid; owner, time_modify
        "00000030"  # 48 bytes
        "00000002"
        "00000000 00001000"
        "00000000 00000001 00000000 00000002"
        "00000004 726f6f74"
        "00000000 00000001 1dcd6500"
    )
    assert packed(values) == bytes.fromhex(expected)


def test_times_before_the_epoch() -> None:
    raw = packed({A.TIME_ACCESS: -1})
    assert raw.hex(" ", 4).split()[-3:] == ["ffffffff", "ffffffff", "3b9ac9ff"]
    assert unpack_fattr(Unpacker(raw)) == {A.TIME_ACCESS: -1}


def test_more_nanoseconds_than_a_second_has() -> None:
    """RFC 8881 §3.3.1."""
    raw = bytearray(packed({A.TIME_ACCESS: 5}))
    raw[-4:] = (1_000_000_000).to_bytes(4, "big")
    with pytest.raises(Nfs4Error) as caught:
        unpack_fattr(Unpacker(raw))
    assert caught.value.status is Stat.INVAL


def test_server_time_and_ours() -> None:
    assert packed({A.TIME_MODIFY_SET: None}).hex(" ", 4) == "00000002 00000000 00400000 00000004 00000000"
    raw = packed({A.TIME_MODIFY_SET: 1, A.TIME_ACCESS_SET: None})
    assert unpack_fattr(Unpacker(raw)) == {A.TIME_MODIFY_SET: 1, A.TIME_ACCESS_SET: None}


@pytest.mark.parametrize("attribute", Attribute)
@given(data=st.data())
def test_each_attribute(attribute: Attribute, data: st.DataObject) -> None:
    values = {attribute: data.draw(attribute_value(attribute))}
    raw = packed(values)
    unpacker = Unpacker(raw)
    assert unpack_fattr(unpacker) == values
    unpacker.done()


@given(some_attributes(), st.randoms())
def test_compiled_and_not_compiled_agree(values: dict[Attribute, object], random: object) -> None:
    first = packed(values)
    for _ in range(10):
        assert packed(values) == first
        assert unpack_fattr(Unpacker(first)) == values
    backwards = dict(sorted(values.items(), reverse=True))
    assert packed(backwards) == first


def test_packed_once() -> None:
    values = {A.SIZE: 5, A.FILEID: 7}
    assert packed(PackedFattr.of(values)) == packed(values)


def test_unknown_attribute() -> None:
    for raw in ("00000003 00000000 00000000 80000000 00000004 00000001", "00000004 0 0 0 1 0"):
        words = b"".join(bytes.fromhex(word.zfill(8)) for word in raw.split())
        with pytest.raises(Nfs4Error) as caught:
            unpack_fattr(Unpacker(words))
        assert caught.value.status is Stat.ATTRNOTSUPP


@pytest.mark.parametrize(
    "raw",
    [
        "00000001 00000010 ffffffff 00000000 00000001",
        "00000001 00000010 00000004 00000000 00000001",  # a size of four bytes
        "00000001 00000010 0000000c 00000000 00000001 00000000",  # and one of twelve
        "00000001 00000010",
        "00000002 00000000 00000010 00000008 ffffffff 61000000",  # an owner of 2^32-1 bytes
        "00000001 00001000 00000004 ffffffff",  # an ACL of 2^32-1 entries
    ],
)
def test_hostile_attributes(raw: str) -> None:
    with pytest.raises(XdrError):
        unpack_fattr(Unpacker(bytes.fromhex(raw)))


def test_members() -> None:
    assert list(members(bitmap([A.MODE, A.TYPE]) | 1 << 200)) == [A.TYPE, A.MODE]
    assert bitmap(members(KNOWN)) == KNOWN
