"""The whole thing on one machine: certificates, agent, server, mount, a tree in and out again, compared.

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
_URL: Final = re.compile(r"smb\+quic://[^\s;,]+")
_SHOWN: Final = 10  # differences, of many


def run(*, keep: bool, console: Console | None = None) -> None:
    """Raises UserError naming the part that failed. Nothing is left behind, whatever happens."""
    console = console or Console(stderr=True)
    with ExitStack() as cleanup:
        cleanup.enter_context(_terminated_like_interrupted())
        place = Path(tempfile.mkdtemp(prefix="quicfs-demo-"))
        cleanup.callback(shutil.rmtree, place)
        stage = _Stage(place, console)
        url = stage.set_up(cleanup)
        rows = stage.copy_and_compare(url)
        console.print(_table(rows))
        if keep:
            stage.say(f"mounted at {stage.mount_point} until Ctrl-C; the server's side is {stage.share}")
            signal.pause()
    console.print("[bold green]✓[/] all equal; unmounted, stopped and removed", highlight=False)


class _Stage:
    """The folders, processes and environment of one demo."""

    def __init__(self, place: Path, console: Console) -> None:
        self._place = place
        self._console = console
        self._certs = place / "certs"
        self._environment = {**os.environ, ENVIRONMENT: secrets.token_urlsafe(18), "PYTHONUNBUFFERED": "1"}
        self.share = place / "share"
        self.mount_point = place / "mount"
        self.out = place / "out"

    def say(self, text: str) -> None:
        self._console.print(f"[bold]•[/] {text}", highlight=False)

    def set_up(self, cleanup: ExitStack) -> str:
        """Everything up to the mount; what is started is stopped by `cleanup`. Returns the share's URL."""
        certs, agent, users = self._certs, self._place / "agent.sock", self._place / "users"
        self.share.mkdir()
        self.mount_point.mkdir()

        self.say("a private authority and a certificate for localhost")
        self._quicfs("cert", "init", "--dir", certs, "--name", "localhost", "--name", "127.0.0.1")
        self._quicfs("user", "add", _USER, "--users", users)

        self.say("the agent, which does the TLS handshakes and alone reads the private key")
        config = self._place / "agent.toml"
        config.write_text(server_configuration(certs / "server.pem", certs / "server.key"))
        cleanup.enter_context(self._running("agent", "--config", config, "--socket", agent))

        self.say("the server: SMB 3.1.1 over QUIC v1")
        ready = cleanup.enter_context(
            self._running("serve", self.share, "--listen", "localhost:0", "--users", users, "--agent", agent)
        )
        found = _URL.search(ready)
        if found is None:
            raise UserError(f"quicfs serve said {ready!r}, which names no URL")
        url = found[0].replace("://", f"://{_USER}@")

        self.say(f"the mount of {url}")
        cleanup.callback(self._unmount)
        cleanup.enter_context(
            self._running("mount", url, self.mount_point, "--foreground", "--ca", certs / "ca.pem")
        )
        return url

    def copy_and_compare(self, url: str) -> list[tuple[str, CopyProgress]]:
        tree = real_tree()
        self.say(f"a real tree: {len(tree.files):,} files, {tree.bytes / 1e6:.0f} MB, of {sys.prefix}")
        rows = [("in, through the mount", self._copy_in(tree))]

        got = CopyProgress("", console=Console(quiet=True))
        with got:
            self._quicfs("get", "-r", url, self.out, "--ca", self._certs / "ca.pem", show=True)
            got.files, got.bytes = len(tree.files), tree.bytes
        rows.append(("out, with quicfs get -r", got))

        rows.append(("compared: the server's folder", self._compare(tree, self.share)))
        rows.append(("compared: what came out", self._compare(tree, self.out)))
        return rows

    def _copy_in(self, tree: Tree) -> CopyProgress:
        tree.make_directories(self.mount_point)
        with CopyProgress("in, through the mount", console=self._console) as progress:
            progress.files_known, progress.bytes_known = len(tree.files), tree.bytes

            def copy(path: str) -> int:
                return tree.copy_file(self.mount_point, path)

            with ThreadPoolExecutor(_COPIERS) as pool:
                for size in pool.map(copy, tree.files):
                    progress.file_done(size)
        tree.finish(self.mount_point)
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
        log = self._place / f"{arguments[0]}.log"
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

    def _unmount(self) -> None:
        """Only what is still there when the mount's own process has ended."""
        if os.path.ismount(self.mount_point):
            subprocess.run(["fusermount3", "-u", "-z", self.mount_point], check=False)


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
