"""Operations that must happen once, against a model that knows what each has to report.

Every worker has a directory to itself, in which all is determined; names come from a small pool, so that an operation
carried out a second time, however late, hits something that is there by then. In one more directory all workers want
the same name at the same time, and exactly one may get it.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, Final

from quicfs.vfs.api import FileSystem, FsError, Node, OpenFlags, Status

_NAMES: Final = 8  # in the directory of a worker
_RACE_EVERY: Final = 20  # operations of a worker
_NEW: Final = OpenFlags.CREATE | OpenFlags.EXCLUSIVE | OpenFlags.WRITE


@dataclass
class Outcome:
    """What callers were told. `done`: operations that succeeded, by kind; `refused`: those that failed as they had to.
    `faults`: sentences about what should not be."""

    done: Counter[str] = field(default_factory=Counter)
    refused: Counter[str] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)

    @property
    def operations(self) -> int:
        return self.done.total() + self.refused.total()


async def run(fs: FileSystem, operations: int, workers: int, seed: int) -> Outcome:
    """At least so many operations. Whatever fails in another way than the model says is a fault."""
    outcome = Outcome()
    race = _Race(fs, (await fs.mkdir(fs.root, "race"))[0], workers, outcome)
    makers = [_Worker(fs, number, random.Random(f"{seed} {number}"), outcome) for number in range(workers)]
    await asyncio.gather(*(worker.work(-(-operations // workers), race) for worker in makers))
    return outcome


async def _tried(work: Awaitable[Any]) -> tuple[FsError | None, Any]:
    try:
        return None, await work
    except FsError as error:
        return error, None


class _Worker:
    """`model`: the names in its directory, with the file that each stands for."""

    def __init__(self, fs: FileSystem, number: int, dice: random.Random, outcome: Outcome) -> None:
        self.fs = fs
        self.number = number
        self.dice = dice
        self.outcome = outcome
        self.model: dict[str, int] = {}
        self.directory: Node = fs.root
        self.kinds: dict[str, Callable[[], Awaitable[None]]] = {
            "create": self.create,
            "rename": self.rename,
            "remove": self.remove,
            "link": self.link,
        }

    async def work(self, operations: int, race: _Race) -> None:
        self.directory, _ = await self.fs.mkdir(self.fs.root, f"worker {self.number}")
        for count in range(operations):
            if count % _RACE_EVERY == _RACE_EVERY - 1:
                await race.join()
            else:
                await self.kinds[self.dice.choice(list(self.kinds))]()
        await self.compare()

    # --- the operations

    async def create(self) -> None:
        name = self.any_name()
        wanted = Status.EXISTS if name in self.model else None
        got, opened = await _tried(self.fs.open(self.directory, name, _NEW))
        if self.told("create", name, wanted, got):
            self.model[name] = opened[1].fileid
        if opened is not None:
            await self.must(opened[0].close(), f"close {name}")

    async def rename(self) -> None:
        old, new = self.any_name(), self.any_name()
        wanted = None if old in self.model else Status.NOT_FOUND
        got, _ = await _tried(self.fs.rename(self.directory, old, self.directory, new))
        # Two names of one file: nothing happens (POSIX, and RFC 8881 §18.26.3).
        if self.told("rename", f"{old} to {new}", wanted, got) and self.model[old] != self.model.get(new):
            self.model[new] = self.model.pop(old)

    async def remove(self) -> None:
        name = self.any_name()
        wanted = None if name in self.model else Status.NOT_FOUND
        got, _ = await _tried(self.fs.unlink(self.directory, name))
        if self.told("remove", name, wanted, got):
            del self.model[name]

    async def link(self) -> None:
        if not self.model:
            await self.create()
            return
        old, new = self.dice.choice(list(self.model)), self.any_name()
        wanted = Status.EXISTS if new in self.model else None
        found = await self.must(self.fs.lookup(self.directory, old), f"lookup {old}")
        if found is None:
            return
        node, attr = found
        if attr.fileid != self.model[old]:
            self.outcome.faults.append(f"{self.number}: {old} is another file than before")
        got, _ = await _tried(self.fs.link(node, self.directory, new))
        if self.told("link", f"{old} to {new}", wanted, got):
            self.model[new] = self.model[old]

    # ---

    async def must(self, work: Awaitable[Any], what: str) -> Any:
        failure, result = await _tried(work)
        if failure is not None:
            self.outcome.faults.append(f"{self.number}: {what}: {failure}")
        return result

    def any_name(self) -> str:
        return f"name {self.dice.randrange(_NAMES)}"

    def told(self, kind: str, what: str, wanted: Status | None, failure: FsError | None) -> bool:
        """Whether it succeeded."""
        got = None if failure is None else failure.status
        if got is None:
            self.outcome.done[kind] += 1
        else:
            self.outcome.refused[kind] += 1
        if wanted is not got:
            expected = wanted.name if wanted else "OK"
            self.outcome.faults.append(
                f"{self.number}: {kind} {what}: {failure or 'OK'} in place of {expected}"
            )
        return got is None and wanted is None

    async def compare(self) -> None:
        page = await self.must(self.fs.readdir(self.directory), "readdir")
        found = {entry.name: entry.attr.fileid for entry in page.entries} if page is not None else None
        if found != self.model:
            self.outcome.faults.append(f"{self.number}: at the end {found}, not {self.model}")


class _Race:
    """All workers want to create one name, and when that is decided, to remove it."""

    def __init__(self, fs: FileSystem, directory: Node, workers: int, outcome: Outcome) -> None:
        self.fs = fs
        self.directory = directory
        self.outcome = outcome
        self.gates = [asyncio.Barrier(workers) for _ in range(2)]
        self.winners = [0, 0]

    async def join(self) -> None:
        await self._once(0, "create", Status.EXISTS, self._create)
        await self._once(1, "remove", Status.NOT_FOUND, self._remove)

    async def _once(
        self, number: int, kind: str, loss: Status, attempt: Callable[[], Awaitable[None]]
    ) -> None:
        await self.gates[number].wait()
        got, _ = await _tried(attempt())
        if got is None:
            self.winners[number] += 1
            self.outcome.done[kind] += 1
        else:
            self.outcome.refused[kind] += 1
            if got.status is not loss:
                self.outcome.faults.append(f"race to {kind}: {got}")
        if await self.gates[number].wait() == 0:
            if self.winners[number] != 1:
                self.outcome.faults.append(f"race to {kind}: {self.winners[number]} winners")
            self.winners[number] = 0
        await self.gates[number].wait()

    async def _create(self) -> None:
        file, _, _ = await self.fs.open(self.directory, "prize", _NEW)
        with contextlib.suppress(FsError):
            await file.close()

    async def _remove(self) -> None:
        await self.fs.unlink(self.directory, "prize")
