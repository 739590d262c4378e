"""What SMB and NFS need of whatever carries them: one ordered stream of bytes each way.

A QUIC stream and a TCP connection both fit; nothing above needs to know which it is, save for `secured`.
"""

from __future__ import annotations

from typing import Protocol


class ByteStream(Protocol):
    @property
    def peer(self) -> str:
        """The other end for a person and a log: `203.0.113.7:51515`, `[2001:db8::1]:443`."""

    @property
    def secured(self) -> bool:
        """Whether the channel itself is encrypted and authenticated (QUIC is, TCP is not)."""

    async def recv(self, limit: int = 1 << 20) -> memoryview:
        """The next bytes in order, at least one and at most `limit`; empty at the end of the stream.

        The view stays valid as long as the caller keeps it and is nobody else's.
        Raises ConnectionError (with a sentence) when the stream was reset or the connection is gone.
        """

    async def send(self, *parts: bytes | memoryview) -> None:
        """Queue the parts in order as one gathered write; suspends while too much is unsent.

        The parts are not copied: their content must not change afterwards. Calls from several tasks
        do not interleave. Raises ConnectionError as `recv` does.
        """

    async def aclose(self) -> None:
        """End our direction, let what is queued go out, give the stream back. Twice is allowed."""
