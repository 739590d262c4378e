"""Random frames: well-formed, with values that are small, large, or next to a limit; and now and then broken."""

from __future__ import annotations

import random
from collections.abc import Callable

from quicfs.transport import frame, frame_ack, frame_datagram, limits, varint

_EDGES = (
    0,
    1,
    2,
    63,
    64,
    limits.STREAM_WINDOW - 1,
    limits.STREAM_WINDOW,
    limits.CONNECTION_WINDOW,
    limits.MAX_CRYPTO_BUFFER,
    (1 << 60) - 1,
    1 << 60,
    varint.MAX - 1,
    varint.MAX,
)


class FrameMaker:
    """Frames from one random source. A `patient` one avoids what closes a connection at once, to reach states that
    a wild one does not live to see."""

    def __init__(self, rng: random.Random, *, patient: bool = False) -> None:
        self._rng = rng
        self._patient = patient

        def new_token() -> bytes:
            return frame.write_new_token(rng.randbytes(rng.randrange(1, 40)))

        self._makers: list[Callable[[], bytes]] = [
            lambda: frame.write_padding(rng.randrange(1, 20)),
            frame.write_ping,
            self._ack,
            lambda: frame.write_reset_stream(self._stream_id(), self._number(), self._number()),
            lambda: frame.write_stop_sending(self._two_way_id(), self._number()),
            self._crypto,
            new_token,
            self._stream,
            self._stream,
            self._stream,
            lambda: frame.write_max_data(self._number()),
            lambda: frame.write_max_stream_data(self._two_way_id(), self._number()),
            lambda: frame.write_max_streams(self._number(), rng.random() < 0.5),
            lambda: frame.write_data_blocked(self._number()),
            lambda: frame.write_stream_data_blocked(self._stream_id(), self._number()),
            lambda: frame.write_streams_blocked(self._number(), rng.random() < 0.5),
            self._new_connection_id,
            lambda: frame.write_retire_connection_id(rng.randrange(1, 4) if patient else self._number()),
            lambda: frame.write_path_challenge(rng.randbytes(8)),
            lambda: frame.write_path_response(rng.randbytes(8)),
            self._datagram,
            self._ack_frequency,
            frame_ack.write_immediate_ack,
            frame.write_handshake_done,
            lambda: rng.randbytes(rng.randrange(1, 12)),
        ]
        if patient:
            del self._makers[-2:]
            self._makers.remove(new_token)

    def payload(self) -> bytes:
        """One packet's content: one to six frames, sometimes cut short or with a bit turned over."""
        rng = self._rng
        data = bytearray().join(rng.choice(self._makers)() for _ in range(rng.randrange(1, 7)))
        if self._patient:
            return bytes(data[:1200])
        if rng.random() < 0.1:
            del data[rng.randrange(1, len(data) + 1) :]
        if rng.random() < 0.1:
            data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        return bytes(data[:1200])

    def _number(self) -> int:
        rng = self._rng
        if rng.random() < 0.5 or self._patient:
            return rng.randrange(100)
        return rng.choice(_EDGES)

    def _stream_id(self) -> int:
        if self._patient:
            return self._rng.choice((0, 4, 8, 2, 6))
        return self._rng.randrange(16) if self._rng.random() < 0.8 else self._number()

    def _two_way_id(self) -> int:
        return self._rng.choice((0, 4, 8)) if self._patient else self._stream_id()

    def _offset(self, length: int) -> int:
        return min(self._number(), varint.MAX - length)

    def _stream(self) -> bytes:
        rng = self._rng
        data = rng.randbytes(rng.randrange(60))
        head = frame.write_stream_header(
            self._stream_id(), self._offset(len(data)), len(data), rng.random() < 0.2
        )
        return head + data

    def _crypto(self) -> bytes:
        data = self._rng.randbytes(self._rng.randrange(60))
        return frame.write_crypto_header(self._offset(len(data)), len(data)) + data

    def _new_connection_id(self) -> bytes:
        rng = self._rng
        sequence = self._number()
        cid = rng.randbytes(rng.randrange(1, 21))
        return frame.write_new_connection_id(sequence, rng.randrange(sequence + 1), cid, rng.randbytes(16))

    def _datagram(self) -> bytes:
        data = self._rng.randbytes(self._rng.randrange(80))
        return frame_datagram.write_datagram_header(len(data)) + data

    def _ack_frequency(self) -> bytes:
        rng = self._rng
        delay = rng.randrange(1_000, 100_000) if self._patient else self._number()
        return frame_ack.write_ack_frequency(rng.randrange(50), self._number(), delay, rng.randrange(6))

    def _ack(self) -> bytes:
        rng = self._rng
        ranges = []
        top = rng.randrange(8 if self._patient else 40)
        while top >= 0 and len(ranges) < 10:
            low = max(0, top - rng.randrange(5))
            ranges.append((low, top))
            top = low - 2 - rng.randrange(5)
        ecn = (self._number(), self._number(), self._number()) if rng.random() < 0.3 else None
        return frame_ack.write_ack(ranges, self._number(), ecn, 200)
