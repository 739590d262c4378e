"""The suite of behaviours over a mounted local tree, with and without caches and buffers."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.integration.fuse_rig import mounted_elsewhere
from tests.integration.fuse_special import SpecialFilesSuite
from tests.integration.fuse_suite import PosixSuite

pytestmark = pytest.mark.fuse

_BARE = "attr_timeout=0,entry_timeout=0,negative_timeout=0,readahead=0,writeback=0"
_numbers = itertools.count()


@pytest.fixture(scope="module", params=["", _BARE], ids=["default", "bare"])
def mounted(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, require: Callable[..., None]
) -> Iterator[Path]:
    require("fuse")
    base = tmp_path_factory.mktemp("fuse")
    for name in ("source", "mnt"):
        (base / name).mkdir()
    with mounted_elsewhere(base / "source", base / "mnt", request.param):
        yield base / "mnt"


@pytest.fixture
def folder(mounted: Path) -> Path:
    path = mounted / f"test{next(_numbers)}"
    path.mkdir()
    return path


class TestLocalTree(PosixSuite, SpecialFilesSuite):
    pass
