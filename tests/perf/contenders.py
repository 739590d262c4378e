"""Who is measured: quicfs and its peers. A class each says how to start a server and run a client."""

import importlib.metadata
import json
import shutil
import sys
import tempfile
import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from enum import Enum
from pathlib import Path

from quicfs.certs import CertificateFiles
from quicfs.transport.protection import IMPLEMENTATION
from tests.interop.peers.processes import run

PEERS = Path(__file__).parents[1] / "interop" / "peers"
CLIENT_TIMEOUT_S = 120.0


class Direction(Enum):
    UPLOAD = "upload"
    """Client to server."""
    DOWNLOAD = "download"
    """Server to client."""


class Contender(ABC):
    """`server_command` and `client_command` are for the server's address and port on the link."""

    name: str
    protocol = "udp"
    links: tuple[str, ...] | None = None
    """On which it is measured; None: on all."""

    @property
    @abstractmethod
    def version(self) -> str: ...

    @property
    def missing(self) -> str | None:
        """What to install, or None when everything is there."""
        return None

    @abstractmethod
    def server_command(self, address: str, port: int, certificates: CertificateFiles) -> Sequence[str]: ...

    @abstractmethod
    def transfer(
        self,
        prefix: Sequence[str],
        address: str,
        port: int,
        certificates: CertificateFiles,
        direction: Direction,
        size: int,
    ) -> float:
        """Moves `size` bytes on one stream, one connection; the seconds it took. Raises ProcessFailed."""


class PythonPeer(Contender):
    """A program of tests/interop/peers, which prints its result as JSON."""

    def __init__(self, name: str, program: str, *arguments: str) -> None:
        self.name = name
        self._command = [sys.executable, str(PEERS / program), *arguments]

    @property
    def version(self) -> str:
        return importlib.metadata.version(self.name)

    def arguments(self, role: str) -> tuple[str, ...]:
        """What comes before the address."""
        return (role,)

    def server_command(self, address: str, port: int, certificates: CertificateFiles) -> Sequence[str]:
        return [
            *self._command,
            *self.arguments("server"),
            *("--host", address, "--port", str(port)),
            *("--cert", str(certificates.cert), "--key", str(certificates.key)),
        ]

    def transfer(
        self,
        prefix: Sequence[str],
        address: str,
        port: int,
        certificates: CertificateFiles,
        direction: Direction,
        size: int,
    ) -> float:
        output = run(
            [
                *prefix,
                *self._command,
                *self.arguments("client"),
                *("--host", address, "--port", str(port), "--ca", str(certificates.ca)),
                *(f"--{direction.value}", str(size)),
            ],
            CLIENT_TIMEOUT_S,
        )
        return float(json.loads(output)["seconds"])


class TlsOverTcp(PythonPeer):
    """The kernel does the transport, with the congestion control that is named."""

    protocol = "tcp"

    def __init__(self, congestion: str, name: str = "tls-tcp", links: tuple[str, ...] | None = None) -> None:
        super().__init__(name, "tls_tcp_peer.py")
        self.links = links
        self._congestion = congestion

    @property
    def version(self) -> str:
        return f"Python {sys.version.split()[0]}'s ssl, 1 MiB writes, {self._congestion} in the kernel"

    @property
    def missing(self) -> str | None:
        available = Path("/proc/sys/net/ipv4/tcp_available_congestion_control").read_text().split()
        return None if self._congestion in available else f"modprobe tcp_{self._congestion}"

    def arguments(self, role: str) -> tuple[str, ...]:
        return (role, "--congestion", self._congestion)


class Quicfs(Contender):
    """As it is installed, or with `plain` without its part in C."""

    def __init__(self, *, plain: bool = False) -> None:
        self.name = "quicfs-plain" if plain else "quicfs"
        self._plain = plain
        self._command = [
            *(["env", "QUICFS_PLAIN=1"] if plain else []),
            *(sys.executable, "-m", "quicfs", "perf"),
        ]

    @property
    def version(self) -> str:
        return f"{importlib.metadata.version('quicfs')}, packets in {'Python' if self._plain else IMPLEMENTATION}"

    @property
    def missing(self) -> str | None:
        if self._plain and IMPLEMENTATION == "Python":
            return "quicfs is plain Python itself: its part in C was not built, or QUICFS_PLAIN is set"
        return None

    def server_command(self, address: str, port: int, certificates: CertificateFiles) -> Sequence[str]:
        return [
            *(*self._command, "server", "--listen", f"{address}:{port}"),
            *("--cert", str(certificates.cert), "--key", str(certificates.key)),
        ]

    def transfer(
        self,
        prefix: Sequence[str],
        address: str,
        port: int,
        certificates: CertificateFiles,
        direction: Direction,
        size: int,
    ) -> float:
        reverse = ["--reverse"] if direction is Direction.DOWNLOAD else []
        output = run(
            [
                *prefix,
                *(*self._command, "client", f"{address}:{port}"),
                *("--ca", str(certificates.ca), "--bytes", str(size), "--json", *reverse),
            ],
            CLIENT_TIMEOUT_S,
        )
        return float(json.loads(output)["seconds"])


class Ngtcp2(Contender):
    """gtlsserver and gtlsclient speak HTTP/3 and print no figures: the client's run time counts, less that of
    a run which moves one byte."""

    name = "ngtcp2"

    def __init__(self) -> None:
        self._startup_s: float | None = None

    @property
    def version(self) -> str:
        output = run(["dpkg-query", "-W", "-f", "${Version}", "ngtcp2-client"], CLIENT_TIMEOUT_S)
        return f"gtlsserver and gtlsclient {output.strip()}"

    @property
    def missing(self) -> str | None:
        if shutil.which("gtlsserver") and shutil.which("gtlsclient"):
            return None
        return "apt-get install ngtcp2-server ngtcp2-client"

    def server_command(self, address: str, port: int, certificates: CertificateFiles) -> Sequence[str]:
        return [
            *("gtlsserver", "--quiet", "--no-quic-dump", "--no-http-dump", "--max-dyn-length=64G"),
            *(address, str(port), str(certificates.key), str(certificates.cert)),
        ]

    def transfer(
        self,
        prefix: Sequence[str],
        address: str,
        port: int,
        certificates: CertificateFiles,
        direction: Direction,
        size: int,
    ) -> float:
        if self._startup_s is None:
            self._startup_s = min(self._timed(prefix, address, port, direction, 1) for _ in range(3))
        return max(self._timed(prefix, address, port, direction, size) - self._startup_s, 1e-3)

    @staticmethod
    def _timed(prefix: Sequence[str], address: str, port: int, direction: Direction, size: int) -> float:
        """A path that is a number is answered with as many bytes; an upload sends a file of zeros."""
        download = direction is Direction.DOWNLOAD
        with tempfile.NamedTemporaryFile() as file:
            file.truncate(size)
            began = time.perf_counter()
            run(
                [
                    *prefix,
                    *(
                        "gtlsclient",
                        "--quiet",
                        "--no-quic-dump",
                        "--no-http-dump",
                        "--exit-on-all-streams-close",
                    ),
                    *([] if download else ["--data", file.name]),
                    *("--sni=localhost", address, str(port)),
                    f"https://localhost/{size if download else 1}",
                ],
                CLIENT_TIMEOUT_S,
            )
            return time.perf_counter() - began


def all_contenders() -> list[Contender]:
    return [
        Quicfs(),
        Quicfs(plain=True),
        PythonPeer("aioquic", "quic_peer.py", "aioquic"),
        PythonPeer("qh3", "quic_peer.py", "qh3"),
        Ngtcp2(),
        TlsOverTcp("cubic"),
        # It takes no loss for a sign of congestion: what a long lossy link is good for.
        TlsOverTcp("bbr", "tls-tcp-bbr", links=("wan-50ms-1%",)),
    ]
