"""The transport cases of the public interop runner: link, files, names for the endpoints, and what a run has to show.

https://github.com/quic-interop/quic-interop-runner, testcases_quic.py. Clients and servers hear only TESTCASE, which
is "transfer" wherever the endpoint has nothing special to do.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final

from tests.interop import checks
from tests.interop.checks import Check
from tests.interop.contract import TRANSFER
from tests.netlab import RUNNER, LinkSettings, Rebind

KB: Final = 1 << 10
MB: Final = 1 << 20

Files = Callable[[random.Random], dict[str, bytes]]


def sized(*sizes: int) -> Files:
    def make(source: random.Random) -> dict[str, bytes]:
        return {f"file{number}-{size}": source.randbytes(size) for number, size in enumerate(sizes)}

    return make


def long_names(source: random.Random) -> dict[str, bytes]:
    """Requests so long that they show in which packets they went out."""
    letters = "abcdefghijklmnopqrstuvwxyz"
    return {"".join(source.choices(letters, k=250)): source.randbytes(32) for _ in range(40)}


@dataclass(frozen=True, slots=True)
class Case:
    """`client` and `server`: their TESTCASE. `proves`: for a reader of the table."""

    name: str
    proves: str
    files: Files
    checks: tuple[Check, ...]
    client: str = TRANSFER
    server: str = TRANSFER
    to_server: LinkSettings = RUNNER
    to_client: LinkSettings = RUNNER
    rebind: Rebind | None = None
    timeout_s: float = 60.0
    handshakes: int = 1
    chain: int = 1
    ipv6: bool = False
    version_1: bool = True

    def all_checks(self) -> tuple[Check, ...]:
        common: list[Check] = [checks.files]
        if self.handshakes:
            common.append(checks.handshakes(self.handshakes))
        if self.version_1:
            common.append(checks.version_1)
        return (*common, *self.checks)


def _both(link: LinkSettings) -> dict[str, LinkSettings]:
    return {"to_server": link, "to_client": link}


_LOSS: Final = replace(RUNNER, loss=0.30, burst=3)
_CORRUPTION: Final = replace(RUNNER, corrupt=0.30, burst=3)
_SOME_LOSS: Final = replace(RUNNER, loss=0.02, burst=3)
_SOME_CORRUPTION: Final = replace(RUNNER, corrupt=0.02, burst=3)
CONNECTIONS: Final = 50

CASES: Final[dict[str, Case]] = {
    case.name: case
    for case in (
        Case(
            "handshake",
            "one handshake without Retry, one small file",
            sized(1 * KB),
            (checks.no_retry,),
            client="handshake",
            server="handshake",
        ),
        Case(
            "transfer",
            "2, 3 and 5 MB at once through small flow control windows",
            sized(2 * MB, 3 * MB, 5 * MB),
            (),
        ),
        Case(
            "longrtt",
            "a handshake with a round trip of 1.5 s, the ClientHello is sent again",
            sized(1 * KB),
            (checks.hello_repeated,),
            client="handshake",
            server="handshake",
            **_both(replace(RUNNER, delay=0.750)),
        ),
        Case(
            "chacha20",
            "ChaCha20-Poly1305 as the only cipher suite",
            sized(3 * MB),
            (checks.only_chacha20,),
            client="chacha20",
            server="chacha20",
        ),
        Case(
            "multiplexing",
            "1,999 files of 32 bytes on one connection that allows at most 1,000 streams at first",
            sized(*[32] * 1999),
            (checks.few_streams_at_first,),
        ),
        Case(
            "retry",
            "a Retry, and the client comes back with its token and higher packet numbers",
            sized(10 * KB),
            (checks.retry_token_used,),
            client="retry",
            server="retry",
        ),
        Case(
            "resumption",
            "a second connection with a session ticket, in which the server sends no certificate",
            sized(5 * KB, 10 * KB),
            (checks.second_without_certificate,),
            client="resumption",
            server="resumption",
            handshakes=2,
        ),
        Case(
            "zerortt",
            "39 of 40 files asked for in 0-RTT packets of a second connection",
            long_names,
            (checks.early_data,),
            client="zerortt",
            server="zerortt",
            handshakes=2,
        ),
        Case(
            "blackhole",
            "10 MB over a link that works for 5 s and is dead for 2 s",
            sized(10 * MB),
            (),
            **_both(replace(RUNNER, blackhole=(5.0, 2.0))),
        ),
        Case(
            "keyupdate",
            "packets with key phase 1 from both sides",
            sized(3 * MB),
            (checks.both_key_phases,),
            client="keyupdate",
        ),
        Case(
            "ecn",
            "ECT marks and ACK frames with ECN counts from both sides, no CE",
            sized(100 * KB),
            (checks.ecn_marked,),
            client="ecn",
            server="ecn",
        ),
        Case(
            "amplificationlimit",
            "a chain of 9 certificates while packets 2 to 7 of the client are lost: at most three times what came in",
            sized(5 * KB),
            (checks.amplification,),
            chain=9,
            to_server=replace(RUNNER, drop=((2, 7),)),
        ),
        Case(
            "handshakeloss",
            "50 connections with 30% loss each way in bursts of up to 3",
            sized(*[1 * KB] * CONNECTIONS),
            (),
            client="multiconnect",
            server="multiconnect",
            handshakes=CONNECTIONS,
            timeout_s=300.0,
            **_both(_LOSS),
        ),
        Case(
            "transferloss", "2 MB with 2% loss in bursts of up to 3", sized(2 * MB), (), **_both(_SOME_LOSS)
        ),
        Case(
            "handshakecorruption",
            "50 connections with 30% damaged packets each way in bursts of up to 3",
            sized(*[1 * KB] * CONNECTIONS),
            (),
            client="multiconnect",
            server="multiconnect",
            handshakes=CONNECTIONS,
            timeout_s=300.0,
            **_both(_CORRUPTION),
        ),
        Case(
            "transfercorruption",
            "2 MB with 2% damaged packets in bursts of up to 3",
            sized(2 * MB),
            (),
            **_both(_SOME_CORRUPTION),
        ),
        Case(
            "ipv6",
            "5 and 10 KB without a single IPv4 packet",
            sized(5 * KB, 10 * KB),
            (checks.only_ipv6,),
            ipv6=True,
        ),
        Case(
            "v2",
            "begun with version 1, continued with version 2 (compatible version negotiation)",
            sized(1 * KB),
            (checks.version_2,),
            client="v2",
            server="v2",
            handshakes=0,
            version_1=False,
        ),
        Case(
            "rebind-port",
            "10 MB while a NAT gives the client another port after 1 s and every 5 s; every new path is validated",
            sized(10 * MB),
            (checks.paths_validated,),
            rebind=Rebind("port"),
        ),
        Case(
            "rebind-addr",
            "the same with another address and port",
            sized(10 * MB),
            (checks.several_addresses, checks.paths_validated),
            rebind=Rebind("address"),
        ),
        Case(
            "connectionmigration",
            "2 MB, during which the client moves to the server's preferred address with a new connection ID",
            sized(2 * MB),
            (checks.paths_validated, checks.new_connection_id),
            server="connectionmigration",
        ),
    )
}
