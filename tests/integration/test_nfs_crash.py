"""Kill -9 of an NFS server and of clients in mid-write. `python -m tests.crash` does it as often as wanted."""

from __future__ import annotations

import asyncio
from pathlib import Path

from tests.crash.processes import QuicfsServe, Server
from tests.crash.trials import kill_the_client, kill_the_server


def test_nothing_that_was_committed_is_lost_with_the_server(tmp_path: Path) -> None:
    report = asyncio.run(kill_the_server(Server(tmp_path, 30.0), 4, seed=1))
    assert report.kills == 4 and report.kept > 0 and report.refused > 0


def test_nor_with_the_program_that_serves_over_quic(tmp_path: Path) -> None:
    report = asyncio.run(kill_the_server(QuicfsServe(tmp_path), 2, seed=3))
    assert report.kills == 2 and report.kept > 0 and report.refused > 0


def test_the_lock_of_a_dead_client_is_free_after_its_lease(tmp_path: Path) -> None:
    report = asyncio.run(kill_the_client(Server(tmp_path, 2.0), 2, seed=2))
    assert report.kills == 2 and report.kept > 0 and report.refused > 0
