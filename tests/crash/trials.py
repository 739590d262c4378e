"""The trials: a writer that holds a lock, a thief that wants it, and somebody who kills."""

from __future__ import annotations

import asyncio
import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from quicfs.nfs.client.filesystem import NfsFileSystem
from quicfs.vfs.api import LockKind, OpenFlags
from quicfs.vfs.status import FsError, Status
from tests.crash.mounting import mounted
from tests.crash.processes import Server, TrialFailed, Writer
from tests.crash.records import Expected

BOTH = OpenFlags.READ | OpenFlags.WRITE
AWAY = (Status.TIMEOUT, Status.DISCONNECTED)
RECOVERY_S = 60.0


@dataclass
class Report:
    kills: int = 0
    kept: int = 0  # records that were known to be on disk when somebody died
    lost: int = 0  # deaths with which records were lost that the server had, and nobody had committed
    refused: int = 0  # attempts of the thief
    longest_s: float = 0.0  # from a kill until the survivors went on

    def __str__(self) -> str:
        return (
            f"{self.kept} records kept; {self.lost} times others were lost that nobody had committed; "
            f"{self.refused} thefts refused; after {self.longest_s:.1f} s at most the survivors went on"
        )


class Thief:
    """A client that wants to lock the writer's file and must not get it. `async with`."""

    def __init__(self, server: Server) -> None:
        self.refused = 0
        self._mounted = mounted(server.where)
        self._fs: NfsFileSystem

    async def __aenter__(self) -> Self:
        self._fs = await self._mounted.__aenter__()
        return self

    async def __aexit__(self, *exc: Any) -> None:
        await self._mounted.__aexit__(*exc)

    async def tries(self, name: str) -> bool:
        """Whether it has got the lock; it is given back then."""
        try:
            file, _, _ = await self._fs.open(self._fs.root, name, BOTH)
            try:
                await file.lock(0, 0, LockKind.EXCLUSIVE, owner=1)
                await file.lock(0, 0, LockKind.UNLOCK, owner=1)
                return True
            finally:
                await file.close()
        except FsError as error:
            if error.status is Status.LOCKED:
                self.refused += 1
            elif error.status not in AWAY:
                raise
            return False

    async def never(self, name: str) -> None:
        """Tries again and again."""
        while True:
            if await self.tries(name):
                raise TrialFailed(f"the lock on {name} was stolen")
            await asyncio.sleep(0.02)


async def _theft_by_stranger(server: Server, name: str) -> int:
    """By one who was not there before, as soon as it can be: the number of refusals."""
    async with Thief(server) as stranger:
        if await stranger.tries(name):
            raise TrialFailed("a stranger has got the lock")
        return stranger.refused


def check_disk(path: Path, expected: Expected, writer: Writer) -> bool:
    """Everything that was kept is there; whether something is not that was only sent."""
    wanted = expected.up_to(writer.kept)
    found = path.read_bytes()
    if found[: len(wanted)] != wanted:
        at = next(n for n, pair in enumerate(zip(found + b"\0", wanted, strict=False)) if pair[0] != pair[1])
        raise TrialFailed(f"{path}: {writer.kept} records ({len(wanted)} bytes) were kept, but not byte {at}")
    return len(found) < len(expected.up_to(writer.sent))


async def kill_the_server(server: Server, times: int, seed: int) -> Report:
    """One writer lives through all of it."""
    chance, report, loop = random.Random(seed), Report(), asyncio.get_running_loop()
    expected, path = Expected(seed), server.tree / "file"
    async with server, Writer(server, "file", seed) as writer, Thief(server) as thief:
        theft = loop.create_task(thief.never("file"))
        try:
            for _ in range(times):
                await writer.goes_on(RECOVERY_S)
                await asyncio.sleep(chance.random() * 0.5)
                await server.kill()
                killed = loop.time()
                await asyncio.sleep(chance.random() * 0.05)
                report.kills += 1
                report.lost += check_disk(path, expected, writer)
                await server.start()
                attempt = loop.create_task(_theft_by_stranger(server, "file"))
                await writer.goes_on(RECOVERY_S)
                report.longest_s = max(report.longest_s, loop.time() - killed)
                report.refused += await attempt
                if theft.done():
                    await theft
            await writer.finish(RECOVERY_S)
            check_disk(path, expected, writer)
            report.kept = writer.kept
        finally:
            theft.cancel()
            await asyncio.gather(theft, return_exceptions=True)
        report.refused += thief.refused
    return report


async def kill_the_client(server: Server, times: int, seed: int) -> Report:
    """A new writer each time; the thief gets the lock when the lease is over."""
    chance, report, loop = random.Random(seed), Report(), asyncio.get_running_loop()
    async with server, Thief(server) as thief:
        for number in range(times):
            name = f"file-{number}"
            path = server.tree / name
            async with Writer(server, name, seed + number) as writer:
                theft = loop.create_task(thief.never(name))
                try:
                    await writer.goes_on(RECOVERY_S)
                    await asyncio.sleep(chance.random() * 0.5)
                    if theft.done():
                        await theft
                    await writer.kill()
                    killed = loop.time()
                finally:
                    theft.cancel()
                    await asyncio.gather(theft, return_exceptions=True)
            report.kills += 1
            report.kept += writer.kept
            check_disk(path, Expected(writer.seed), writer)
            while not await thief.tries(name):
                if loop.time() > killed + server.lease + 10:
                    raise TrialFailed("the lock of a dead client is held on to")
                await asyncio.sleep(0.05)
            report.longest_s = max(report.longest_s, loop.time() - killed)
            check_disk(path, Expected(writer.seed), writer)
            path.unlink()
        report.refused = thief.refused
    return report
