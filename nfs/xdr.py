"""XDR (RFC 4506): structures declared as in the RFCs' `.x` files, packing and unpacking compiled from that.

    @struct
    class ReadArgs(Struct):
        stateid: StateId
        offset: Uint64
        count: Uint32

makes a dataclass with slots, `pack(packer)` and `unpack(unpacker)`; runs of fixed fields become one `struct.Struct`.
What a field may be: the integer types below, `bool`, an IntEnum, another such class, `X | None` (optional-data),
`Annotated[bytes, Opaque(limit)]`, `Annotated[bytes, Fixed(length)]`, `Annotated[memoryview, Payload(limit)]` (not
copied), `Annotated[str, String(limit)]` (names and paths: os.fsdecode of their bytes), `Annotated[list[X],
Array(limit)]`,
`Annotated[list[X], Chain(limit)]` (a linked list: each element says whether another follows, as directory entries do),
`Annotated[A | B | None, Switch(enum, {tag: class or None})]` for a union whose arms are told apart by their class.

Whatever a peer sent, unpacking ends with a value or with XdrError, and allocates no more than it was sent.
"""

from __future__ import annotations

import dataclasses
import enum
import os
import struct as _struct
import types
import typing
from collections.abc import Callable, Mapping
from typing import Annotated, Any, Final, Self, TypeVar, dataclass_transform

__all__ = [
    "Array",
    "Chain",
    "Fixed",
    "Int32",
    "Int64",
    "Opaque",
    "Packer",
    "Payload",
    "String",
    "Struct",
    "Switch",
    "Uint32",
    "Uint64",
    "Unpacker",
    "XdrError",
    "struct",
]

T = TypeVar("T", bound="Struct")
Buffer = bytes | memoryview

_PADDING: Final = (b"", b"\0\0\0", b"\0\0", b"\0")  # by length modulo 4
_UINT32: Final = _struct.Struct(">I")
_UINT64: Final = _struct.Struct(">Q")
_UINT32_MAX: Final = 0xFFFFFFFF
LARGE: Final = 8192
"""From here on a payload travels beside the buffer instead of being copied into it."""


class XdrError(ValueError):
    """The bytes are not what the type says (GARBAGE_ARGS, NFS4ERR_BADXDR), or a value does not fit its type."""


class Packer:
    """Collects a message. `parts()` is what to send, in order; large payloads are not copied."""

    __slots__ = ("_done", "_size", "buffer")

    def __init__(self) -> None:
        self.buffer = bytearray()
        self._done: list[Buffer | bytearray] = []
        self._size = 0

    def __len__(self) -> int:
        return self._size + len(self.buffer)

    def uint32(self, value: int) -> None:
        self.buffer += _UINT32.pack(value)

    def uint64(self, value: int) -> None:
        self.buffer += _UINT64.pack(value)

    def opaque(self, value: Buffer) -> None:
        """Variable-length opaque data (§4.10)."""
        size = len(value)
        self.buffer += _UINT32.pack(size)
        if size < LARGE:
            self.buffer += value
        else:
            self._append(value, size)
        self.buffer += _PADDING[size & 3]

    def fixed(self, value: Buffer) -> None:
        """Fixed-length opaque data (§4.9)."""
        self.buffer += value
        self.buffer += _PADDING[len(value) & 3]

    def raw(self, other: Packer) -> None:
        """What another packer holds; it must not be used afterwards."""
        if not other._done:
            self.buffer += other.buffer
            return
        self._flush()
        self._done += other._done
        self._size += other._size
        self.buffer = other.buffer

    def patch_uint32(self, position: int, value: int) -> None:
        """Overwrite four bytes of `buffer`. Only positions before any large payload may be patched."""
        target = self._done[0] if self._done else self.buffer
        assert isinstance(target, bytearray)
        _UINT32.pack_into(target, position, value)

    def parts(self) -> list[bytes | memoryview]:
        """Everything packed so far. The packer must not be used afterwards."""
        return [
            part if isinstance(part, (bytes, memoryview)) else memoryview(part)
            for part in (*self._done, self.buffer)
        ]

    def getvalue(self) -> bytes:
        return b"".join((*self._done, self.buffer))

    def _append(self, value: Buffer, size: int) -> None:
        self._flush()
        self._done.append(value)
        self._size += size

    def _flush(self) -> None:
        self._size += len(self.buffer)
        self._done.append(self.buffer)
        self.buffer = bytearray()


class Unpacker:
    """A position in a message."""

    __slots__ = ("data", "position")

    def __init__(self, data: Buffer | bytearray, position: int = 0) -> None:
        self.data = memoryview(data)
        self.position = position

    @property
    def remaining(self) -> int:
        return len(self.data) - self.position

    def uint32(self) -> int:
        try:
            value: int = _UINT32.unpack_from(self.data, self.position)[0]
        except _struct.error:
            raise XdrError("the message ends too early") from None
        self.position += 4
        return value

    def uint64(self) -> int:
        try:
            value: int = _UINT64.unpack_from(self.data, self.position)[0]
        except _struct.error:
            raise XdrError("the message ends too early") from None
        self.position += 8
        return value

    def view(self, limit: int) -> memoryview:
        """Variable-length opaque data, not copied."""
        size = self.uint32()
        if size > limit:
            raise XdrError(f"{size} bytes where {limit} are allowed")
        return self.take(size)

    def opaque(self, limit: int) -> bytes:
        return bytes(self.view(limit))

    def take(self, size: int) -> memoryview:
        """Fixed-length opaque data, not copied."""
        start = self.position
        end = start + size
        padded = end + (-size & 3)
        if padded > len(self.data):
            raise XdrError("the message ends too early")
        self.position = padded
        return self.data[start:end]

    def done(self) -> None:
        """XdrError if something is left."""
        if self.remaining:
            raise XdrError(f"{self.remaining} bytes too many")


# --- what fields may be


@dataclasses.dataclass(frozen=True)
class _Integer:
    code: str  # of the module struct


Int32 = Annotated[int, _Integer("i")]
Uint32 = Annotated[int, _Integer("I")]
Int64 = Annotated[int, _Integer("q")]
Uint64 = Annotated[int, _Integer("Q")]


@dataclasses.dataclass(frozen=True)
class Opaque:
    limit: int = _UINT32_MAX


@dataclasses.dataclass(frozen=True)
class Payload:
    limit: int = _UINT32_MAX


@dataclasses.dataclass(frozen=True)
class String:
    limit: int = _UINT32_MAX


@dataclasses.dataclass(frozen=True)
class Fixed:
    length: int


@dataclasses.dataclass(frozen=True)
class Array:
    limit: int = _UINT32_MAX


@dataclasses.dataclass(frozen=True)
class Chain:
    limit: int = _UINT32_MAX


@dataclasses.dataclass(frozen=True)
class Switch:
    """`arms[tag]` is the class of the value under that tag, None for void. Unknown tags are an error."""

    tag: type[enum.IntEnum]
    arms: Mapping[int, type | None]


class Struct:
    """What the classes that `struct` compiles inherit; the decorator puts their own functions in the place of these."""

    __slots__ = ()

    def pack(self, packer: Packer) -> None:
        raise NotImplementedError

    @classmethod
    def unpack(cls, unpacker: Unpacker) -> Self:
        raise NotImplementedError


# --- the compiler

Pack = Callable[[Any, Packer], None]
Unpack = Callable[[Unpacker], Any]


@dataclass_transform()
def struct(cls: type[T]) -> type[T]:
    """A dataclass with slots whose fields travel in their order (§4.14). Not to be changed once made; a dataclass that
    enforces that takes three times as long to make."""
    made = dataclasses.dataclass(slots=True, unsafe_hash=True)(cls)
    hints = typing.get_type_hints(made, include_extras=True)
    fields = [(field.name, hints[field.name]) for field in dataclasses.fields(made)]  # type: ignore[arg-type]
    pack, unpack = _compile(made, fields)
    made.pack = pack  # type: ignore[method-assign, assignment]
    made.unpack = staticmethod(unpack)  # type: ignore[assignment]
    return made


def _compile(cls: type, fields: list[tuple[str, Any]]) -> tuple[Pack, Unpack]:
    """Two functions, written out as source: one call of `struct` for each run of fixed fields."""
    space: dict[str, Any] = {"cls": cls, "XdrError": XdrError, "error": _struct.error}
    packing: list[str] = []
    reading: list[str] = []
    run: list[tuple[str, str, dict[int, Any] | None]] = []  # name, code, members of an enum

    def end_run() -> None:
        if not run:
            return
        number = len(space)
        layout = _struct.Struct(">" + "".join(code for _, code, _ in run))
        space[f"pack{number}"], space[f"unpack{number}"] = layout.pack, layout.unpack_from
        packing.append(f"packer.buffer += pack{number}({', '.join(f'self.{name}' for name, _, _ in run)})")
        reading.append("position = unpacker.position")
        reading.append(f"{', '.join(name for name, _, _ in run)}, = unpack{number}(unpacker.data, position)")
        reading.append(f"unpacker.position = position + {layout.size}")
        for name, _, members in run:
            if members is not None:
                space[f"members_{name}"] = members
                reading.append(f"{name} = members_{name}[{name}]")
        run.clear()

    for name, hint in fields:
        simple = _simple(hint)
        if simple is not None:
            run.append((name, *simple))
            continue
        end_run()
        pack, unpack = codec(hint)
        space[f"pack_{name}"], space[f"unpack_{name}"] = pack, unpack
        packing.append(f"pack_{name}(self.{name}, packer)")
        reading.append(f"{name} = unpack_{name}(unpacker)")
    end_run()
    made = "return cls(" + ", ".join(name for name, _ in fields) + ")"
    source = [
        "def pack(self, packer):",
        *_guarded(packing or ["pass"], 'XdrError(f"{type(self).__name__}: {reason}")'),
        "def unpack(unpacker):",
        *_guarded([*reading, made], "XdrError(f'{cls.__name__}: {reason}')"),
    ]
    exec("\n".join(source), space)
    return space["pack"], space["unpack"]


def _guarded(lines: list[str], raised: str) -> list[str]:
    body = [f"        {line}" for line in lines]
    return ["    try:", *body, "    except (error, KeyError) as reason:", f"        raise {raised} from None"]


def _simple(hint: Any) -> tuple[str, dict[int, Any] | None] | None:
    """(code, members) of an integer, a bool or an enum."""
    if typing.get_origin(hint) is Annotated:
        note = hint.__metadata__[0]
        return (note.code, None) if isinstance(note, _Integer) else None
    if hint is bool:
        return "I", {0: False, 1: True}
    if isinstance(hint, type) and issubclass(hint, enum.IntEnum):
        return "I", dict(hint._value2member_map_)
    return None


def codec(hint: Any) -> tuple[Pack, Unpack]:
    """How one field of this type is packed and unpacked."""
    if typing.get_origin(hint) is Annotated:
        inner, note = hint.__origin__, hint.__metadata__[0]
        match note:
            case Opaque(limit):
                return _pack_opaque, lambda unpacker: unpacker.opaque(limit)
            case Payload(limit):
                return _pack_opaque, lambda unpacker: unpacker.view(limit)
            case String(limit):
                return _pack_string, lambda unpacker: _unpack_string(unpacker, limit)
            case Fixed(length):
                return _fixed(length)
            case Array(limit):
                return _array(typing.get_args(inner)[0], limit)
            case Chain(limit):
                return _chain(typing.get_args(inner)[0], limit)
            case Switch():
                return _switch(note)
            case _Integer():
                return _scalar(hint)
        raise TypeError(f"{note!r} is no XDR type")
    arguments = typing.get_args(hint)
    if (
        typing.get_origin(hint) in (types.UnionType, typing.Union)
        and type(None) in arguments
        and len(arguments) == 2
    ):
        return _optional(next(argument for argument in arguments if argument is not type(None)))
    if _simple(hint) is not None:
        return _scalar(hint)
    if hasattr(hint, "unpack"):
        return hint.pack, hint.unpack
    raise TypeError(f"{hint!r} is no XDR type")


def _pack_opaque(value: Buffer, packer: Packer) -> None:
    packer.opaque(value)


def _pack_string(value: str, packer: Packer) -> None:
    packer.opaque(os.fsencode(value))


def _unpack_string(unpacker: Unpacker, limit: int) -> str:
    return os.fsdecode(unpacker.opaque(limit))


def _fixed(length: int) -> tuple[Pack, Unpack]:
    def pack(value: Buffer, packer: Packer) -> None:
        if len(value) != length:
            raise XdrError(f"{len(value)} bytes where {length} are needed")
        packer.fixed(value)

    return pack, lambda unpacker: bytes(unpacker.take(length))


def _scalar(hint: Any) -> tuple[Pack, Unpack]:
    simple = _simple(hint)
    assert simple is not None
    layout = _struct.Struct(">" + simple[0])
    members = simple[1]

    def pack(value: int, packer: Packer) -> None:
        packer.buffer += layout.pack(value)

    def unpack(unpacker: Unpacker) -> Any:
        (value,) = layout.unpack_from(
            unpacker.data, unpacker.position
        )  # struct.error: the structure's business
        unpacker.position += layout.size
        return value if members is None else members[value]

    return pack, unpack


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
    codecs = {tag: None if arm is None else codec(arm)[1] for tag, arm in note.arms.items()}

    def pack(value: Any, packer: Packer) -> None:
        packer.uint32(tags[None if value is None else type(value)])
        if value is not None:
            value.pack(packer)

    def unpack(unpacker: Unpacker) -> Any:
        unpack_arm = codecs[unpacker.uint32()]
        return None if unpack_arm is None else unpack_arm(unpacker)

    return pack, unpack
