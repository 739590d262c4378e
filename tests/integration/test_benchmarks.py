"""The benchmarks' machinery, in a run that is too short for its figures to mean anything."""

from __future__ import annotations

import pytest

from tests.conftest import Require
from tests.perf import exchanges, figures, memory, mount_work, nfs_calls
from tests.perf.figures import Figure
from tests.perf.mounts import MOUNTS
from tests.perf.small import PEERS, SmallPeer


def ours_and(*names: str) -> list[SmallPeer]:
    return [peer for peer in PEERS if peer.name in ("quicfs", *names)]


@pytest.mark.parametrize(
    ("benchmark", "cases"), [("handshakes", exchanges.HANDSHAKES), ("requests", exchanges.REQUESTS)]
)
def test_exchanges_a_second(benchmark: str, cases: tuple[exchanges.Case, ...], require: Require) -> None:
    require("libgnutls", "aioquic")
    told: list[str] = []
    found = list(exchanges.measure(benchmark, cases, ours_and("aioquic", "tls-tcp"), 1, 0.2, told.append))
    assert [figure.error for figure in found] == [None] * len(found)
    assert all(figure.median for figure in found)
    assert (
        len(told)
        == len(found)
        == sum(1 for case in cases for peer in ours_and("aioquic", "tls-tcp") if case.possible(peer))
    )


def test_memory_of_idle_connections(require: Require) -> None:
    require("libgnutls")
    (figure,) = memory.measure(ours_and(), 50, 0, lambda line: None)
    assert figure.error is None
    assert figure.median is not None and 0 < figure.median < 500


@pytest.mark.fuse
def test_work_on_mounts(require: Require) -> None:
    require("fuse", "root", "fio", "git", "sshfs", "/usr/sbin/sshd")
    mounts = [mount for mount in MOUNTS if not mount.missing]
    assert {"quicfs-smb", "sshfs"} <= {mount.name for mount in mounts}
    found = list(mount_work.measure(mounts, 1, mount_work.Settings(0.3, 4, 2), lambda line: None))
    assert [figure.error for figure in found] == [None] * len(found)
    assert len(found) == len(mounts) * len(mount_work.WORK) and all(figure.median for figure in found)


def test_calls_to_nfs_servers(require: Require) -> None:
    require("root", "ganesha.nfsd", "nfs_rs")
    servers = [server for server in nfs_calls.PEERS if not server.missing]
    assert "nfs-ganesha" in {server.name for server in servers}
    found = list(nfs_calls.measure(servers, 1, 0.1, lambda line: None))
    assert [figure.error for figure in found] == [None] * len(found)
    assert all(figure.median for figure in found)


def test_many_cases_are_rows() -> None:
    found = [
        Figure("calls", f"case-{number}", name, "per second", [1.0 + number])
        for number in range(7)
        for name in ("quicfs", "other")
    ]
    assert "| case-6, per second | 7 | 7 (×1.0) |" in figures.markdown(found)


def test_figures_of_different_kinds() -> None:
    found = [
        Figure("speed", "case", "quicfs", "per second", [30.0, 10.0, 20.0]),
        Figure("speed", "case", "other", "per second", [10.0]),
        Figure("size", "case", "quicfs", "KiB", [20.0], smaller_is_better=True),
        Figure("size", "case", "other", "KiB", [10.0], smaller_is_better=True),
        Figure("size", "case", "broken", "KiB", error="it did not start", smaller_is_better=True),
    ]
    assert list(figures.ratios(found)) == [
        ("speed.case.other", 20.0, 10.0, 2.0),
        ("size.case.other", 20.0, 10.0, 0.5),
    ]
    shown = figures.markdown(found)
    assert "| other | 10 (×2.0) |" in shown and "| other | 10 (×0.5) |" in shown
    assert "| broken | failed |" in shown
