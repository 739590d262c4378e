"""Samba's own smbclient, over QUIC (libngtcp2), against `quicfs serve`.

`tests/interop/samba/prepare` makes the root that it lives in. What its QUIC cannot do is not tried here: it
never sends a lost datagram again, and it breaks off large puts by itself (also against other servers).
"""

import hashlib
import os
import random
import secrets
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from quicfs import certs
from tests.interop.peers.processes import free_port, server

PREPARE = Path(__file__).with_name("prepare")
HOST = "files.quicfs.test"  # `prepare` puts it into the root's /etc/hosts
SHARE = "interop"
USER = "alice"
GET_SIZE = 100_000_000
PUT_SIZE = 200_000
CLIENT_TIMEOUT_S = 120

pytestmark = [pytest.mark.interop, pytest.mark.samba]


@pytest.fixture(scope="session")
def root() -> Path:
    """The Debian sid root; made by the test itself in CI only, because that downloads a Debian."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    path = Path(os.environ.get("QUICFS_SAMBA_ROOT") or cache / "quicfs" / "samba-sid")
    if not os.environ.get("CI"):
        if os.geteuid() != 0:
            pytest.skip("chroot needs root")
        if not (path / ".quicfs-ready").exists():
            pytest.skip(f"no Samba root; make it once with {PREPARE}")
    prepared = subprocess.run([PREPARE], stdout=subprocess.PIPE, text=True, check=False)
    if prepared.returncode != 0:
        pytest.fail(f"{PREPARE} failed, see above")
    return Path(prepared.stdout.strip())


@dataclass(frozen=True)
class Share:
    """A running server: its port and folder, and what a client must know of it."""

    port: int
    folder: Path
    certificates: certs.CertificateFiles
    password: str
    log: Path


@pytest.fixture(scope="module")
def share(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Share]:
    base = tmp_path_factory.mktemp("share")
    folder = base / "files"
    folder.mkdir()
    files = certs.create(base / "certificates", [HOST])
    users = base / "users"
    password = secrets.token_urlsafe(12)
    subprocess.run(
        [sys.executable, "-m", "quicfs", "user", "add", USER, "--users", str(users)],
        env=os.environ | {"QUICFS_PASSWORD": password},
        check=True,
        capture_output=True,
    )
    port = free_port()
    log = base / "server.log"
    command = [
        *(sys.executable, "-m", "quicfs", "serve", str(folder), "--share", SHARE),
        *("--listen", f"127.0.0.1:{port}", "--users", str(users)),
        *("--cert", str(files.cert), "--key", str(files.key)),
    ]
    with server(command, "udp", port, log):
        yield Share(port, folder, files, password, log)


class SmbClient:
    """smbclient in its root, with a folder of its own there as the place of its local files."""

    def __init__(self, root: Path, share: Share, scratch: Path) -> None:
        self._root = root
        self._share = share
        self.scratch = scratch

    def __call__(
        self, commands: str, *, ca: Path | None = None, password: str | None = None
    ) -> subprocess.CompletedProcess[str]:
        local = "/" + str(self.scratch.relative_to(self._root))
        shutil.copyfile(ca or self._share.certificates.ca, self.scratch / "ca.pem")
        return subprocess.run(
            [
                *("chroot", str(self._root), "smbclient", f"//{HOST}/{SHARE}"),
                f"--option=client smb transports=quic:{self._share.port}",
                f"--option=tls cafile={local}/ca.pem",
                "--option=tls verify peer=ca_and_name",
                *("--use-kerberos=off", "--user", f"{USER}%{password or self._share.password}"),
                *("--timeout", "60", "--command", f"lcd {local}; {commands}"),
            ],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=CLIENT_TIMEOUT_S,
            check=False,
        )


@pytest.fixture
def smbclient(root: Path, share: Share) -> Iterator[SmbClient]:
    scratch = Path(tempfile.mkdtemp(prefix="quicfs-", dir=root / "tmp"))
    try:
        yield SmbClient(root, share, scratch)
    finally:
        shutil.rmtree(scratch)


def sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_random(path: Path, size: int) -> None:
    path.write_bytes(random.Random(size).randbytes(size))


def test_ls(smbclient: SmbClient, share: Share) -> None:
    (share.folder / "list-me").mkdir()
    (share.folder / "list-me" / "naïve file.txt").write_text("hello")
    for number in range(300):
        (share.folder / "list-me" / f"entry-{number:03}").touch()
    listed = smbclient("cd list-me; ls")
    assert listed.returncode == 0, listed.stdout
    names = [line.split("  ")[1].strip() for line in listed.stdout.splitlines() if line.startswith("  ")]
    assert "naïve file.txt" in names
    assert sum(name.startswith("entry-") for name in names) == 300


def test_get_100_mb(smbclient: SmbClient, share: Share) -> None:
    write_random(share.folder / "large", GET_SIZE)
    got = smbclient("get large")
    assert got.returncode == 0, got.stdout
    assert sha256(smbclient.scratch / "large") == sha256(share.folder / "large")


def test_put_200_kb(smbclient: SmbClient, share: Share) -> None:
    write_random(smbclient.scratch / "small", PUT_SIZE)
    put = smbclient("put small; allinfo small")
    assert put.returncode == 0, put.stdout
    assert sha256(share.folder / "small") == sha256(smbclient.scratch / "small")


def test_directories_and_renames(smbclient: SmbClient, share: Share) -> None:
    write_random(smbclient.scratch / "page", 5000)
    done = smbclient("mkdir books; cd books; put page; rename page leaf; mkdir empty; rmdir empty; ls")
    assert done.returncode == 0, done.stdout
    assert [path.name for path in (share.folder / "books").iterdir()] == ["leaf"]
    removed = smbclient("rm books/leaf; rmdir books")
    assert removed.returncode == 0, removed.stdout
    assert not (share.folder / "books").exists()


def test_wrong_ca_is_refused(smbclient: SmbClient, tmp_path: Path) -> None:
    stranger = certs.create(tmp_path, [HOST])
    refused = smbclient("ls", ca=stranger.ca)
    assert refused.returncode == 1
    assert "NT_STATUS" in refused.stdout
    assert "blocks of size" not in refused.stdout


def test_wrong_password_is_refused(smbclient: SmbClient) -> None:
    refused = smbclient("ls", password="not the password")
    assert refused.returncode == 1
    assert "NT_STATUS_LOGON_FAILURE" in refused.stdout


def test_server_goes_on(smbclient: SmbClient) -> None:
    """After everything above, refused clients included."""
    assert smbclient("ls").returncode == 0
