"""Mounts of one folder on this machine: quicfs over SMB and over NFS, and sshfs. Each with its server, on loopback."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import cached_property
from pathlib import Path

from quicfs import certs
from tests.interop.peers.processes import ProcessFailed, free_port, run, server

HOST = "localhost"
PASSWORD = "correct horse battery staple"
TIMEOUT_S = 60.0
_SFTP_CIPHER = "aes128-gcm@openssh.com"  # the one that quicfs has; OpenSSH's default is a slower one
_NFS = ("--nfs", "--no-smb", "--no-root-squash")


class Mounted(ABC):
    """A way to mount a folder over a network."""

    name: str

    @property
    @abstractmethod
    def missing(self) -> str | None:
        """What to install, or None when everything is there."""

    @abstractmethod
    def serving(self, folder: Path, place: Path) -> AbstractContextManager[None]:
        """A server of `folder`; `place` is for what it needs."""

    @abstractmethod
    def mounted(self, point: Path, place: Path) -> AbstractContextManager[None]:
        """A new mount of the folder that is served, with empty caches."""


class Quicfs(Mounted):
    """`scheme` is that of the URL, `options` what `quicfs serve` needs for it."""

    def __init__(self, name: str, scheme: str, *options: str) -> None:
        self.name = name
        self._scheme = scheme
        self._options = options
        self._port = 0

    @property
    def missing(self) -> str | None:
        known = help_of_serve()
        absent = [option for option in self._options if option not in known]
        return f"quicfs serve has no {' '.join(absent)}" if absent else _fuse_missing()

    @contextmanager
    def serving(self, folder: Path, place: Path) -> Iterator[None]:
        self._port = free_port()
        files = certs.create(place / "certificates", [HOST, "127.0.0.1"])
        users = place / "users"
        _quicfs("user", "add", "perf", "--users", str(users))
        command = [
            *("env", f"STATE_DIRECTORY={place}"),  # a server's state is its own
            *(sys.executable, "-m", "quicfs", "serve", str(folder), "--share", "share", *self._options),
            *("--listen", f"127.0.0.1:{self._port}"),
            *("--cert", str(files.cert), "--key", str(files.key)),
            *(() if self._options else ("--users", str(users))),
        ]
        with server(command, "udp", self._port, place / "serve.log"):
            yield

    @contextmanager
    def mounted(self, point: Path, place: Path) -> Iterator[None]:
        user = "" if self._options else "perf@"
        url = f"{self._scheme}://{user}{HOST}:{self._port}/share"
        _quicfs("mount", url, str(point), "--ca", str(place / "certificates" / "ca.pem"))
        try:
            yield
        finally:
            _quicfs("umount", str(point))


class Sshfs(Mounted):
    """sshfs as it comes, with OpenSSH's server and a key that exists only meanwhile."""

    name = "sshfs"

    def __init__(self) -> None:
        self._port = 0

    @property
    def missing(self) -> str | None:
        if shutil.which("sshfs") is None or self._sshd is None:
            return "apt-get install sshfs openssh-server"
        if os.geteuid():
            return "needs root: sshd"
        return _fuse_missing()

    @cached_property
    def _sshd(self) -> str | None:
        return shutil.which("sshd", path=f"{os.environ.get('PATH', '')}:/usr/sbin")

    @contextmanager
    def serving(self, folder: Path, place: Path) -> Iterator[None]:
        self._port = free_port()
        for name in ("host", "user"):
            run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(place / name)], TIMEOUT_S)
        (place / "folder").symlink_to(folder)
        config = place / "sshd_config"
        config.write_text(
            f"ListenAddress 127.0.0.1:{self._port}\nHostKey {place / 'host'}\nPidFile none\nUsePAM no\n"
            f"AuthorizedKeysFile {place / 'user.pub'}\nStrictModes no\nPermitRootLogin prohibit-password\n"
            "Subsystem sftp internal-sftp\n"
        )
        assert self._sshd is not None
        Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)  # it drops its privileges there
        with server([self._sshd, "-D", "-e", "-f", str(config)], "tcp", self._port, place / "sshd.log"):
            yield

    @contextmanager
    def mounted(self, point: Path, place: Path) -> Iterator[None]:
        options = [
            *(f"port={self._port}", f"IdentityFile={place / 'user'}", f"Ciphers={_SFTP_CIPHER}"),
            *(
                "StrictHostKeyChecking=no",
                "UserKnownHostsFile=/dev/null",
                "IdentitiesOnly=yes",
                "LogLevel=ERROR",
            ),
        ]
        words = [word for option in options for word in ("-o", option)]
        command = [
            "sshfs",
            "-f",
            f"root@127.0.0.1:{(place / 'folder').resolve()}",
            str(point),
            "-F",
            "/dev/null",
        ]
        with (place / "sshfs.log").open("wb") as log:
            process = subprocess.Popen([*command, *words], stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        try:
            deadline = time.monotonic() + TIMEOUT_S
            while not os.path.ismount(point):
                if process.poll() is not None or time.monotonic() > deadline:
                    raise ProcessFailed(f"sshfs: {(place / 'sshfs.log').read_text().strip()[-400:]}")
                time.sleep(0.02)
            yield
            run(["fusermount3", "-u", str(point)], TIMEOUT_S)
        finally:
            if os.path.ismount(point):
                subprocess.run(["fusermount3", "-uz", str(point)], check=False)
            try:
                process.wait(TIMEOUT_S)
            finally:
                process.kill()
                process.wait()


MOUNTS: tuple[Mounted, ...] = (
    Quicfs("quicfs", "nfs+quic", *_NFS),
    Quicfs("quicfs-smb", "smb+quic"),
    Sshfs(),
)


def _quicfs(*arguments: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "quicfs", *arguments],
        env=os.environ | {"QUICFS_PASSWORD": PASSWORD},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )
    if done.returncode:
        raise ProcessFailed(f"quicfs {arguments[0]}: {done.stderr.strip()[-400:]}")


def help_of_serve() -> str:
    """What this quicfs can serve."""
    return run([sys.executable, "-m", "quicfs", "serve", "--help"], TIMEOUT_S)


def _fuse_missing() -> str | None:
    if not Path("/dev/fuse").exists():
        return "modprobe fuse"
    return None if shutil.which("fusermount3") else "apt-get install fuse3"
