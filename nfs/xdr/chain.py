"""A linked list packed element by element, up to a number of bytes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from quicfs.nfs.xdr.compiler import Struct
from quicfs.nfs.xdr.notes import Pack
from quicfs.nfs.xdr.stream import Packer


class PackedChain:
    """Directory entries as they are found: packed once, counted once."""

    __slots__ = ("_limit", "count", "packer")

    def __init__(self, limit: int) -> None:
        """`limit`: bytes of the elements, without the end of the list."""
        self.packer = Packer()
        self.count = 0
        self._limit = limit

    def __len__(self) -> int:
        return self.count

    @property
    def size(self) -> int:
        return len(self.packer.buffer)

    def append(self, element: Struct) -> bool:
        """False if there is no room for this one; it is not added then."""
        buffer = self.packer.buffer
        before = len(buffer)
        self.packer.uint32(1)
        element.pack(self.packer)
        return self.fits(before)

    def fits(self, before: int) -> bool:
        """Whether what was packed since `before` may stay; it is taken back if not."""
        buffer = self.packer.buffer
        if len(buffer) > self._limit:
            del buffer[before:]
            return False
        self.count += 1
        return True

    @staticmethod
    def or_list(pack_list: Pack) -> Callable[[Any, Packer], None]:
        """How a field is packed that is either a PackedChain or a list."""

        def pack(value: Any, packer: Packer) -> None:
            if isinstance(value, PackedChain):
                packer.buffer += value.packer.buffer
                packer.uint32(0)
            else:
                pack_list(value, packer)

        return pack
