"""The checks of the interop matrix notice what is missing: a plain handshake has little of what they look for."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from tests.interop import checks
from tests.interop.cases import CASES
from tests.interop.checks import Check, CheckFailed, Evidence
from tests.interop.implementations import IMPLEMENTATIONS, OURS
from tests.interop.runs import Bench, Verdict, evidence_of
from tests.netlab import read_pcap

CASE = CASES["handshake"]
SERVER = ("192.0.2.1", "2001:db8::1")

pytestmark = [pytest.mark.interop, pytest.mark.netns]


@pytest.fixture(scope="module")
def evidence(tmp_path_factory: pytest.TempPathFactory, require: Callable[..., None]) -> Evidence:
    """What a handshake over a laboratory's link left behind."""
    require("root", "netns", "tshark")
    keep = tmp_path_factory.mktemp("keep")
    ours = IMPLEMENTATIONS[OURS]
    with Bench(keep) as bench:
        result = bench.run(ours, ours, CASE)
    assert result.verdict is Verdict.PASSED, result.reason
    (folder,) = keep.glob("*/*")
    content = {file.name: file.read_bytes() for file in (folder / "www").iterdir()}
    return evidence_of(folder, content, read_pcap(folder / "trace.pcapng"), SERVER)


MISSING = [
    checks.handshakes(2),
    checks.hello_repeated,
    checks.only_chacha20,
    checks.retry_token_used,
    checks.second_without_certificate,
    checks.early_data,
    checks.both_key_phases,
    checks.amplification,
    checks.version_2,
    checks.paths_validated,
    checks.several_addresses,
    checks.new_connection_id,
    checks.only_ipv6,
]


@pytest.mark.parametrize("check", MISSING, ids=lambda check: check.__name__)
def test_what_is_not_there_is_missed(check: Check, evidence: Evidence) -> None:
    with pytest.raises(CheckFailed):
        check(evidence)


@pytest.mark.parametrize(
    "check",
    [checks.no_retry, checks.few_streams_at_first, checks.ecn_marked, checks.version_1],
    ids=lambda check: check.__name__,
)
def test_what_is_there_is_found(check: Check, evidence: Evidence) -> None:
    check(evidence)


def test_wrong_files_are_found(evidence: Evidence, tmp_path: Path) -> None:
    name, data = next(iter(evidence.files.items()))
    with pytest.raises(CheckFailed, match="missing"):
        checks.files(replace(evidence, downloads=tmp_path))
    (tmp_path / name).write_bytes(data[:-1] + bytes((data[-1] ^ 1,)))
    with pytest.raises(CheckFailed, match="differ"):
        checks.files(replace(evidence, downloads=tmp_path))
    (tmp_path / name).write_bytes(data)
    checks.files(replace(evidence, downloads=tmp_path))
    (tmp_path / "surplus").touch()
    with pytest.raises(CheckFailed, match="nobody asked"):
        checks.files(replace(evidence, downloads=tmp_path))


def test_without_a_key_log_nothing_is_claimed(evidence: Evidence) -> None:
    with pytest.raises(CheckFailed, match="key log"):
        checks.ecn_marked(replace(evidence, key_log=False))
