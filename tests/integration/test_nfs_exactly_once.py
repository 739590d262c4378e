"""Exclusive creates, renames, removes and links over a link that loses packets, on connections that are cut: each
happens once and reports its own result. `python -m tests.once` does ten thousand."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.conftest import Require
from tests.netlab import NetlabError
from tests.once.trial import Plan, run


@pytest.mark.netns
@pytest.mark.parametrize("tcp", [False, True], ids=["QUIC", "TCP"])
def test_each_happens_once(tmp_path: Path, require: Require, tcp: bool) -> None:
    require("netns", "root", "ip")
    try:
        verdict = run(Plan(operations=800, cut_s=0.15, tcp=tcp, patience_s=240), tmp_path)
    except NetlabError as error:
        pytest.skip(str(error))
    assert not verdict.faults, str(verdict)
    assert verdict.client["operations"] >= 800
    assert verdict.client["cuts"]["connections"] + verdict.server["cuts"] >= 2
    assert verdict.lost
