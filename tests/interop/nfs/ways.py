"""Our programs as processes of their own, and the ways that lead to an NFS server through them."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from quicfs.certs import CertificateFiles
from tests.interop.peers.processes import START_TIMEOUT_S, STOP_TIMEOUT_S, free_port, server

HOST = "127.0.0.1"
EXPORT = "data"


@dataclass(frozen=True)
class Place:
    """Where clients find an export on TCP."""

    port: int
    folder: Path
    export: str = EXPORT
    mount_port: int = 0
    quic_port: int = 0  # 0: there is no way by QUIC

    def url(self, path: str = "", version: int = 3) -> str:
        """As libnfs writes it."""
        mount_port = self.mount_port or self.port
        return (
            f"nfs://{HOST}/{self.export}{path}?nfsport={self.port}&mountport={mount_port}&version={version}"
        )


@contextlib.contextmanager
def quicfs(protocol: str, port: int, log: Path, *arguments: str) -> Iterator[None]:
    """`quicfs ARGUMENTS...`, once it listens on `port`."""
    with server([sys.executable, "-m", "quicfs", *arguments], protocol, port, log):
        yield


@contextlib.contextmanager
def serving(directory: Path, certificates: CertificateFiles, way: str) -> Iterator[Place]:
    """`quicfs serve` with a folder of its own, reached by `way`: "tcp", or "quic" by way of `quicfs connect`."""
    folder = directory / "served"
    folder.mkdir()
    tcp, quic = free_port(), free_port()
    with contextlib.ExitStack() as stack:
        environment = stack.enter_context(pytest.MonkeyPatch.context())
        environment.setenv("STATE_DIRECTORY", str(directory / "state"))
        stack.enter_context(
            quicfs(
                "tcp", tcp, directory / "serve.log",
                "serve", f"{EXPORT}={folder}", "--no-smb", "--no-root-squash", "--nfs-tcp", f"{HOST}:{tcp}",
                "--listen", f"{HOST}:{quic}", "--cert", str(certificates.cert), "--key", str(certificates.key),
            )
        )  # fmt: skip
        if way == "quic":
            stack.enter_context(connecting(directory, certificates, quic, tcp := free_port()))
        yield Place(tcp, folder)


@contextlib.contextmanager
def connecting(directory: Path, certificates: CertificateFiles, quic: int, tcp: int) -> Iterator[None]:
    """`quicfs connect` from the TCP port to the QUIC port."""
    with quicfs(
        "tcp", tcp, directory / "connect.log",
        "connect", "--listen", f"{HOST}:{tcp}", "--to", f"nfs+quic://localhost:{quic}", "--ca", str(certificates.ca),
    ):  # fmt: skip
        yield


@contextlib.contextmanager
def gateway(directory: Path, certificates: CertificateFiles, tcp: int, quic: int) -> Iterator[None]:
    """`quicfs gateway` from the QUIC port to the TCP port."""
    with quicfs(
        "udp", quic, directory / "gateway.log",
        "gateway", "--to", f"nfs://{HOST}:{tcp}", "--listen", f"{HOST}:{quic}",
        "--cert", str(certificates.cert), "--key", str(certificates.key),
    ):  # fmt: skip
        yield


@contextlib.contextmanager
def mounted_at(mountpoint: Path, url: str, certificates: CertificateFiles, log: Path) -> Iterator[None]:
    """`quicfs mount`, until the block ends."""
    command = [sys.executable, "-m", "quicfs", "mount", url, str(mountpoint), "--foreground"]
    with log.open("wb") as output:
        process = subprocess.Popen(
            [*command, "--ca", str(certificates.ca)], stdin=subprocess.DEVNULL, stdout=output, stderr=output
        )
    try:
        deadline = time.monotonic() + START_TIMEOUT_S
        while not mountpoint.is_mount():
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.05)
        yield
    finally:
        process.terminate()
        try:
            process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            subprocess.run(["fusermount3", "-u", "-z", str(mountpoint)], check=False)
