"""COMPOUND (RFC 8881 §16.2), both halves, and CB_COMPOUND (§20)."""

from __future__ import annotations

import pytest

from quicfs.nfs.v4 import callback
from quicfs.nfs.v4.attributes import Attribute
from quicfs.nfs.v4.callback import CbRecallArgs, CbSequenceArgs
from quicfs.nfs.v4.compound import Compound, CompoundCall, ReplyBuilder, unpack_reply
from quicfs.nfs.v4.const import CbOp, LockType, Nfs4Error, Op, StableHow, Stat
from quicfs.nfs.v4.operations_directories import (
    Entry,
    LookupArgs,
    PackedEntries,
    ReaddirResok,
)
from quicfs.nfs.v4.operations_files import GetattrArgs, GetfhResok, PutfhArgs, SetattrRes
from quicfs.nfs.v4.operations_io import AllocateArgs, ReadArgs, ReadResok, WriteArgs
from quicfs.nfs.v4.operations_open import (
    ClaimFh,
    ClaimNull,
    NoDelegation,
    OpenArgs,
    OpenResok,
    ReadDelegation,
)
from quicfs.nfs.v4.operations_sessions import RenewArgs, SequenceArgs, SequenceResok
from quicfs.nfs.v4.types import ANONYMOUS, Ace, ChangeInfo, LockDenied, StateId, StateOwner
from quicfs.nfs.xdr import LARGE, Packer, Unpacker, XdrError


def packed(compound: Compound, minor: int = 2) -> bytes:
    packer = Packer()
    compound.pack(packer, minor)
    return packer.getvalue()


def read(raw: bytes) -> CompoundCall:
    return CompoundCall.unpack(Unpacker(raw))


def test_bytes_of_a_call() -> None:
    compound = Compound(b"go").add(Op.SEQUENCE, SequenceArgs(bytes(range(16)), 7, 1, 3, True))
    compound.add(Op.PUTFH, PutfhArgs(b"\xaa\xbb\xcc")).add(Op.GETATTR, GetattrArgs(1 << Attribute.SIZE))
    compound.add(Op.READ, ReadArgs(StateId(1, b"\x11" * 12), 1 << 33, 4096)).add(Op.GETFH)
    assert packed(compound, 1) == bytes.fromhex(
        "00000002 676f0000 00000001 00000005"
        "00000035 00010203 04050607 08090a0b 0c0d0e0f 00000007 00000001 00000003 00000001"
        "00000016 00000003 aabbcc00"
        "00000009 00000001 00000010"
        "00000019 00000001 11111111 11111111 11111111 00000002 00000000 00001000"
        "0000000a"
    )


def test_bytes_of_an_open() -> None:
    args = OpenArgs(0, 3, 0, StateOwner(5, b"me"), None, ClaimNull("name"))
    assert packed(Compound().add(Op.OPEN, args)) == bytes.fromhex(
        "00000000 00000002 00000001"
        "00000012 00000000 00000003 00000000 00000000 00000005 00000002 6d650000"
        "00000000 00000000 00000004 6e616d65"
    )
    by_handle = OpenArgs(0, 1, 0, StateOwner(5, b""), None, ClaimFh())
    assert packed(Compound().add(Op.OPEN, by_handle)).endswith(bytes.fromhex("00000000 00000000 00000004"))


def test_bytes_of_the_result_of_an_open() -> None:
    ace = Ace(0, 0, 1, "EVERYONE@")
    opened = OpenResok(
        StateId(1, b"s" * 12),
        ChangeInfo(True, 1, 2),
        4,
        0,
        ReadDelegation(StateId(1, b"d" * 12), False, ace),
    )
    reply = ReplyBuilder(b"")
    reply.add(Op.OPEN, Stat.OK, opened)
    assert reply.finish().getvalue() == bytes.fromhex(
        "00000000 00000000 00000001 00000012 00000000"
        "00000001 73737373 73737373 73737373"
        "00000001 00000000 00000001 00000000 00000002"
        "00000004 00000000"
        "00000001 00000001 64646464 64646464 64646464 00000000"
        "00000000 00000000 00000001 00000009 45564552 594f4e45 40000000"
    )


def test_read_one_at_a_time() -> None:
    call = read(packed(Compound(b"t").add(Op.PUTROOTFH).add(Op.LOOKUP, LookupArgs("a\udcff"))))
    assert (call.tag, call.minor, call.count) == (b"t", 2, 2)
    assert call.next() == (Op.PUTROOTFH, None)
    assert call.more
    assert call.next() == (Op.LOOKUP, LookupArgs("a\udcff"))
    assert not call.more


def test_large_payloads_are_views() -> None:
    data = bytes(range(256)) * 64
    args = WriteArgs(ANONYMOUS, 0, StableHow.FILE_SYNC, data)
    packer = Packer()
    Compound().add(Op.WRITE, args).pack(packer)
    assert any(part is data for part in packer.parts())
    raw = bytearray(packer.getvalue())
    _, unpacked = CompoundCall.unpack(Unpacker(raw)).next()
    assert unpacked == args
    assert isinstance(unpacked.data, memoryview) and unpacked.data.obj is raw


@pytest.mark.parametrize(
    ("raw", "op", "status"),
    [
        ("00000002", Op.ILLEGAL, Stat.OP_ILLEGAL),  # §18.52: below the first
        ("0000004c", Op.ILLEGAL, Stat.OP_ILLEGAL),  # beyond the last
        ("ffffffff", Op.ILLEGAL, Stat.OP_ILLEGAL),
        ("0000273c", Op.ILLEGAL, Stat.OP_ILLEGAL),  # OP_ILLEGAL itself
        ("00000016 ffffffff", Op.PUTFH, Stat.BADXDR),
        ("00000016 00000081" + "00" * 132, Op.PUTFH, Stat.BADXDR),  # a handle of 129 bytes
        ("00000012", Op.OPEN, Stat.BADXDR),
        ("0000001e 00000000 00000001", Op.RENEW, Stat.NOTSUPP),  # of NFSv4.0
        ("", Op.ILLEGAL, Stat.BADXDR),
    ],
)
def test_operations_that_fail_to_decode(raw: str, op: Op, status: Stat) -> None:
    call = read(bytes.fromhex("00000000 00000001 00000001" + raw))
    with pytest.raises(Nfs4Error) as caught:
        call.next()
    assert (call.op, caught.value.status) == (op, status)


def test_of_a_later_minor_version() -> None:
    args = AllocateArgs(ANONYMOUS, 0, 1)
    assert read(packed(Compound().add(Op.ALLOCATE, args), 2)).next() == (Op.ALLOCATE, args)
    with pytest.raises(Nfs4Error) as caught:
        read(packed(Compound().add(Op.ALLOCATE, args), 1)).next()
    assert caught.value.status is Stat.OP_ILLEGAL


def test_a_setattr_of_attributes_that_nobody_knows() -> None:
    call = read(
        bytes.fromhex("00000000 00000001 00000001 00000022")
        + bytes(16)
        + bytes.fromhex("00000003 00000000 00000000 80000000 00000004 00000000")
    )
    with pytest.raises(Nfs4Error) as caught:
        call.next()
    assert (call.op, caught.value.status) == (Op.SETATTR, Stat.ATTRNOTSUPP)


def test_hostile_calls() -> None:
    for raw in ("", "ffffffff", "00000401" + "00" * 1100, "00000000 00000001"):
        with pytest.raises(XdrError):
            read(bytes.fromhex(raw))
    assert read(bytes.fromhex("00000000 00000001 ffffffff")).count == 0xFFFFFFFF


def test_replies_come_back() -> None:
    reply = ReplyBuilder(b"tag")
    sequence = SequenceResok(bytes(16), 1, 0, 3, 3, 0)
    data = bytes(2 * LARGE)
    reply.add(Op.SEQUENCE, Stat.OK, sequence)
    reply.add(Op.READ, Stat.OK, ReadResok(True, data))
    reply.add(Op.GETFH, Stat.OK, GetfhResok(b"fh"))
    reply.add(Op.SETATTR, Stat.PERM)
    assert reply.size == len(reply.finish().getvalue())
    found = unpack_reply(Unpacker(reply.packer.getvalue()))
    assert found.status is Stat.PERM and found.tag == b"tag"
    assert [result.status for result in found.results] == [Stat.OK, Stat.OK, Stat.OK, Stat.PERM]
    assert [result.value for result in found.results] == [
        sequence,
        ReadResok(True, data),
        GetfhResok(b"fh"),
        SetattrRes(0),
    ]
    with pytest.raises(Nfs4Error) as caught:
        found.check()
    assert caught.value.status is Stat.PERM


def test_failures_that_carry_something() -> None:
    reply = ReplyBuilder(b"")
    denied = LockDenied(0, 10, LockType.WRITE, StateOwner(1, b"other"))
    with pytest.raises(TypeError):
        reply.add(Op.LOCK, Stat.DENIED)
    reply.add(Op.LOCK, Stat.DENIED, denied)
    found = unpack_reply(Unpacker(reply.finish().getvalue()))
    assert found.results[0].value == denied
    with pytest.raises(Nfs4Error) as caught:
        found.check()
    assert caught.value.result == denied


@pytest.mark.parametrize("size", [10, 3 * LARGE])
def test_a_result_taken_back(size: int) -> None:
    reply = ReplyBuilder(b"")
    reply.add(Op.PUTROOTFH, Stat.OK)
    before = reply.size
    mark = reply.packer.mark()
    reply.add(Op.READ, Stat.OK, ReadResok(True, bytes(size)))
    reply.replace_last(mark, Op.READ, Stat.REP_TOO_BIG)
    assert reply.size == before + 8
    found = unpack_reply(Unpacker(reply.finish().getvalue()))
    assert [result.status for result in found.results] == [Stat.OK, Stat.REP_TOO_BIG]


def test_a_result_that_does_not_fit_its_type_leaves_nothing() -> None:
    reply = ReplyBuilder(b"")
    before = reply.size
    with pytest.raises(XdrError):
        reply.add(Op.GETATTR, Stat.OK, _getattr_of(-1))
    assert (reply.size, reply.count) == (before, 0)


def _getattr_of(size: int) -> object:
    from quicfs.nfs.v4.operations_files import GetattrResok

    return GetattrResok({Attribute.SIZE: size})


def test_no_results_at_all() -> None:
    """RFC 8881 §16.2.3: a minor version that the server does not speak."""
    reply = ReplyBuilder(b"x")
    reply.status = Stat.MINOR_VERS_MISMATCH
    raw = reply.finish().getvalue()
    assert raw.hex(" ", 4) == "00002725 00000001 78000000 00000000"
    found = unpack_reply(Unpacker(raw))
    assert found.status is Stat.MINOR_VERS_MISMATCH and not found.results


@pytest.mark.parametrize(
    "raw",
    [
        "00000000 00000000 ffffffff",
        "00000000 00000000 00000001 00000002 00000000",  # no such operation
        "00000000 00000000 00000001 00000018 00001234",  # no such status
        "00000000 00000000 00000001 00000018 00000005",  # the status is another one
        "00000013 00000000 00000000",
        "00000000 00000000 00000001 00000019 00000000 00000001 ffffffff",
        "00000000 00000000 00000001 00000009 00000000 00000003 0 0 80000000 0",
    ],
)
def test_hostile_replies(raw: str) -> None:
    words = b"".join(bytes.fromhex(word.zfill(8)) for word in raw.split())
    with pytest.raises(XdrError):
        unpack_reply(Unpacker(words))


def test_directory_entries_up_to_maxcount() -> None:
    attrs = {Attribute.FILEID: 9}
    one = Entry(1, "name", attrs)
    packer = Packer()
    ReaddirResok(bytes(8), [one], True).pack(packer)
    entries = PackedEntries(len(packer))
    assert entries.add(1, "name", attrs)
    assert not entries.add(2, "x", attrs)
    again = Packer()
    ReaddirResok(bytes(8), entries, True).pack(again)
    assert again.getvalue() == packer.getvalue()
    assert ReaddirResok.unpack(Unpacker(again.getvalue())) == ReaddirResok(bytes(8), [one], True)


def test_callbacks() -> None:
    compound = Compound(dialect=callback.DIALECT)
    sequence = CbSequenceArgs(bytes(16), 1, 0, 0, False, [])
    recall = CbRecallArgs(StateId(1, b"d" * 12), False, b"fh")
    compound.add(CbOp.SEQUENCE, sequence).add(CbOp.RECALL, recall)
    packer = Packer()
    compound.pack(packer, 1)
    raw = packer.getvalue()
    assert raw.startswith(bytes.fromhex("00000000 00000001 00000000 00000002 0000000b"))
    call = CompoundCall.unpack(Unpacker(raw), callback.DIALECT)
    assert [call.next(), call.next()] == [(CbOp.SEQUENCE, sequence), (CbOp.RECALL, recall)]
    reply = ReplyBuilder(call.tag, callback.DIALECT)
    reply.add(CbOp.SEQUENCE, Stat.OK, callback.CbSequenceResok(bytes(16), 1, 0, 0, 0))
    reply.add(CbOp.RECALL, Stat.BADHANDLE)
    found = unpack_reply(Unpacker(reply.finish().getvalue()), callback.DIALECT)
    assert [result.op for result in found.results] == [CbOp.SEQUENCE, CbOp.RECALL]
    with pytest.raises(Nfs4Error):
        CompoundCall.unpack(
            Unpacker(bytes.fromhex("00000000 00000001 00000000 00000001 00000003f"[:-1])), callback.DIALECT
        ).next()


def test_arguments_of_another_operation_are_a_bug() -> None:
    with pytest.raises(TypeError):
        packed(Compound().add(Op.LOOKUP, RenewArgs(1)))
    with pytest.raises(TypeError):
        ReplyBuilder(b"").add(Op.GETFH, Stat.OK, NoDelegation)
