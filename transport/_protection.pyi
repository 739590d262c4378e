"""See `protection.Protection`."""

from collections.abc import Sequence

from quicfs.transport.protection import Opened

class Protection:
    def __new__(cls, key: bytes, iv: bytes, hp: bytes, *, chacha20: bool) -> Protection: ...
    def seal_run(
        self,
        out: memoryview,
        pos: int,
        prefix: bytes,
        first_pn: int,
        pn_length: int,
        payloads: Sequence[bytes],
        /,
    ) -> int: ...
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
    ) -> int: ...
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
    ) -> tuple[Opened, list[int]]: ...
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
    ) -> tuple[int, memoryview]: ...
