"""Debian's smbclient on TCP -> `quicfs connect` -> QUIC -> `quicfs gateway` -> Debian's smbd on TCP: two programs that
know nothing of QUIC."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest

from quicfs.certs import CertificateFiles
from tests.interop.peers.processes import free_port, run, server
from tests.interop.test_smb_client_peers import PASSWORD, USER, Peer, samba

__all__ = ["samba"]  # a fixture

pytestmark = pytest.mark.interop
TIMEOUT_S = 60.0
HOST = "127.0.0.1"


@dataclass(frozen=True)
class Chain:
    port: int
    folder: Path

    def smbclient(self, commands: str) -> str:
        command = [
            "smbclient",
            f"//{HOST}/share",
            "-p",
            str(self.port),
            "-U",
            f"{USER}%{PASSWORD}",
            "-c",
            commands,
        ]
        return run(command, TIMEOUT_S)


@pytest.fixture(scope="module")
def chain(
    samba: Peer,
    tmp_path_factory: pytest.TempPathFactory,
    certificates: CertificateFiles,
) -> Iterator[Chain]:
    if shutil.which("smbclient") is None:
        (pytest.fail if os.environ.get("CI") else pytest.skip)("smbclient is missing")
    directory = tmp_path_factory.mktemp("chain")
    quic, tcp = free_port(), free_port()
    program = [sys.executable, "-m", "quicfs"]
    gateway = [*program, "gateway", "--listen", f"{HOST}:{quic}", "--to", f"smb://{HOST}:{samba.port}"]
    gateway += ["--cert", str(certificates.cert), "--key", str(certificates.key)]
    connect = [*program, "connect", "--listen", f"{HOST}:{tcp}", "--to", f"smb+quic://localhost:{quic}"]
    connect += ["--ca", str(certificates.ca)]
    with contextlib.ExitStack() as stack:
        environment = stack.enter_context(pytest.MonkeyPatch.context())
        environment.setenv("STATE_DIRECTORY", str(directory))
        environment.setenv("XDG_CACHE_HOME", str(directory))
        stack.enter_context(server(gateway, "udp", quic, directory / "gateway.log"))
        stack.enter_context(server(connect, "tcp", tcp, directory / "connect.log"))
        yield Chain(tcp, samba.folder)


def checksums(folder: Path) -> dict[str, str]:
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_trees_both_ways(chain: Chain, tmp_path: Path) -> None:
    source, back = tmp_path / "tree", tmp_path / "back"
    (source / "sub" / "deeper").mkdir(parents=True)
    back.mkdir()
    for number in range(40):
        (source / "sub" / f"file {number}").write_bytes(os.urandom(number * 1000))
    (source / "sub" / "deeper" / "large").write_bytes(os.urandom(20_000_000))
    chain.smbclient(f"recurse ON; prompt OFF; lcd {source}; mput *")
    assert checksums(chain.folder) == checksums(source)
    chain.smbclient(f"recurse ON; prompt OFF; lcd {back}; mget *")
    assert checksums(back) == checksums(source)
    assert "large" in chain.smbclient("cd sub/deeper; ls")
    chain.smbclient("rename sub away; deltree away")
    assert checksums(chain.folder) == {}


def test_several_clients_at_once(chain: Chain, tmp_path: Path) -> None:
    content = os.urandom(3_000_000)
    (chain.folder / "shared").write_bytes(content)
    with ThreadPoolExecutor(3) as pool:
        list(pool.map(chain.smbclient, [f"get shared {tmp_path / str(number)}" for number in range(3)]))
    assert {path.read_bytes() for path in tmp_path.iterdir()} == {content}
    (chain.folder / "shared").unlink()
