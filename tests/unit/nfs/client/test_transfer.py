"""How much may come along with a small READ."""

from __future__ import annotations

import pytest

from quicfs.nfs.client.transfer import Pace


@pytest.mark.parametrize(
    ("trip", "per_second", "around"),
    [
        (0.001, 150e6, 65_536),  # loopback
        (0.0005, 110e6, 16_384),  # a network of 1 Gbit/s
        (0.05, 1.2e6, 16_384),  # 10 Mbit/s, far away
        (0.05, 1e9, 131_072),
    ],
)
def test_half_a_round_trip_is_free(trip: float, per_second: float, around: int) -> None:
    pace = Pace()
    assert pace.free == 16_384 and pace.seconds(1) is None
    for _ in range(50):
        pace.note(trip, 200)
        pace.note(trip + 100_000 / per_second, 100_000)
    assert pace.free == around
    assert pace.seconds(1_000_000) == pytest.approx(trip + 1_000_000 / per_second, rel=0.1)
