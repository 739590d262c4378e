"""The page of the interop matrix, and what its command line takes."""

import pytest

from tests.interop.cases import CASES
from tests.interop.implementations import FAULTS, IMPLEMENTATIONS, LACKS
from tests.interop.matrix import pairings, parse
from tests.interop.page import page
from tests.interop.runs import Result, Verdict


def test_a_row_for_each_case_and_a_reason_for_each_failure() -> None:
    text = page(
        [
            Result("quicfs", "quicfs", "handshake", Verdict.PASSED),
            Result("quicfs", "aioquic", "ecn", Verdict.UNSUPPORTED, "it has no such thing"),
            Result("ngtcp2", "quicfs", "retry", Verdict.FAILED, "nobody knows why"),
            Result("qh3", "quicfs", "retry", Verdict.FAILED, "what was seen"),
        ]
    )
    table = [line for line in text.splitlines() if line.startswith("| ")][1 : 1 + len(CASES)]
    assert [line.split("|")[1].strip() for line in table] == list(CASES)
    assert "✓" in table[0]
    assert "- ecn (→ aioquic): it has no such thing" in text
    assert "- retry (← ngtcp2): nobody knows why" in text
    assert f"- retry (← qh3): {FAULTS['qh3', 'quicfs', 'retry']}" in text


def test_quicfs_is_one_side_of_every_pairing() -> None:
    pairs = [(client.name, server.name) for client, server in pairings(IMPLEMENTATIONS)]
    assert len(pairs) == len(set(pairs)) == 2 * len(IMPLEMENTATIONS) - 1
    assert all("quicfs" in pair for pair in pairs)
    for client, server, case in (*FAULTS, *LACKS):
        assert (client, server) in pairs
        assert case in CASES


def test_unknown_names_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse(["--cases", "handshake,nonsense"])
    assert "nonsense" in capsys.readouterr().err
