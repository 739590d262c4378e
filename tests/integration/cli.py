"""`quicfs` as a user runs it, and a site with a server, certificates and users, for tests of the command line."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from quicfs import certs

PASSWORD = "correct horse battery staple"
TIMEOUT_S = 60


def command(*arguments: str | Path) -> list[str]:
    return [sys.executable, "-m", "quicfs", *map(str, arguments)]


def quicfs(
    *arguments: str | Path, password: str | None = PASSWORD, **options: Any
) -> subprocess.CompletedProcess[str]:
    """Run one command to its end."""
    environment = {key: value for key, value in os.environ.items() if key != "QUICFS_PASSWORD"}
    if password is not None:
        environment["QUICFS_PASSWORD"] = password
    return subprocess.run(
        command(*arguments),
        env=environment | options.pop("env", {}),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
        **options,
    )


def refused(done: subprocess.CompletedProcess[str], *words: str) -> str:
    """The one line that a failure is: exit status 1, nothing on stdout, no traceback, all of `words` in it."""
    assert done.returncode == 1, (done.returncode, done.stdout, done.stderr)
    lines = done.stderr.splitlines()
    assert len(lines) == 1 and lines[0].startswith("quicfs: "), done.stderr
    for word in words:
        assert word in lines[0], (word, lines[0])
    return lines[0]


@contextmanager
def running(
    *arguments: str | Path, password: str | None = PASSWORD, log: Path | None = None
) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A command that goes on, once it has said its first line; told to end with SIGTERM, which it must obey."""
    environment = os.environ | ({"QUICFS_PASSWORD": password} if password is not None else {})
    with open(log or os.devnull, "wb") as errors:
        process = subprocess.Popen(
            command(*arguments),
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
        )
    assert process.stdout is not None
    try:
        line = process.stdout.readline().strip()
        assert line, f"{arguments} ended: {log.read_text() if log else 'see its log'}"
        yield process, line
    finally:
        process.terminate()
        try:
            process.wait(20)
        finally:
            process.kill()
            process.stdout.close()
            process.wait()


@dataclass(frozen=True)
class Site:
    """A folder of things that a server needs."""

    place: Path
    files: certs.CertificateFiles
    users: Path
    share: Path

    @classmethod
    def make(cls, place: Path, *names: str) -> Site:
        share = place / "share"
        share.mkdir(parents=True)
        files = certs.create(place / "certs", names or ("localhost", "127.0.0.1"))
        users = place / "users"
        assert quicfs("user", "add", "alice", "--users", users).returncode == 0
        return cls(place, files, users, share)

    @contextmanager
    def serving(self, *options: str | Path, scheme: str = "smb") -> Iterator[str]:
        """A server of it; gives the start of its URLs, `smb://alice@localhost:PORT/share` or `nfs://localhost:PORT/share`."""
        arguments = [
            "serve",
            self.share,
            "--share",
            "share",
            "--listen",
            "localhost:0",
            "--users",
            self.users,
        ]
        if "--agent" not in options and "--cert" not in options:
            arguments += ["--cert", self.files.cert, "--key", self.files.key]
        if scheme == "nfs":
            arguments += ["--nfs", "--no-root-squash"]  # the tests may be root
        log = self.place / "serve.log"
        with running(*arguments, *options, log=log) as (_, line):
            port = line.partition("smb+quic://")[2].partition("/")[0].rpartition(":")[2]
            yield (
                f"nfs://localhost:{port}/share" if scheme == "nfs" else f"smb://alice@localhost:{port}/share"
            )
