"""Path MTU discovery against simulated paths."""

from __future__ import annotations

import random

import pytest

from quicfs.transport.limits import MTU_RAISE_INTERVAL
from quicfs.transport.pmtud import BLACK_HOLE_THRESHOLD, MAX_PROBES, Pmtud, PmtudState

BASE = 1200


def search(pmtud: Pmtud, mtu: int, now: float = 0.0, loss: random.Random | None = None) -> list[int]:
    """Probe until there is nothing to probe; the sizes that were sent."""
    sizes = []
    while (size := pmtud.next_probe(now)) is not None:
        sizes.append(size)
        assert pmtud.current < size
        pmtud.on_probe_sent(size, len(sizes), now)
        assert pmtud.next_probe(now) is None
        if size <= mtu and (loss is None or loss.random() > 0.1):
            pmtud.on_probe_acked(size)
        else:
            pmtud.on_probe_lost(size)
        assert len(sizes) < 60
    return sizes


@pytest.mark.parametrize("bound", [1452, 1472, 8972, 65_507, 65_527])
def test_one_probe_when_the_interface_is_right(bound: int) -> None:
    pmtud = Pmtud(BASE, bound)
    assert search(pmtud, bound) == [bound]
    assert pmtud.current == bound
    assert pmtud.state is PmtudState.SEARCH_COMPLETE
    assert pmtud.timeout() is None  # nothing to raise


@pytest.mark.parametrize("mtu", [1232, 1252, 1372, 1392, 1452, 1464, 1472, 8952, 8972, 16_384, 65_487])
@pytest.mark.parametrize("bound", [1472, 8972, 65_527])
def test_common_paths_are_found_exactly_or_nearly(mtu: int, bound: int) -> None:
    pmtud = Pmtud(BASE, bound)
    sizes = search(pmtud, mtu)
    target = min(mtu, bound)
    assert pmtud.current <= target
    assert pmtud.current >= target * 0.97
    assert len(set(sizes)) <= 10


@pytest.mark.parametrize("mtu", range(1200, 1480, 7))
def test_odd_paths_are_found_nearly(mtu: int) -> None:
    pmtud = Pmtud(BASE, 65_527)
    search(pmtud, mtu)
    assert mtu * 0.97 <= pmtud.current <= mtu


def test_random_loss_does_not_spoil_the_search() -> None:
    for seed in range(50):
        pmtud = Pmtud(BASE, 65_527)
        sizes = search(pmtud, 8972, loss=random.Random(seed))
        assert pmtud.current > BASE
        assert all(sizes.count(size) <= MAX_PROBES for size in sizes)


def test_no_probe_where_the_base_is_all() -> None:
    pmtud = Pmtud(BASE, BASE)
    assert pmtud.next_probe(0.0) is None
    assert pmtud.current == BASE


def test_a_narrow_path_is_asked_again_later() -> None:
    pmtud = Pmtud(BASE, 1472)
    search(pmtud, 1392, now=10.0)
    assert pmtud.current == 1392
    assert pmtud.timeout() == 10.0 + MTU_RAISE_INTERVAL
    pmtud.on_timeout(20.0)
    assert pmtud.next_probe(20.0) is None
    pmtud.on_timeout(10.0 + MTU_RAISE_INTERVAL)
    assert search(pmtud, 1472, now=700.0) == [1472]
    assert pmtud.current == 1472


def test_the_peers_limit_is_kept() -> None:
    pmtud = Pmtud(BASE, 65_527)
    pmtud.set_bound(1400)
    assert search(pmtud, 65_527) == [1400]
    pmtud = Pmtud(BASE, 65_527)
    search(pmtud, 65_527)
    pmtud.set_bound(4000)
    assert pmtud.current == 4000
    pmtud.set_bound(9000)
    assert pmtud.current == 4000
    pmtud.set_bound(100)
    assert pmtud.current == BASE


def test_black_hole() -> None:
    pmtud = Pmtud(BASE, 8972)
    search(pmtud, 8972)
    for _ in range(BLACK_HOLE_THRESHOLD - 1):
        assert not pmtud.on_lost(8972, 1.0)
    assert pmtud.current == 8972
    assert pmtud.on_lost(8972, 1.0)
    assert pmtud.current == BASE
    search(pmtud, 1472, now=2.0)
    assert pmtud.current == 1472


def test_ordinary_loss_is_no_black_hole() -> None:
    pmtud = Pmtud(BASE, 8972)
    search(pmtud, 8972)
    for _ in range(50):
        assert not pmtud.on_lost(8972, 1.0)
        assert not pmtud.on_lost(8972, 1.0)
        pmtud.on_acked(8972)
    for _ in range(50):
        assert not pmtud.on_lost(BASE, 1.0)
    assert pmtud.current == 8972


def test_small_datagrams_prove_nothing() -> None:
    pmtud = Pmtud(BASE, 8972)
    search(pmtud, 8972)
    results = []
    for _ in range(BLACK_HOLE_THRESHOLD):
        results.append(pmtud.on_lost(8972, 1.0))
        pmtud.on_acked(BASE)
    assert results[-1]


def test_answers_about_forgotten_probes_are_ignored() -> None:
    pmtud = Pmtud(BASE, 8972)
    size = pmtud.next_probe(0.0)
    assert size is not None
    pmtud.on_probe_sent(size, 1, 0.0)
    pmtud.on_black_hole()
    pmtud.on_probe_lost(size)
    pmtud.on_probe_acked(size)
    assert pmtud.current == BASE
    assert pmtud.next_probe(0.0) == size
