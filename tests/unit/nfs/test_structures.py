"""Every structure: what is packed comes back, and whatever a peer sends is an XdrError at worst."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quicfs.nfs.v3 import mount3, nfs3
from quicfs.nfs.v4 import callback
from quicfs.nfs.v4.const import CbOp, Nfs4Error, Op
from quicfs.nfs.v4.operations import OPERATIONS
from quicfs.nfs.xdr import Packer, Struct, Unpacker, XdrError
from tests.unit.nfs.xdr_values import values_of


def structures() -> list[type[Struct]]:
    found: dict[type[Struct], None] = {}
    for row in (*OPERATIONS.values(), *callback.OPERATIONS.values()):
        for one in (row.args, row.ok, row.always, *row.failed.values()):
            if one is not None:
                found[one] = None
    for program in (nfs3.PROCEDURES, mount3.PROCEDURES):
        for procedure in program.values():
            for one in (procedure.args, procedure.ok, procedure.failed):
                if one is not None:
                    found[one] = None
    return list(found)


def packed(value: Struct) -> bytes:
    packer = Packer()
    value.pack(packer)
    assert len(packer) == len(packer.getvalue())
    return packer.getvalue()


@pytest.mark.parametrize(
    "cls", structures(), ids=lambda cls: f"{cls.__module__.split('.')[-1]}.{cls.__name__}"
)
@settings(max_examples=8, deadline=None)
@given(data=st.data())
def test_comes_back_as_it_went(cls: type[Struct], data: st.DataObject) -> None:
    value = data.draw(values_of(cls))
    raw = packed(value)
    assert len(raw) % 4 == 0
    unpacker = Unpacker(raw)
    assert cls.unpack(unpacker) == value
    unpacker.done()
    # Cut anywhere, it is an error or (an end that was padding of nothing) the same again.
    for cut in {0, len(raw) // 2, max(len(raw) - 1, 0), max(len(raw) - 4, 0)} - {len(raw)}:
        with pytest.raises((XdrError, Nfs4Error)):
            cls.unpack(Unpacker(raw[:cut]))


def survives(cls: Any, raw: bytes) -> None:
    try:
        cls.unpack(Unpacker(raw))
    except (XdrError, Nfs4Error):
        pass


@pytest.mark.parametrize(
    "cls", structures(), ids=lambda cls: f"{cls.__module__.split('.')[-1]}.{cls.__name__}"
)
@settings(max_examples=4, deadline=None)
@given(data=st.data())
def test_hostile_bytes(cls: type[Struct], data: st.DataObject) -> None:
    survives(cls, data.draw(st.binary(max_size=200)))
    raw = bytearray(packed(data.draw(values_of(cls))))
    # Each word in turn becomes the largest length there is, or something else.
    for word in range(0, len(raw), 4):
        for wrong in (b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", b"\0\0\x40\0", b"\0\0\0\0"):
            mutated = bytes(raw[:word]) + wrong + bytes(raw[word + 4 :])
            survives(cls, mutated)


def test_every_operation_has_a_row() -> None:
    assert set(OPERATIONS) == set(Op)
    assert set(callback.OPERATIONS) == set(CbOp)
