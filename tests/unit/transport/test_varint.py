"""Variable-length integers, with the vectors of RFC 9000 §A.1."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quicfs.transport import varint
from quicfs.transport.errors import MisuseError, ProtocolViolation, TransportErrorCode

RFC9000_A1 = [
    ("c2197c5eff14e88c", 151288809941952652),
    ("9d7f3e7d", 494878333),
    ("7bbd", 15293),
    ("25", 37),
    ("4025", 37),
]


@pytest.mark.parametrize(("encoded", "value"), RFC9000_A1)
def test_rfc_vectors(encoded: str, value: int) -> None:
    data = bytes.fromhex(encoded)
    assert varint.decode(data, 0) == (value, len(data))
    assert varint.decode(memoryview(b"\xff" + data + b"\xff"), 1) == (value, 1 + len(data))


@given(st.integers(0, varint.MAX))
def test_round_trip(value: int) -> None:
    data = varint.encode(value)
    assert len(data) == varint.size(value)
    assert varint.decode(data, 0) == (value, len(data))


@pytest.mark.parametrize("value", [0, 63, 64, 16383, 16384, (1 << 30) - 1, 1 << 30, varint.MAX])
def test_every_truncation_is_a_violation(value: int) -> None:
    data = varint.encode(value)
    for size in range(len(data)):
        with pytest.raises(ProtocolViolation) as caught:
            varint.decode(memoryview(data)[:size], 0)
        assert caught.value.code == TransportErrorCode.FRAME_ENCODING_ERROR


@pytest.mark.parametrize("value", [-1, varint.MAX + 1])
def test_out_of_range_is_misuse(value: int) -> None:
    with pytest.raises(MisuseError):
        varint.encode(value)
