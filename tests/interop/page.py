"""The page with the matrix: docs/interop.md."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

from tests.interop.cases import CASES
from tests.interop.implementations import FAULTS, IMPLEMENTATIONS, OURS
from tests.interop.runs import Result, Verdict

MARKS: Final = {Verdict.PASSED: "✓", Verdict.FAILED: "✗", Verdict.UNSUPPORTED: "–"}
_UNKNOWN: Final = " "

_HEAD: Final = """\
# Interoperability

The transport cases of the [public QUIC interop runner](https://github.com/quic-interop/quic-interop-runner), between
quicfs and stacks that we did not write, quicfs as the client and as the server. Links, files, time limits and what a
run has to show are the runner's; the link is `tests/netlab`, and captures are opened with tshark and the key log of
one of the endpoints. This page is made by one command, as root on Linux with the Debian packages `tshark`,
`ngtcp2-client` and `ngtcp2-server`, and `pip install -e '.[peers]'` for the others:

    python -m tests.interop.matrix --again --write docs/interop.md

It takes about 40 minutes, half of that with `--labs 2`. `--cases` and `--peers` choose some of it, `--keep FOLDER`
keeps captures, logs and qlogs.

✓ passed, ✗ failed, – not supported by the other stack; the reasons are below. → is quicfs as the client, ← quicfs as
the server.
"""

_RUNNER: Final = """\
## In the public runner

`tests/interop/endpoint.py` keeps the runner's contract: ROLE, TESTCASE, REQUESTS, SSLKEYLOGFILE and QLOGDIR in the
environment, files in `/www`, `/downloads` and `/certs`, exit status 127 for a case that it does not know. The image is
built from this repository:

    docker build -f tests/interop/image/Containerfile -t quicfs-interop .

and the runner is told of it in `implementations_quic.json`:

    "quicfs": {"image": "quicfs-interop", "url": "https://example.org/quicfs", "role": "both"}

By hand, without any of that:

    ROLE=server TESTCASE=transfer WWW=/srv/files CERTS=certs PORT=4433 python -m tests.interop.endpoint
    ROLE=client TESTCASE=transfer DOWNLOADS=/tmp CERTS=certs REQUESTS=https://localhost:4433/file \\
        python -m tests.interop.endpoint
"""


def page(results: Iterable[Result]) -> str:
    known = {(result.client, result.server, result.case): result for result in results}
    columns = _columns(known)
    return "\n".join([_HEAD, *_table(known, columns), *_reasons(known), *_cases(), *_peers(known), _RUNNER])


def _columns(known: dict[tuple[str, str, str], Result]) -> list[tuple[str, str]]:
    order = [(OURS, OURS)]
    for name in IMPLEMENTATIONS:
        if name != OURS:
            order += [(OURS, name), (name, OURS)]
    there = {(client, server) for client, server, _ in known}
    return [pair for pair in order if pair in there]


def _title(pair: tuple[str, str]) -> str:
    client, server = pair
    if client == server:
        return client
    return f"→ {server}" if client == OURS else f"← {client}"


def _table(known: dict[tuple[str, str, str], Result], columns: Sequence[tuple[str, str]]) -> list[str]:
    lines = [
        "| case | " + " | ".join(_title(pair) for pair in columns) + " |",
        "|---|" + ":-:|" * len(columns),
    ]
    for name in CASES:
        cells = [
            MARKS[result.verdict] if (result := known.get((*pair, name))) else _UNKNOWN for pair in columns
        ]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return [*lines, ""]


def _reasons(known: dict[tuple[str, str, str], Result]) -> list[str]:
    """What did not pass, by reason: ours or not known, then the other stack's, then what that does not offer."""
    groups: dict[str, dict[str, list[str]]] = {
        "Failed": {},
        "Failed because of the other stack": {},
        "Not supported": {},
    }
    ours, theirs, lacking = groups.values()
    for name in CASES:
        for (client, server, case), result in known.items():
            if case != name or result.verdict is Verdict.PASSED:
                continue
            fault = FAULTS.get((client, server, case))
            if result.verdict is Verdict.UNSUPPORTED:
                group, reason = lacking, result.reason
            else:
                group, reason = (ours, result.reason) if fault is None else (theirs, fault)
            group.setdefault(reason, []).append(f"{case} ({_title((client, server))})")
    lines: list[str] = []
    for title, reasons in groups.items():
        if reasons:
            lines += [f"{title}:", ""]
            lines += [f"- {', '.join(cases)}: {reason}" for reason, cases in reasons.items()]
            lines.append("")
    return lines


def _cases() -> list[str]:
    lines = ["## What the cases prove", "", "| case | a run has to show |", "|---|---|"]
    for case in CASES.values():
        limit = f", within {case.timeout_s:.0f} s"
        link = f" (one way {case.to_client.delay * 1000:.0f} ms, 10 Mbit/s, queue of 25 packets{limit})"
        lines.append(
            f"| {case.name} | {case.proves}{link if case.name in ('handshake', 'longrtt') else ''} |"
        )
    return [
        *lines,
        "",
        "All on the link of `handshake` unless said, and within 60 s but for `handshakeloss` and `handshakecorruption`",
        "with 300 s. Every case also wants all files unchanged, the right number of handshakes and, but for `v2`,",
        "version 1.",
        "",
    ]


def _peers(known: dict[tuple[str, str, str], Result]) -> list[str]:
    lines = ["## The stacks", "", "| stack | version | |", "|---|---|---|"]
    for one in IMPLEMENTATIONS.values():
        lines.append(f"| {one.name} | {one.version() or 'not installed'} | {one.about} |")
    dates = sorted({result.when for result in known.values() if result.when})
    when = f"Run on {dates[0]}" + (f" to {dates[-1]}" if dates[-1:] != dates[:1] else "") if dates else ""
    return [*lines, "", f"{when}." if when else "", ""]
