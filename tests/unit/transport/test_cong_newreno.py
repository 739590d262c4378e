"""NewReno's congestion avoidance, in whatever batches acknowledgments come."""

from __future__ import annotations

import pytest

from quicfs.transport.cong_newreno import NewReno
from quicfs.transport.rtt import RttEstimator

MDS = 1200


def after_a_loss() -> NewReno:
    cong = NewReno(MDS)
    cong.on_ack(1.0, 108_000, 0.9, RttEstimator(), False)
    cong.on_congestion_event(1.1, 1.05)
    assert cong.cwnd == 60_000
    return cong


@pytest.mark.parametrize("batch", [MDS, 5 * MDS, 60_000])
def test_one_datagram_per_window(batch: int) -> None:
    cong = after_a_loss()
    for step in range(60_000 // batch):
        cong.on_ack(2.0 + step, batch, 2.0, RttEstimator(), False)
    assert cong.cwnd == 60_000 + MDS


def test_batch_of_several_windows() -> None:
    cong = after_a_loss()
    cong.on_ack(2.0, 60_000 + 61_200 + 62_400, 1.5, RttEstimator(), False)
    assert cong.cwnd == 60_000 + 3 * MDS
