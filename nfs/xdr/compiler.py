"""Functions that pack and unpack a list of fields, written out as source and compiled once.

Neighbouring fields of a fixed size, those of nested structures included, are one call of `struct`; the length of opaque
data belongs to the run before it.
"""

from __future__ import annotations

import dataclasses
import enum
import struct as _struct
import sys
import types
import typing
from collections.abc import Callable
from typing import Annotated, Any, ClassVar, Final, Self, TypeVar, dataclass_transform

from quicfs.nfs.xdr.notes import (
    Array,
    Chain,
    Codec,
    Fixed,
    Inline,
    Integer,
    Opaque,
    Pack,
    Payload,
    String,
    Switch,
    Unpack,
)
from quicfs.nfs.xdr.stream import PADDING, Packer, Unpacker, XdrError

T = TypeVar("T", bound="Struct")

ENCODING: Final = sys.getfilesystemencoding()
_FAILURES: Final = (_struct.error, KeyError, UnicodeError)


class Struct:
    """What the classes that `struct` compiles inherit; the decorator puts their own functions in the place of these."""

    __slots__ = ()
    xdr_fields: ClassVar[list[tuple[str, Any]]]

    def pack(self, packer: Packer) -> None:
        raise NotImplementedError

    @classmethod
    def unpack(cls, unpacker: Unpacker) -> Self:
        raise NotImplementedError


@dataclass_transform()
def struct(cls: type[T]) -> type[T]:
    """A dataclass with slots whose fields travel in their order (§4.14). Not to be changed once made; a dataclass that
    enforces that takes three times as long to make."""
    made = dataclasses.dataclass(slots=True, unsafe_hash=True)(cls)
    hints = typing.get_type_hints(made, include_extras=True)
    made.xdr_fields = [(field.name, hints[field.name]) for field in dataclasses.fields(made)]  # type: ignore[arg-type]
    pack, unpack = compile_codec(
        made.__name__,
        [(f"f_{name}", f"value.{name}", hint) for name, hint in made.xdr_fields],
        lambda made_of: f"made({', '.join(made_of)})",
        {"made": made},
    )
    made.pack = pack  # type: ignore[method-assign, assignment]
    made.unpack = staticmethod(unpack)  # type: ignore[assignment]
    return made


@dataclasses.dataclass(slots=True)
class _Leaf:
    """One value of a run."""

    code: str
    access: str  # in the packing function
    variable: str  # in the unpacking one
    length: int | None = None  # bytes that the value must have


class _Writer:
    """The two functions while they are being written."""

    def __init__(self, space: dict[str, Any]) -> None:
        self.space = space
        self.packing: list[str] = []
        self.reading: list[str] = []
        self._run: list[_Leaf] = []
        self._checks: list[str] = []
        self._names = 0

    def name(self, value: Any, what: str) -> str:
        self._names += 1
        found = f"{what}{self._names}"
        self.space[found] = value
        return found

    def field(self, variable: str, access: str, hint: Any) -> str:
        """Adds a field; the expression that makes its value of what was read."""
        made = self._fixed(variable, access, hint)
        if made is not None:
            return made
        note = hint.__metadata__[0] if typing.get_origin(hint) is Annotated else None
        if isinstance(note, (Opaque, Payload, String)):
            self._bytes(variable, access, note)
            return variable
        self.end_run()
        pack, unpack = codec(hint)
        self.packing.append(f"{self.name(pack, 'pack')}({access}, packer)")
        self.reading.append("unpacker.position = position")
        self.reading.append(f"{variable} = {self.name(unpack, 'unpack')}(unpacker)")
        self.reading.append("position = unpacker.position")
        return variable

    def _fixed(self, variable: str, access: str, hint: Any) -> str | None:
        """Adds a field of a fixed size to the run."""
        leaves: list[_Leaf] = []
        made = self._flatten(variable, access, hint, leaves)
        if made is not None:
            self._run += leaves
        return made

    def _flatten(self, variable: str, access: str, hint: Any, leaves: list[_Leaf]) -> str | None:
        simple = _simple(hint)
        if simple is not None:
            code, members = simple
            leaves.append(_Leaf(code, access, variable))
            return variable if members is None else f"{self.name(members, 'members')}[{variable}]"
        if typing.get_origin(hint) is Annotated and isinstance(hint.__metadata__[0], Fixed):
            length = hint.__metadata__[0].length
            leaves.append(_Leaf(f"{length}s{-length & 3}x", access, variable, length))
            return variable
        if typing.get_origin(hint) is Annotated and isinstance(hint.__metadata__[0], Inline):
            note = hint.__metadata__[0]
            self.space.update(note.names)
            variables = [f"{variable}_{number}" for number in range(len(note.codes))]
            for code, form, inner in zip(note.codes, note.pack, variables, strict=True):
                leaves.append(_Leaf(code, form.format(access), inner))
            return "(" + note.unpack.format(*variables) + ")"
        if isinstance(hint, type) and issubclass(hint, Struct) and hasattr(hint, "xdr_fields"):
            parts = []
            for name, inner in hint.xdr_fields:
                part = self._flatten(f"{variable}_{name}", f"{access}.{name}", inner, leaves)
                if part is None:
                    return None
                parts.append(part)
            return f"{self.name(hint, 'made')}({', '.join(parts)})"
        return None

    def _bytes(self, variable: str, access: str, note: Opaque | Payload | String) -> None:
        size, raw = f"size_{variable}", f"raw_{variable}"
        encode = f".encode({ENCODING!r}, 'surrogateescape')" if isinstance(note, String) else ""
        self.packing.append(f"{raw} = {access}{encode}")
        self.packing.append(f"{size} = len({raw})")
        self._run.append(_Leaf("I", size, size))
        self.end_run()
        if isinstance(note, Payload):
            self.packing.append(f"packer.body({raw}, {size})")
        else:
            self.packing.append("buffer = packer.buffer")
            self.packing.append(f"buffer += {raw}")
            self.packing.append(f"if {size} & 3: buffer += PADDING[{size} & 3]")
        self.reading.append(f"end = position + {size}")
        self.reading.append(f"if {size} > {note.limit} or end + (-{size} & 3) > unpacker.size:")
        self.reading.append(f"    raise XdrError('{{}} bytes of {variable}'.format({size}))")
        match note:
            case Opaque():
                self.reading.append(f"{variable} = bytes(data[position:end])")
            case Payload():
                self.reading.append(f"{variable} = data[position:end]")
            case String():
                self.reading.append(f"{variable} = str(data[position:end], {ENCODING!r}, 'surrogateescape')")
        self.reading.append(f"position = end + (-{size} & 3)")

    def end_run(self) -> None:
        run = self._run
        if not run:
            return
        layout = _struct.Struct(">" + "".join(leaf.code for leaf in run))
        for leaf in run:
            if leaf.length is not None:
                self.packing.append(
                    f"if len({leaf.access}) != {leaf.length}: raise XdrError('{leaf.length} bytes are needed')"
                )
        pack, unpack = self.name(layout.pack, "pack"), self.name(layout.unpack_from, "unpack")
        self.packing.append(f"packer.buffer += {pack}({', '.join(leaf.access for leaf in run)})")
        self.reading.append(f"{', '.join(leaf.variable for leaf in run)}, = {unpack}(data, position)")
        self.reading.append(f"position += {layout.size}")
        run.clear()


def compile_codec(
    title: str,
    fields: list[tuple[str, str, Any]],
    construct: Callable[[list[str]], str],
    space: dict[str, Any],
) -> tuple[Pack, Unpack]:
    """`fields`: (variable, expression in `value`, type). `construct` gives the expression of the unpacked whole from
    the expressions of its fields; `space` is what it refers to."""
    writer = _Writer({**space, "XdrError": XdrError, "FAILURES": _FAILURES, "PADDING": PADDING})
    made = construct([writer.field(*field) for field in fields])
    writer.end_run()
    if not writer.packing:
        writer.packing.append("pass")
    reading = ["data = unpacker.data", "position = unpacker.position", *writer.reading]
    reading += ["unpacker.position = position", f"return {made}"]
    source = [
        "def pack(value, packer):",
        *_guarded(writer.packing, title),
        "def unpack(unpacker):",
        *_guarded(reading, title),
    ]
    exec("\n".join(source), writer.space)
    return writer.space["pack"], writer.space["unpack"]


def _guarded(lines: list[str], title: str) -> list[str]:
    body = [f"        {line}" for line in lines]
    return [
        "    try:",
        *body,
        "    except FAILURES as reason:",
        f"        raise XdrError('{title}: {{}}'.format(reason)) from None",
    ]


def _simple(hint: Any) -> tuple[str, dict[int, Any] | None] | None:
    """(code, members) of an integer, a bool or an enum."""
    if typing.get_origin(hint) is Annotated:
        note = hint.__metadata__[0]
        return (note.code, None) if isinstance(note, Integer) else None
    if hint is bool:
        return "I", {0: False, 1: True}
    if isinstance(hint, type) and issubclass(hint, enum.IntEnum):
        return "I", dict(hint._value2member_map_)
    return None


def codec(hint: Any) -> tuple[Pack, Unpack]:
    """How one value of this type is packed and unpacked."""
    if typing.get_origin(hint) is Annotated:
        inner, note = hint.__origin__, hint.__metadata__[0]
        match note:
            case Array(limit):
                return _array(typing.get_args(inner)[0], limit)
            case Chain(limit):
                return _chain(typing.get_args(inner)[0], limit)
            case Switch():
                return _switch(note)
            case Codec(pack, unpack):
                return pack, unpack
            case Integer() | Inline() | Fixed() | Opaque() | Payload() | String():
                return _single(hint)
        raise TypeError(f"{note!r} is no XDR type")
    arguments = typing.get_args(hint)
    if (
        typing.get_origin(hint) in (types.UnionType, typing.Union)
        and type(None) in arguments
        and len(arguments) == 2
    ):
        return _optional(next(argument for argument in arguments if argument is not type(None)))
    if _simple(hint) is not None:
        return _single(hint)
    if hasattr(hint, "unpack"):
        return hint.pack, hint.unpack
    raise TypeError(f"{hint!r} is no XDR type")


def _single(hint: Any) -> tuple[Pack, Unpack]:
    return compile_codec("a value", [("it", "value", hint)], lambda made_of: made_of[0], {})


def _array(element: Any, limit: int) -> tuple[Pack, Unpack]:
    pack_one, unpack_one = codec(element)

    def pack(value: list[Any], packer: Packer) -> None:
        packer.uint32(len(value))
        for item in value:
            pack_one(item, packer)

    def unpack(unpacker: Unpacker) -> list[Any]:
        count = unpacker.uint32()
        # No element is shorter than four bytes: the message bounds what is made.
        if count > limit or count * 4 > unpacker.remaining:
            raise XdrError(f"{count} elements where {limit} are allowed")
        return [unpack_one(unpacker) for _ in range(count)]

    return pack, unpack


def _chain(element: Any, limit: int) -> tuple[Pack, Unpack]:
    pack_one, unpack_one = codec(element)

    def pack(value: list[Any], packer: Packer) -> None:
        for item in value:
            packer.uint32(1)
            pack_one(item, packer)
        packer.uint32(0)

    def unpack(unpacker: Unpacker) -> list[Any]:
        found: list[Any] = []
        while (more := unpacker.uint32()) == 1:
            if len(found) >= limit:
                raise XdrError(f"more than {limit} elements")
            found.append(unpack_one(unpacker))
        if more:
            raise XdrError(f"{more} is no boolean")
        return found

    return pack, unpack


def _optional(element: Any) -> tuple[Pack, Unpack]:
    pack_one, unpack_one = codec(element)

    def pack(value: Any, packer: Packer) -> None:
        packer.uint32(value is not None)
        if value is not None:
            pack_one(value, packer)

    def unpack(unpacker: Unpacker) -> Any:
        match unpacker.uint32():
            case 0:
                return None
            case 1:
                return unpack_one(unpacker)
            case other:
                raise XdrError(f"{other} is no boolean")

    return pack, unpack


def _switch(note: Switch) -> tuple[Pack, Unpack]:
    tags = {arm: tag for tag, arm in note.arms.items()}
    assert len(tags) == len(note.arms), "each arm needs a class of its own"
    codecs = {int(tag): None if arm is None else codec(arm)[1] for tag, arm in note.arms.items()}

    def pack(value: Any, packer: Packer) -> None:
        packer.uint32(tags[None if value is None else type(value)])
        if value is not None:
            value.pack(packer)

    def unpack(unpacker: Unpacker) -> Any:
        tag = unpacker.uint32()
        if tag not in codecs:
            raise XdrError(f"{tag} is none of {note.tag.__name__}")
        unpack_arm = codecs[tag]
        return None if unpack_arm is None else unpack_arm(unpacker)

    return pack, unpack
