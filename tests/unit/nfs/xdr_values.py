"""Hypothesis strategies for whatever a field of an XDR structure may be."""

from __future__ import annotations

import enum
import os
import types
import typing
from typing import Annotated, Any

from hypothesis import strategies as st

from quicfs.nfs.v3 import nfs3
from quicfs.nfs.v3 import types as types3
from quicfs.nfs.v4 import (
    attributes,
    callback,
    const,
    operations_directories,
    operations_files,
    operations_open,
)
from quicfs.nfs.v4.types import Bitmap, SpecData, WriteResponse
from quicfs.nfs.xdr import Array, Chain, Codec, Fixed, Inline, Opaque, Payload, String, Struct, Switch
from quicfs.nfs.xdr.notes import Integer

U32 = st.integers(0, 0xFFFFFFFF)
U64 = st.integers(0, 0xFFFFFFFF_FFFFFFFF)
INTEGERS = {
    "I": U32,
    "Q": U64,
    "i": st.integers(-(1 << 31), (1 << 31) - 1),
    "q": st.integers(-(1 << 63), (1 << 63) - 1),
}
NAMES = st.one_of(st.text(max_size=20), st.binary(max_size=20)).map(
    lambda name: (name.encode("utf-8", "ignore") if isinstance(name, str) else name).decode(
        "utf-8", "surrogateescape"
    )
)
TIMES4 = st.integers(-(1 << 62), 1 << 62)
TIMES3 = st.integers(0, (1 << 32) * 1_000_000_000 - 1)
BITMAPS = st.one_of(st.integers(0, (1 << 87) - 1), st.sampled_from([0, 1, 1 << 31, 1 << 32, 1 << 96]))


def some_attributes() -> st.SearchStrategy[dict[attributes.Attribute, Any]]:
    return st.sets(st.sampled_from(list(attributes.Attribute)), max_size=12).flatmap(
        lambda chosen: st.fixed_dictionaries({one: attribute_value(one) for one in chosen})
    )


def attribute_value(attribute: attributes.Attribute) -> st.SearchStrategy[Any]:
    return values_of(attributes.TYPES[attribute])


def _special() -> dict[Any, st.SearchStrategy[Any]]:
    """Unions with functions of their own."""
    kind = const.FileType
    linkdata = st.builds(operations_directories.CreateType, st.just(kind.LNK), linkdata=NAMES)
    device = st.builds(
        operations_directories.CreateType,
        st.sampled_from([kind.BLK, kind.CHR]),
        devdata=st.builds(SpecData, U32, U32),
    )
    other = st.builds(operations_directories.CreateType, st.sampled_from([kind.DIR, kind.FIFO, 0, 77]))
    mode = const.CreateMode
    how = st.one_of(
        st.builds(
            operations_open.CreateHow,
            st.sampled_from([mode.UNCHECKED, mode.GUARDED]),
            attrs=some_attributes(),
        ),
        st.builds(
            operations_open.CreateHow, st.just(mode.EXCLUSIVE), verifier=st.binary(min_size=8, max_size=8)
        ),
        st.builds(
            operations_open.CreateHow,
            st.just(mode.EXCLUSIVE4_1),
            attrs=some_attributes(),
            verifier=st.binary(min_size=8, max_size=8),
        ),
    )
    why = const.WhyNoDelegation
    signalled = st.sampled_from([why.CONTENTION, why.RESOURCE])
    return {
        operations_directories.CreateType: st.one_of(linkdata, device, other),
        operations_open.CreateHow: how,
        operations_open.NoDelegation: st.one_of(
            st.builds(operations_open.NoDelegation, signalled, will=st.booleans()),
            st.builds(operations_open.NoDelegation, st.sampled_from([why.NOT_WANTED, why.IS_DIR])),
        ),
        operations_files.Secinfo: st.one_of(
            st.builds(operations_files.Secinfo, st.sampled_from([0, 1, 7, 99])),
            st.builds(
                operations_files.Secinfo, st.just(6), st.deferred(lambda: values_of(operations_files.GssInfo))
            ),
        ),
        callback.OffloadInfo: st.one_of(
            st.builds(callback.OffloadInfo, st.just(0), st.deferred(lambda: values_of(WriteResponse))),
            st.builds(callback.OffloadInfo, st.sampled_from([5, 10008]), bytes_copied=U64),
        ),
        nfs3.CreateHow: st.one_of(
            st.builds(
                nfs3.CreateHow,
                st.sampled_from([types3.CreateMode.UNCHECKED, types3.CreateMode.GUARDED]),
                st.deferred(lambda: values_of(types3.Sattr)),
            ),
            st.builds(
                nfs3.CreateHow,
                st.just(types3.CreateMode.EXCLUSIVE),
                verf=st.binary(min_size=8, max_size=8),
            ),
        ),
        nfs3.MknodData: st.one_of(
            st.builds(
                nfs3.MknodData,
                st.sampled_from([types3.FileType.CHR, types3.FileType.BLK]),
                st.deferred(lambda: values_of(types3.Sattr)),
                st.builds(types3.SpecData, U32, U32),
            ),
            st.builds(
                nfs3.MknodData,
                st.sampled_from([types3.FileType.SOCK, types3.FileType.FIFO]),
                st.deferred(lambda: values_of(types3.Sattr)),
            ),
            st.builds(nfs3.MknodData, st.sampled_from([1, 2, 5, 1000])),
        ),
    }


def _noted(hint: Any) -> st.SearchStrategy[Any]:
    inner, note = hint.__origin__, hint.__metadata__[0]
    match note:
        case Integer(code):
            return INTEGERS[code]
        case Opaque(limit) | Payload(limit):
            return st.binary(max_size=min(limit, 40))
        case String(limit):
            return NAMES.filter(lambda name: len(os.fsencode(name)) <= limit)
        case Fixed(length):
            return st.binary(min_size=length, max_size=length)
        case Array() | Chain():
            return st.lists(values_of(typing.get_args(inner)[0]), max_size=3)
        case Switch():
            return st.one_of(*(st.none() if arm is None else values_of(arm) for arm in note.arms.values()))
        case Inline(codes):
            return TIMES4 if codes[0] == "q" else TIMES3
        case Codec():
            if hint == Bitmap:
                return BITMAPS
            if hint == attributes.Fattr:
                return some_attributes()
            if hint == types3.SetTime:
                return st.one_of(st.none(), st.just(types3.NOW), TIMES3)
            if hint == attributes.TYPES[attributes.Attribute.TIME_ACCESS_SET]:
                return st.one_of(st.none(), TIMES4)
            for entry in (operations_directories.Entry, nfs3.Entry, nfs3.EntryPlus):
                if entry in [one for union in typing.get_args(inner) for one in typing.get_args(union)]:
                    return st.lists(values_of(entry), max_size=3)
    raise AssertionError(hint)


def values_of(hint: Any) -> st.SearchStrategy[Any]:
    if typing.get_origin(hint) is Annotated:
        return _noted(hint)
    if typing.get_origin(hint) in (types.UnionType, typing.Union):
        return st.one_of(*(values_of(one) for one in typing.get_args(hint)))
    if hint is type(None):
        return st.none()
    if hint is bool:
        return st.booleans()
    if issubclass(hint, enum.IntEnum):
        return st.sampled_from(list(hint))
    if issubclass(hint, Struct):
        return st.builds(hint, *(values_of(inner) for _, inner in hint.xdr_fields))
    return _special()[hint]
