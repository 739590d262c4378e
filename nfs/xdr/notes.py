"""What a field of a structure may be: the second half of `Annotated[type, note]`."""

from __future__ import annotations

import enum
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Final

from quicfs.nfs.xdr.stream import Packer, Unpacker

Pack = Callable[[Any, Packer], None]
Unpack = Callable[[Unpacker], Any]

UNLIMITED: Final = 0xFFFFFFFF


@dataclass(frozen=True)
class Integer:
    code: str  # of the module struct


Int32 = Annotated[int, Integer("i")]
Uint32 = Annotated[int, Integer("I")]
Int64 = Annotated[int, Integer("q")]
Uint64 = Annotated[int, Integer("Q")]


@dataclass(frozen=True)
class Opaque:
    """Variable-length opaque data, copied."""

    limit: int = UNLIMITED


@dataclass(frozen=True)
class Payload:
    """The same, unpacked as a view of the message and packed by reference when it is large."""

    limit: int = UNLIMITED


@dataclass(frozen=True)
class String:
    """Names and paths: as os.fsdecode makes them of the bytes."""

    limit: int = UNLIMITED


@dataclass(frozen=True)
class Fixed:
    length: int


@dataclass(frozen=True)
class Array:
    limit: int = UNLIMITED


@dataclass(frozen=True)
class Chain:
    limit: int = UNLIMITED


@dataclass(frozen=True)
class Switch:
    """`arms[tag]` is the class of the value under that tag, None for void. Unknown tags are an error."""

    tag: type[enum.IntEnum]
    arms: Mapping[int, type | None] = field(hash=False)


@dataclass(frozen=True)
class Codec:
    """What packs and unpacks itself."""

    pack: Pack
    unpack: Unpack


@dataclass(frozen=True)
class Inline:
    """A value computed of some fixed fields: part of the run that it stands in. `pack` holds one expression for each of
    `codes` (of the module struct) with `{}` for the value, `unpack` one with `{0}`, `{1}`... for what was read; `names`
    is what they refer to."""

    codes: tuple[str, ...]
    pack: tuple[str, ...]
    unpack: str
    names: Mapping[str, Any] = field(default_factory=dict, hash=False)
