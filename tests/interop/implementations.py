"""The stacks of the interop matrix. Each is a program that keeps the contract of contract.py."""

from __future__ import annotations

import importlib.metadata
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from tests.interop.contract import H3, HQ


@dataclass(frozen=True, slots=True)
class Implementation:
    """`alpn`: what it speaks beside what all the others do. `about`: one line for the page."""

    name: str
    arguments: tuple[str, ...]
    version: Callable[[], str | None]
    about: str
    alpn: str = HQ

    @property
    def command(self) -> tuple[str, ...]:
        return (sys.executable, "-m", *self.arguments)


def _distribution(name: str) -> Callable[[], str | None]:
    def version() -> str | None:
        try:
            return importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            return None

    return version


def _ngtcp2() -> str | None:
    query = ["dpkg-query", "--show", "--showformat=${Version}", "ngtcp2-server", "ngtcp2-client"]
    try:
        done = subprocess.run(query, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout[: len(done.stdout) // 2]  # the same version, said twice


OURS: Final = "quicfs"

IMPLEMENTATIONS: Final[dict[str, Implementation]] = {
    one.name: one
    for one in (
        Implementation(OURS, ("tests.interop.endpoint",), _distribution("quicfs"), "this project"),
        Implementation(
            "aioquic",
            ("tests.interop.peers.hq_peer", "aioquic"),
            _distribution("aioquic"),
            "Python, from PyPI",
        ),
        Implementation(
            "ngtcp2",
            ("tests.interop.peers.ngtcp2_peer",),
            _ngtcp2,
            "C with GnuTLS; gtlsclient and gtlsserver of Debian, which speak HTTP/3 only",
            alpn=H3,
        ),
        Implementation(
            "qh3",
            ("tests.interop.peers.hq_peer", "qh3"),
            _distribution("qh3"),
            "Rust below Python, from PyPI",
        ),
    )
}


def alpn_of(client: Implementation, server: Implementation) -> str:
    """What a pair speaks: quicfs, which is one of the two, speaks both."""
    return H3 if H3 in (client.alpn, server.alpn) else HQ


_SILENT: Final = (
    "qh3's client sends nothing more when all that it sent is acknowledged, against RFC 9002 §6.2.2.1: a server that "
    "may not send more before the client has proved its address waits for ever, which takes some bad luck"
)

FAULTS: Final = {
    ("qh3", OURS, "retry"): "qh3 begins its packet numbers again after a Retry, against RFC 9000 §17.2.5.3",
    (
        "qh3",
        OURS,
        "resumption",
    ): "qh3 writes its ClientHello into a buffer of 2,048 bytes, too small for its key share "
    "of ML-KEM and a ticket of 214 bytes",
    ("qh3", OURS, "zerortt"): "the same buffer of qh3's",
    (
        "qh3",
        OURS,
        "amplificationlimit",
    ): "qh3 accepts at most 6 certificates between the server's and the authority's; the case has 8",
    (
        "qh3",
        OURS,
        "v2",
    ): "qh3 stays with version 1 if the first half of its ClientHello was acknowledged in version 1, "
    "as RFC 9000 §13.2.1 wants it at once; it passes when both halves arrive together",
    ("qh3", OURS, "handshakeloss"): _SILENT,
    ("qh3", OURS, "handshakecorruption"): _SILENT,
    (OURS, "ngtcp2", "rebind-port"): "ngtcp2 0.12.1 acknowledges on the new path before it challenges it",
    (OURS, "ngtcp2", "rebind-addr"): "ngtcp2 0.12.1 acknowledges on the new path before it challenges it",
    (
        OURS,
        "ngtcp2",
        "connectionmigration",
    ): "ngtcp2 0.12.1 answers the challenge on its preferred address without one of its own",
}
"""By client, server and case: why a failure is the other stack's. Looked into one by one; printed when it fails."""

LACKS: Final = {
    ("qh3", OURS, "connectionmigration"): "qh3's client leaves a preferred address alone",
}
"""What cannot be done although the client is told no more than "transfer", and so does not say that it cannot."""
