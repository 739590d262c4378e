"""What several of these tests need: certificates, and agents that end with the test."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.integration.handshake_rig import Agents, Pki


@pytest.fixture(scope="module")
def pki(tmp_path_factory: pytest.TempPathFactory) -> Pki:
    return Pki(tmp_path_factory.mktemp("pki"))


@pytest.fixture
def agents() -> Iterator[Agents]:
    started = Agents()
    yield started
    started.close()
