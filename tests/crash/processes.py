"""The processes of a trial, and the means to kill them."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
from asyncio.subprocess import PIPE, Process
from pathlib import Path
from typing import Self

from quicfs import certs

START_S = 30.0


class TrialFailed(AssertionError):
    """What must not happen has happened. With the end of a log that may say why."""

    def __init__(self, what: str, log: Path | None = None) -> None:
        super().__init__(what if log is None else f"{what}; {log} says:\n{log.read_text()[-2000:]}")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


async def _start(module: str, *args: str, log: Path) -> Process:
    environment = os.environ | {"XDG_STATE_HOME": str(log.parent / "home")}
    with log.open("ab") as output:
        return await asyncio.create_subprocess_exec(
            sys.executable, "-m", module, *args, stdin=PIPE, stdout=PIPE, stderr=output, env=environment
        )


async def _said(process: Process, what: str, log: Path) -> None:
    assert process.stdout is not None
    async with asyncio.timeout(START_S):
        line = await process.stdout.readline()
    if not line.decode().startswith(what):
        raise TrialFailed(f"{what!r} was expected, {line!r} came", log)


async def _kill(process: Process) -> None:
    if process.returncode is None:
        process.send_signal(signal.SIGKILL)
    await process.wait()


class Server:
    """On `directory/tree`, always on the same port; it forgets what was not committed. `where`: see `mounting`."""

    first_line = "serving"

    def __init__(self, directory: Path, lease: float) -> None:
        self.tree = directory / "tree"
        self.tree.mkdir(exist_ok=True)
        self.port = free_port()
        self.lease = lease
        self.directory = directory
        self._log = directory / "server.log"
        self._process: Process | None = None

    @property
    def where(self) -> str:
        return f"tcp:{self.port}"

    @property
    def command(self) -> list[str]:
        state = self.directory / "state"
        return ["tests.crash.server", str(self.tree), str(state), str(self.port), str(self.lease)]

    async def start(self) -> None:
        self._process = await _start(*self.command, log=self._log)
        await _said(self._process, self.first_line, self._log)

    async def kill(self) -> None:
        if self._process is not None:
            await _kill(self._process)

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.kill()


class QuicfsServe(Server):
    """`quicfs serve --nfs`, on QUIC."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory, 90.0)
        self._files = certs.create(directory / "certs", ("localhost",))
        self.first_line = f"serving {self.tree}"

    @property
    def where(self) -> str:
        return f"quic:{self.port}:{self._files.ca}"

    @property
    def command(self) -> list[str]:
        certificate = ("--cert", str(self._files.cert), "--key", str(self._files.key))
        listen = ("--listen", f"localhost:{self.port}")
        return [
            "quicfs",
            "serve",
            f"export={self.tree}",
            "--nfs",
            "--no-smb",
            "--no-root-squash",
            *listen,
            *certificate,
        ]


class Writer:
    """`sent`: how many of its records the server has; `kept`: how many it knows to be on disk."""

    def __init__(self, server: Server, name: str, seed: int) -> None:
        self.name = name
        self.seed = seed
        self.sent = self.kept = 0
        self.done = False
        self._where = server.where
        self._log = server.directory / "writer.log"
        self._more = asyncio.Event()
        self._process: Process
        self._reader: asyncio.Task[None]

    async def __aenter__(self) -> Self:
        self._process = await _start(
            "tests.crash.writer", self._where, self.name, str(self.seed), log=self._log
        )
        await _said(self._process, "ready", self._log)
        self._reader = asyncio.get_running_loop().create_task(self._read())
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.kill()

    async def _read(self) -> None:
        assert self._process.stdout is not None
        async for line in self._process.stdout:
            words = line.decode().split()
            if words[0] == "sent":
                self.sent = int(words[1])
            elif words[0] == "kept":
                self.kept = int(words[1])
            else:
                self.done = words == ["done"]
            self._more.set()

    async def kill(self) -> None:
        """What it had said is known afterwards."""
        await _kill(self._process)
        await self._reader

    async def goes_on(self, timeout: float) -> None:
        """Until it has kept more than now."""
        before = self.kept
        try:
            async with asyncio.timeout(timeout):
                while self.kept <= before:
                    if self._reader.done():
                        raise TrialFailed("the writer has ended", self._log)
                    self._more.clear()
                    await self._more.wait()
        except TimeoutError:
            raise TrialFailed(f"the writer has not gone on in {timeout:g} s", self._log) from None

    async def finish(self, timeout: float) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(b"stop\n")
        await self._process.stdin.drain()
        async with asyncio.timeout(timeout):
            await self._process.wait()
            await self._reader
        if not self.done:
            raise TrialFailed("the writer did not end well", self._log)
