"""Trains of short-header packets: what is opened, and what is left to other keys."""

from __future__ import annotations

import pytest

from quicfs.transport.crypto import CipherSuite, Keys
from quicfs.transport.packet import FIXED_BIT, KEY_PHASE_BIT

CID = bytes(8)


def train(suite: CipherSuite, phases: list[int]) -> tuple[bytearray, list[int], list[int]]:
    """Packets numbered from 0, one for each phase bit, all sealed with the same keys."""
    keys = Keys(suite, bytes(32))
    out = memoryview(bytearray(100 * len(phases)))
    ends = [0]
    for pn, phase in enumerate(phases):
        prefix = bytes((FIXED_BIT | phase,)) + CID
        ends.append(keys.seal_run(out, ends[-1], prefix, pn, 1, (b"payload %d" % pn,)))
    return bytearray(out[: ends[-1]]), ends[:-1], ends[1:]


@pytest.mark.parametrize("suite", CipherSuite)
@pytest.mark.parametrize(
    ("phase", "opened", "other"),
    [(-1, [0, 1, 2, 3], []), (0, [0, 1, 3], [2]), (KEY_PHASE_BIT, [2], [0, 1, 3])],
)
def test_key_phase(suite: CipherSuite, phase: int, opened: list[int], other: list[int]) -> None:
    """RFC 9001 §6.3: the bit that header protection hides tells which keys to use."""
    data, starts, stops = train(suite, [0, 0, KEY_PHASE_BIT, 0])
    before = bytes(data)
    keys = Keys(suite, bytes(32))
    out = memoryview(bytearray(len(data)))
    got, left = keys.open_run(memoryview(data), starts, stops, 1 + len(CID), -1, out, phase)
    assert [(pn, bytes(payload)) for pn, _, payload in got] == [(pn, b"payload %d" % pn) for pn in opened]
    assert left == other
    assert data == before


def test_too_short_for_a_sample() -> None:
    keys = Keys(CipherSuite.AES_128_GCM, bytes(32))
    data = memoryview(bytearray(20))
    assert keys.open_run(data, [0], [20], 9, -1, memoryview(bytearray(20))) == ([], [])
