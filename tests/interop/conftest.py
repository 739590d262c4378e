import os
import time
from collections.abc import Callable, Iterator

import pytest

from quicfs import certs


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> certs.CertificateFiles:
    """A CA and a certificate for localhost."""
    return certs.create(tmp_path_factory.mktemp("certificates"), ["localhost", "127.0.0.1"])


@pytest.fixture
def need() -> Callable[[bool, str], None]:
    """`need(condition, what)`: without it the test is skipped on a laptop and fails in CI."""

    def need(condition: bool, what: str) -> None:
        if not condition:
            (pytest.fail if os.environ.get("CI") else pytest.skip)(f"{what} is missing")

    return need


@pytest.fixture
def progress(
    request: pytest.FixtureRequest, capfd: pytest.CaptureFixture[str]
) -> Iterator[Callable[[int, int], None]]:
    """`progress(done, total)`: a line every few seconds past pytest's capture, so that slow is not taken for stuck."""
    last = time.monotonic()

    def show(done: int, total: int) -> None:
        nonlocal last
        if time.monotonic() - last >= 5:
            last = time.monotonic()
            with capfd.disabled():
                print(
                    f"\n  {request.node.name}: {done / 1e6:.0f} of {total / 1e6:.0f} MB", end="", flush=True
                )

    yield show
