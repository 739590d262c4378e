"""XDR (RFC 4506): the types of §4, the limits, and the two streams."""

from __future__ import annotations

import tracemalloc
from enum import IntEnum
from typing import Annotated

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quicfs.nfs.xdr import (
    LARGE,
    Array,
    Chain,
    Codec,
    Fixed,
    Inline,
    Int32,
    Int64,
    Opaque,
    PackedChain,
    Packer,
    Payload,
    String,
    Struct,
    Switch,
    Uint32,
    Uint64,
    Unpacker,
    XdrError,
    struct,
)
from tests.unit.nfs.xdr_values import values_of


class Colour(IntEnum):
    RED = 2
    BLUE = 5


@struct
class Point(Struct):
    x: Int32
    y: Int64


@struct
class Nothing(Struct):
    pass


@struct
class Named(Struct):
    name: Annotated[str, String(10)]


HalfSteps = Annotated[int, Inline(("I",), ("{} * 2",), "{0} // 2")]
Reversed = Annotated[
    int,
    Codec(
        lambda value, packer: packer.uint32(0xFFFFFFFF - value),
        lambda unpacker: 0xFFFFFFFF - unpacker.uint32(),
    ),
]


@struct
class Everything(Struct):
    colour: Colour
    flag: bool
    point: Point
    small: Uint32
    large: Uint64
    fixed: Annotated[bytes, Fixed(5)]
    opaque: Annotated[bytes, Opaque(40)]
    name: Annotated[str, String(100)]
    data: Annotated[bytes, Payload(100)]
    points: Annotated[list[Point], Array(10)]
    names: Annotated[list[Annotated[str, String(30)]], Array(10)]
    chain: Annotated[list[Named], Chain(10)]
    maybe: Point | None
    number: Uint64 | None
    arm: Annotated[Point | Nothing | None, Switch(Colour, {Colour.RED: Point, Colour.BLUE: None, 7: Nothing})]
    buffer: Uint32  # a name that the functions made of this use themselves


@struct
class Computed(Struct):
    before: Uint32
    half: HalfSteps
    after: Reversed


def packed(value: Struct) -> bytes:
    packer = Packer()
    value.pack(packer)
    assert len(packer) == len(packer.getvalue())
    return packer.getvalue()


@st.composite
def everything(draw: st.DrawFn) -> Everything:
    names = st.binary(max_size=9).map(lambda raw: raw.decode("utf-8", "surrogateescape"))
    values = {
        name: draw(values_of(hint)) for name, hint in Everything.xdr_fields if name not in ("chain", "name")
    }
    return Everything(
        **values, name=draw(names), chain=[Named(name) for name in draw(st.lists(names, max_size=3))]
    )


@given(everything())
def test_comes_back(value: Everything) -> None:
    unpacker = Unpacker(packed(value))
    assert Everything.unpack(unpacker) == value
    unpacker.done()


@given(everything(), st.data())
def test_cut_short(value: Everything, data: st.DataObject) -> None:
    raw = packed(value)
    cut = data.draw(st.integers(0, len(raw) - 1))
    with pytest.raises(XdrError):
        Everything.unpack(Unpacker(raw[:cut]))


@given(st.binary(max_size=300))
def test_any_bytes(raw: bytes) -> None:
    try:
        Everything.unpack(Unpacker(raw))
    except XdrError:
        pass


def test_bytes() -> None:
    value = Everything(
        Colour.RED,
        True,
        Point(-1, -2),
        3,
        1 << 40,
        b"12345",
        b"ab",
        "ä\udcff",
        b"",
        [Point(1, 2)],
        ["x"],
        [Named("y"), Named("")],
        None,
        7,
        Point(8, 9),
        10,
    )
    assert packed(value) == bytes.fromhex(
        "00000002 00000001 ffffffff ffffffff fffffffe 00000003 00000100 00000000 31323334 35000000"
        "00000002 61620000"
        "00000003 c3a4ff00"
        "00000000"
        "00000001 00000001 00000000 00000002"
        "00000001 00000001 78000000"
        "00000001 00000001 79000000 00000001 00000000 00000000"
        "00000000 00000001 00000000 00000007"
        "00000002 00000008 00000000 00000009"
        "0000000a"
    )


def test_computed_and_hand_written_fields() -> None:
    assert packed(Computed(1, 4, 2)).hex(" ", 4) == "00000001 00000008 fffffffd"
    assert Computed.unpack(Unpacker(packed(Computed(1, 4, 2)))) == Computed(1, 4, 2)


@pytest.mark.parametrize(
    ("hint", "raw"),
    [
        (Colour, "00000003"),
        (bool, "00000002"),
        (Point | None, "00000002 00000000 00000000 00000000"),
        (Annotated[bytes, Opaque()], "ffffffff 00000000"),
        (Annotated[bytes, Opaque()], "00000001 61"),  # without its padding
        (Annotated[bytes, Opaque(3)], "00000004 61626364"),
        (Annotated[bytes, Payload()], "fffffffd 00000000"),
        (Annotated[str, String(3)], "00000004 61626364"),
        (Annotated[bytes, Fixed(5)], "3132333435"),
        (Annotated[list[Uint32], Array()], "ffffffff 00000000"),
        (Annotated[list[Uint32], Array()], "40000001 00000000"),
        (Annotated[list[Uint32], Array(1)], "00000002 00000000 00000000"),
        (Annotated[list[Uint32], Chain(1)], "00000001 00000000 00000001 00000000 00000000"),
        (Annotated[list[Uint32], Chain()], "00000002 00000000"),
        (Annotated[list[Uint32], Chain()], "00000001 00000000"),
        (Annotated[Point | None, Switch(Colour, {Colour.RED: Point, Colour.BLUE: None})], "00000003"),
    ],
)
def test_what_is_no_such_value(hint: object, raw: str) -> None:
    holder = struct(type("Holder", (Struct,), {"__annotations__": {"it": hint}, "__module__": __name__}))
    with pytest.raises(XdrError):
        holder.unpack(Unpacker(bytes.fromhex(raw)))


def test_lengths_reserve_nothing() -> None:
    holder = struct(
        type(
            "Holder",
            (Struct,),
            {"__annotations__": {"it": Annotated[list[Uint64], Array()]}, "__module__": __name__},
        )
    )
    raw = b"\x3f\xff\xff\xff" + bytes(64)
    tracemalloc.start()
    with pytest.raises(XdrError):
        holder.unpack(Unpacker(raw))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 100_000


@pytest.mark.parametrize(
    "value",
    [Point(1 << 31, 0), Point(0, 1 << 63), Named("\ud800"), Computed(0, 1 << 31, 0)],
    ids=["int32", "int64", "surrogate", "computed"],
)
def test_values_that_fit_no_type(value: Struct) -> None:
    with pytest.raises(XdrError):
        packed(value)


def test_a_fixed_length_is_not_filled_up() -> None:
    @struct
    class Eight(Struct):
        it: Annotated[bytes, Fixed(8)]

    for wrong in (b"", b"1234567", b"123456789"):
        with pytest.raises(XdrError):
            packed(Eight(wrong))


# --- the streams


def test_large_payloads_travel_beside_the_buffer() -> None:
    packer = Packer()
    data = bytes(LARGE)
    packer.uint32(1)
    packer.opaque(data)
    packer.uint32(2)
    packer.opaque(b"small")
    assert [len(part) for part in packer.parts()] == [8, LARGE, 16]
    assert packer.parts()[1] is data
    unpacker = Unpacker(packer.getvalue())
    assert unpacker.uint32() == 1
    assert unpacker.view(LARGE) == data
    assert (unpacker.uint32(), unpacker.opaque(5)) == (2, b"small")
    unpacker.done()


def test_one_packer_into_another() -> None:
    for size in (3, LARGE + 1):
        inner, outer = Packer(), Packer()
        inner.opaque(bytes(size))
        inner.uint32(9)
        expected = inner.getvalue()
        outer.uint32(0)
        outer.raw(inner)
        outer.patch_uint32(0, 77)
        outer.uint32(8)
        assert len(outer) == 8 + len(expected)
        assert outer.getvalue() == b"\0\0\0\x4d" + expected + b"\0\0\0\x08"


@given(st.lists(st.sampled_from([0, 1, 4, LARGE - 1, LARGE, LARGE + 3]), max_size=6), st.integers(0, 6))
def test_rollback(sizes: list[int], keep: int) -> None:
    packer, kept = Packer(), Packer()
    mark = packer.mark()
    for number, size in enumerate(sizes):
        if number == keep:
            mark = packer.mark()
        packer.opaque(bytes([number]) * size)
    if keep < len(sizes):
        packer.rollback(mark)
    for number, size in enumerate(sizes[:keep] if keep < len(sizes) else sizes):
        kept.opaque(bytes([number]) * size)
    packer.uint32(5)
    kept.uint32(5)
    assert packer.getvalue() == kept.getvalue()
    assert len(packer) == len(kept)


def test_what_is_left_is_too_many() -> None:
    with pytest.raises(XdrError):
        Unpacker(bytes(4)).done()


def test_a_chain_up_to_its_limit() -> None:
    chain = PackedChain(24)
    assert chain.append(Named("abc")) and chain.append(Named("defg")) and not chain.append(Named(""))
    assert (len(chain), chain.size) == (2, 24)
    pack = PackedChain.or_list(lambda value, packer: packer.uint32(len(value)))
    packer = Packer()
    pack(chain, packer)
    assert packer.getvalue().hex(" ", 4) == "00000001 00000003 61626300 00000001 00000004 64656667 00000000"
    pack([1, 2], packer)
    assert packer.getvalue().endswith(b"\0\0\0\x02")
