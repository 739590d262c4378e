"""Floods that a hostile peer of an open connection may send, and what each may cost."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

from quicfs.transport import frame, frame_ack, limits
from quicfs.transport.packet import FIXED_BIT

from .hostile import Sealer

KIB = 1024

Make = Callable[[Sealer, int], list[bytes]]


def _full(frames: Callable[[int], bytes], size: int = 1150) -> Make:
    """Packets full of one kind of frame; `frames` gets a running number."""

    def make(attacker: Sealer, count: int) -> list[bytes]:
        packets, number = [], 0
        for _ in range(count):
            payload = b""
            while len(payload) < size:
                payload += frames(number)
                number += 1
            packets.append(attacker.seal(payload))
        return packets

    return make


def stream(stream_id: int, offset: int, data: bytes, fin: bool = False) -> bytes:
    return frame.write_stream_header(stream_id, offset, len(data), fin) + data


def _far_apart(number: int) -> bytes:
    """One byte here, one there."""
    return stream(0, (number * 7919) % (limits.STREAM_WINDOW - 2), b"x")


def _crumbs(attacker: Sealer, count: int) -> list[bytes]:
    """Stream data in order, a byte in each frame."""
    packets = []
    for _ in range(count):
        payload = b""
        while len(payload) < 1150:
            payload += stream(0, attacker.written, b"x")
            attacker.written += 1
        packets.append(attacker.seal(payload))
    return packets


def _crypto_comb(number: int) -> bytes:
    return frame.write_crypto_header(1 + 2 * (number % 20_000), 1) + b"x"


def _open_and_reset(attacker: Sealer, count: int) -> list[bytes]:
    """As many streams as allowed, each reset at once, again and again."""
    packets, number = [], 0
    for _ in range(count):
        payload = b""
        while len(payload) < 1100:
            stream_id = 4 * (number % limits.MAX_STREAMS_UNI) + 2
            payload += stream(stream_id, 0, b"x") + frame.write_reset_stream(stream_id, 7, 1)
            number += 1
        packets.append(attacker.seal(payload))
    return packets


def _acks(attacker: Sealer, count: int) -> list[bytes]:
    """ACK frames of as many ranges as a datagram holds, of packets that were sent and long acknowledged."""
    ack = frame_ack.write_ack([(0, 0)], 0, None, 1000)
    return [attacker.seal(ack * (1150 // len(ack))) for _ in range(count)]


def _unsent(attacker: Sealer, count: int) -> list[bytes]:
    """ACK of a packet that was never sent."""
    ack = frame_ack.write_ack([(1 << 20, 1 << 20)], 0, None, 100)
    return [attacker.seal(ack) for _ in range(count)]


def _closes(attacker: Sealer, count: int) -> list[bytes]:
    close = frame.write_connection_close(7, None, "enough", 200)
    return [attacker.seal(close) for _ in range(count)]


def _retired(attacker: Sealer, count: int) -> list[bytes]:
    """Whatever ID the server issues is retired."""
    return [attacker.seal(frame.write_retire_connection_id(number % 4 + 1)) for number in range(count)]


def _resets(attacker: Sealer, count: int) -> list[bytes]:
    """Guesses at a stateless reset token, for the ID in use."""
    rng = random.Random(1)
    return [bytes((FIXED_BIT,)) + attacker.cid + rng.randbytes(60) for _ in range(count)]


def _replayed(attacker: Sealer, count: int) -> list[bytes]:
    packet = attacker.seal(stream(0, 0, b"once"))
    return [packet] * count


def _forged(attacker: Sealer, count: int) -> list[bytes]:
    """Full packets for the right ID that do not open."""
    rng = random.Random(2)
    return [bytes((FIXED_BIT,)) + attacker.cid + rng.randbytes(1190) for _ in range(count)]


@dataclass
class Flood:
    make: Make
    memory: int
    """Bytes that it may make the server hold."""
    times: float = 4.0
    """Processor time per datagram, as a multiple of what an ordinary full packet takes."""
    survives: bool = True
    """False if the server closes the connection for it."""
    count: int = 200


FLOODS: dict[str, Flood] = {
    "PATH_CHALLENGE": Flood(_full(lambda n: frame.write_path_challenge(n.to_bytes(8, "big"))), 256 * KIB),
    "NEW_CONNECTION_ID with Retire Prior To": Flood(
        _full(
            lambda n: frame.write_new_connection_id(n + 10, n + 10, (n + 10).to_bytes(8, "big"), bytes(16))
        ),
        64 * KIB,
        survives=False,
    ),
    "RETIRE_CONNECTION_ID": Flood(_retired, 128 * KIB),
    "CRYPTO in pieces": Flood(_full(_crypto_comb), 2048 * KIB, survives=False),
    "STREAM frames far apart": Flood(_full(_far_apart), 2048 * KIB, survives=False),
    "stream data in crumbs": Flood(_crumbs, 2048 * KIB),
    "streams opened and reset": Flood(_open_and_reset, 512 * KIB),
    "MAX_STREAM_DATA": Flood(_full(lambda n: frame.write_max_stream_data(0, n)), 128 * KIB),
    "STREAM_DATA_BLOCKED": Flood(_full(lambda n: frame.write_stream_data_blocked(0, n)), 128 * KIB),
    "PING": Flood(_full(lambda n: frame.write_ping()), 128 * KIB),
    "ACK again and again": Flood(_acks, 128 * KIB),
    "ACK of packets never sent": Flood(_unsent, 128 * KIB, times=2.0, survives=False),
    "CONNECTION_CLOSE": Flood(_closes, 128 * KIB, times=2.0, survives=False),
    "packets replayed": Flood(_replayed, 128 * KIB, times=2.0),
    "packets that do not open": Flood(_forged, 128 * KIB, times=2.0),
    "guesses at a reset token": Flood(_resets, 128 * KIB, times=2.0),
    "zero-length and tiny datagrams": Flood(
        lambda attacker, count: [b"", b"\x40", b"\xc0"] * count, 128 * KIB, times=2.0
    ),
}
