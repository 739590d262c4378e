"""The whole thing on one machine: certificates, agent, server, mount, a tree in and out again, compared; once over SMB
and once over NFS, on the same port.

Every part is a process of its own, started as a user would start it.
"""

from __future__ import annotations

import os
import re
import secrets
import selectors
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import FrameType
from typing import IO, Final

from rich.console import Console
from rich.table import Table

from quicfs.agents import server_configuration
from quicfs.demo_tree import TIME_GRANULARITY_NS, Tree, differences, real_tree
from quicfs.errors import UserError
from quicfs.passwords import ENVIRONMENT
from quicfs.progress import CopyProgress

__all__ = ["run"]

_USER: Final = "demo"
_START_S: Final = 30.0
_STOP_S: Final = 15.0
_COPIERS: Final = 4
_URL: Final = re.compile(r"(smb|nfs)\+quic://[^\s;,]+/([^\s;,/]+)")
_PROTOCOLS: Final = ("smb", "nfs")
_SHOWN: Final = 10  # differences, of many


def run(*, keep: bool, console: Console | None = None) -> None:
    """Raises UserError naming the part that failed. Nothing is left behind, whatever happens."""
    console = console or Console(stderr=True)
    with ExitStack() as cleanup:
        cleanup.enter_context(_terminated_like_interrupted())
        place = Path(tempfile.mkdtemp(prefix="quicfs-demo-"))
        cleanup.callback(shutil.rmtree, place)
        stage = _Stage(place, console)
        urls = stage.set_up(cleanup)
        rows = [row for protocol in _PROTOCOLS for row in stage.copy_and_compare(protocol, urls[protocol])]
        console.print(_table(rows))
        if keep:
            points = " and ".join(str(stage.mount_point(protocol)) for protocol in _PROTOCOLS)
            folders = " and ".join(str(stage.folder(protocol)) for protocol in _PROTOCOLS)
            stage.say(f"mounted at {points} until Ctrl-C; the server's side is {folders}")
            signal.pause()
    console.print("[bold green]✓[/] all equal; unmounted, stopped and removed", highlight=False)


class _Stage:
    """The folders, processes and environment of one demo."""

    def __init__(self, place: Path, console: Console) -> None:
        self._place = place
        self._console = console
        self._certs = place / "certs"
        self._started_so_far = 0
        self._environment = {**os.environ, ENVIRONMENT: secrets.token_urlsafe(18), "PYTHONUNBUFFERED": "1"}

    def folder(self, protocol: str) -> Path:
        """The server's, that is used over `protocol`."""
        return self._place / f"over-{protocol}"

    def mount_point(self, protocol: str) -> Path:
        return self._place / f"mount-{protocol}"

    def say(self, text: str) -> None:
        self._console.print(f"[bold]•[/] {text}", highlight=False)

    def set_up(self, cleanup: ExitStack) -> dict[str, str]:
        """Everything up to the mounts; what is started is stopped by `cleanup`. Returns the URL for each protocol."""
        certs, agent, users = self._certs, self._place / "agent.sock", self._place / "users"
        folders = [self.folder(protocol) for protocol in _PROTOCOLS]
        for directory in (*folders, *map(self.mount_point, _PROTOCOLS)):
            directory.mkdir()

        self.say("a private authority and a certificate for localhost")
        self._quicfs("cert", "init", "--dir", certs, "--name", "localhost", "--name", "127.0.0.1")
        self._quicfs("user", "add", _USER, "--users", users)

        self.say("the agent, which does the TLS handshakes and alone reads the private key")
        config = self._place / "agent.toml"
        config.write_text(server_configuration(certs / "server.pem", certs / "server.key"))
        cleanup.enter_context(self._running("agent", "--config", config, "--socket", agent))

        self.say("the server: SMB 3.1.1 and NFSv4.2 over QUIC v1, on one port")
        serve: list[str | Path] = [
            "serve",
            *folders,
            "--listen",
            "localhost:0",
            "--users",
            users,
            "--agent",
            agent,
        ]
        # Who runs the demo is who mounts: also when that is root.
        ready = cleanup.enter_context(self._running(*serve, "--nfs", "--no-root-squash"))
        urls = {
            found[1]: found[0] for found in _URL.finditer(ready) if found[2] == self.folder(found[1]).name
        }
        if set(urls) != set(_PROTOCOLS):
            raise UserError(f"quicfs serve said {ready!r}, which does not name the URLs")
        urls["smb"] = urls["smb"].replace("://", f"://{_USER}@")

        for protocol in _PROTOCOLS:
            self.say(f"the mount of {urls[protocol]}")
            point = self.mount_point(protocol)
            cleanup.callback(_unmount, point)
            mount: list[str | Path] = [
                "mount",
                urls[protocol],
                point,
                "--foreground",
                "--ca",
                certs / "ca.pem",
            ]
            cleanup.enter_context(self._running(*mount))
        return urls

    def copy_and_compare(self, protocol: str, url: str) -> list[tuple[str, CopyProgress]]:
        tree = real_tree()
        name = protocol.upper()
        out = self._place / f"out-{protocol}"
        self.say(
            f"{name}: a real tree: {len(tree.files):,} files, {tree.bytes / 1e6:.0f} MB, of {sys.prefix}"
        )
        rows = [(f"{name}: in, through the mount", self._copy_in(tree, self.mount_point(protocol)))]

        got = CopyProgress("", console=Console(quiet=True))
        with got:
            self._quicfs("get", "-r", url, out, "--ca", self._certs / "ca.pem", show=True)
            got.files, got.bytes = len(tree.files), tree.bytes
        rows.append((f"{name}: out, with quicfs get -r", got))

        rows.append((f"{name}: compared: the server's folder", self._compare(tree, self.folder(protocol))))
        rows.append((f"{name}: compared: what came out", self._compare(tree, out)))
        return rows

    def _copy_in(self, tree: Tree, point: Path) -> CopyProgress:
        tree.make_directories(point)
        with CopyProgress("in, through the mount", console=self._console) as progress:
            progress.files_known, progress.bytes_known = len(tree.files), tree.bytes

            def copy(path: str) -> int:
                return tree.copy_file(point, path)

            with ThreadPoolExecutor(_COPIERS) as pool:
                for size in pool.map(copy, tree.files):
                    progress.file_done(size)
        tree.finish(point)
        return progress

    def _compare(self, tree: Tree, copy: Path) -> CopyProgress:
        with CopyProgress(f"comparing {copy.name}", console=self._console) as progress:
            progress.files_known, progress.bytes_known = len(tree.files), tree.bytes
            found = differences(tree, copy, progress.file_done)
        if found:
            for sentence in found[:_SHOWN]:
                self._console.print(f"  {sentence}", highlight=False, markup=False)
            raise UserError(f"{len(found):,} things in {copy} are not what they were copied from")
        return progress

    # Processes

    def _quicfs(self, *arguments: str | Path, show: bool = False) -> None:
        """Run one command to its end; what it says is shown, or is the error."""
        with self._started(arguments, None if show else subprocess.PIPE) as process:
            _, said = process.communicate()
        if process.returncode:
            raise UserError(f"quicfs {arguments[0]} failed: {_plain(said) or 'see above'}")

    @contextmanager
    def _running(self, *arguments: str | Path) -> Iterator[str]:
        """Start a command that goes on; gives the line that it prints when ready, and stops it at the end."""
        self._started_so_far += 1
        log = self._place / f"{arguments[0]}-{self._started_so_far}.log"
        with log.open("wb") as errors, self._started(arguments, errors) as process:
            assert process.stdout is not None, "it is always asked for"
            with selectors.DefaultSelector() as selector:
                selector.register(process.stdout, selectors.EVENT_READ)
                answered = selector.select(_START_S)
            if not answered:
                raise UserError(f"quicfs {arguments[0]} was not ready after {_START_S:.0f} s")
            line = process.stdout.readline().strip()
            if not line:
                said = _plain(log.read_text(errors="replace"))
                raise UserError(f"quicfs {arguments[0]} did not start: {said or 'it gave no reason'}")
            yield line

    @contextmanager
    def _started(
        self, arguments: Sequence[str | Path], stderr: int | IO[bytes] | None
    ) -> Iterator[subprocess.Popen[str]]:
        process = subprocess.Popen(
            [sys.executable, "-m", "quicfs", *map(str, arguments)],
            env=self._environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
            start_new_session=True,  # Ctrl-C is for us: we stop the others, in the right order
        )
        with process:
            try:
                yield process
            finally:
                _stop(process)


def _unmount(point: Path) -> None:
    """Only what is still there when the mount's own process has ended."""
    if os.path.ismount(point):
        subprocess.run(["fusermount3", "-u", "-z", point], check=False)


def _stop(process: subprocess.Popen[str]) -> None:
    if process.poll() is not None:
        return
    process.terminate()
    try:
        process.wait(_STOP_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _plain(said: str | None) -> str:
    lines = (said or "").strip().splitlines()
    return lines[-1].removeprefix("quicfs: ") if lines else ""


@contextmanager
def _terminated_like_interrupted() -> Iterator[None]:
    """SIGTERM cleans up as Ctrl-C does."""

    def interrupt(_number: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _table(rows: Sequence[tuple[str, CopyProgress]]) -> Table:
    table = Table(
        caption=f"contents by SHA-256, modes, times to {TIME_GRANULARITY_NS} ns (SMB's own precision)"
    )
    table.add_column("")
    for title in ("files", "MB", "seconds", "MB/s"):
        table.add_column(title, justify="right")
    for name, done in rows:
        rate = done.bytes / done.seconds / 1e6
        table.add_row(
            name, f"{done.files:,}", f"{done.bytes / 1e6:.1f}", f"{done.seconds:.1f}", f"{rate:.1f}"
        )
    return table
