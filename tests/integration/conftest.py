"""What several of these tests need: certificates, and agents that end with the test."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.integration.handshake_rig import Agents, Pki


@pytest.fixture(scope="session", autouse=True)
def _state(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """What servers keep between their runs stays out of the machine's own directories."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("STATE_DIRECTORY", str(tmp_path_factory.mktemp("state")))
        yield


@pytest.fixture(scope="module")
def pki(tmp_path_factory: pytest.TempPathFactory) -> Pki:
    return Pki(tmp_path_factory.mktemp("pki"))


@pytest.fixture
def agents() -> Iterator[Agents]:
    started = Agents()
    yield started
    started.close()
