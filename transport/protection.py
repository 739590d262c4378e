"""Sealing and opening of whole trains under one direction's keys (RFC 9001 §5.3, §5.4): what it is, and who does it.

There are two of a kind: `_protection`, in C on libcrypto, where it was built, and `plain_protection` in Python
everywhere. Both write the same bytes. QUICFS_PLAIN=1 in the environment of a process chooses Python.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Final, Protocol

TAG_LENGTH: Final = 16
SAMPLE_LENGTH: Final = 16

Opened = list[tuple[int, int, memoryview]]
"""`(packet number, first byte, payload)` of each packet, the first byte unprotected."""


class Protection(Protocol):
    """The ciphers of one direction.

    Made of `(key, iv, hp, *, chacha20)`, as RFC 9001 §5.1 has them: AES-GCM by the length of the key, or
    ChaCha20-Poly1305.
    """

    def seal_run(
        self,
        out: memoryview,
        pos: int,
        prefix: bytes,
        first_pn: int,
        pn_length: int,
        payloads: Sequence[bytes],
        /,
    ) -> int:
        """Seal consecutive packets one after the other into `out` from `pos` on; returns the end.

        `prefix` is the header up to the packet number, the same for all: for short headers the first byte
        and the connection ID. Every payload must leave 4 bytes after the start of the packet number
        before the sample (RFC 9001 §5.4.2): `pn_length + len(payload) >= 4`.
        """

    def seal_stream_run(
        self,
        out: memoryview,
        pos: int,
        prefix: bytes,
        first_pn: int,
        pn_length: int,
        head: bytes,
        offset: int,
        data: memoryview,
        step: int,
        /,
    ) -> int:
        """`seal_run` of the payloads that carry `data`, the bytes of a stream from `offset` on, `step` in each packet
        and the rest in the last: `head` (frame type and stream ID), the offset in 8 bytes, data.
        """

    def open_run(
        self,
        data: memoryview,
        starts: Sequence[int],
        stops: Sequence[int],
        pn_offset: int,
        largest_pn: int,
        out: memoryview,
        phase: int = -1,
        /,
    ) -> tuple[Opened, list[int]]:
        """Open the packets `data[start:stop]`; returns `(opened, other)`.

        `opened` has the packets that are authentic, their payloads views into `out`; `other` the indices of those
        whose Key Phase bit is not `phase` (0 or 4; -1: it does not matter), of which nothing was tried. A packet
        whose tag does not verify is in neither.

        The packets of a run share what stands between the first byte and the packet number, `pn_offset` bytes
        after the start of each (with long headers it may differ). `largest_pn` is the largest number seen so far, -1
        for none. `data` is not changed.
        """

    def open_stream_run(
        self,
        data: memoryview,
        segment_size: int,
        pn_offset: int,
        pn: int,
        phase: int,
        head: bytes,
        offset: int,
        /,
    ) -> tuple[int, memoryview]:
        """Open packets with short headers as long as they are what `seal_stream_run` makes: `(packets, stream data)`.

        The packets stand in `data` one after the other, each of `segment_size` bytes, the last of what is left. They
        count as long as their numbers are `pn` and what follows it, their reserved bits are 0, their Key Phase
        bit is `phase` (0 or 4; -1: it does not matter), their tags are right and their payloads begin with
        `head` and the offset of what continues the stream from `offset` on. At the first other one it
        ends, of which nothing is kept; it also ends after 256. The data are the caller's to keep.
        """


class _MakeProtection(Protocol):
    def __call__(self, key: bytes, iv: bytes, hp: bytes, *, chacha20: bool) -> Protection: ...


def _choose() -> _MakeProtection:
    if os.environ.get("QUICFS_PLAIN", "0") in ("", "0"):
        try:
            from quicfs.transport._protection import Protection as Leaf
        except ImportError:
            pass  # not built: there was no compiler, or no libcrypto to build against
        else:
            return Leaf
    from quicfs.transport.plain_protection import PlainProtection

    return PlainProtection


make_protection: Final = _choose()
IMPLEMENTATION: Final = "Python" if make_protection.__module__.endswith(".plain_protection") else "C"
"""In what packets are protected in this process."""
