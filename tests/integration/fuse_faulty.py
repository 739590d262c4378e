"""A file system of the contract that misbehaves on demand: slow, disconnected, silent, or failing its writes.

Run as a program it is mounted, and takes orders from its standard input: `fuse_faulty.py SOURCE MOUNTPOINT
OPTIONS`. The mount is another process's, because one that waits for its own answer cannot be killed.
"""

from __future__ import annotations

import asyncio
import contextlib
import enum
import json
import subprocess
import sys
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

from quicfs.fuse_mount import FuseMount, MountError, parse_options, unmount_path
from quicfs.vfs import Attr, FileSystem, FsError, LockKind, Node, OpenFile, OpenFlags, SetAttr, Status
from quicfs.vfs.local import LocalTree

T = TypeVar("T")


class Fault(enum.Enum):
    NONE = "works"
    DISCONNECTED = "the connection is lost: every call fails at once"
    SILENT = "the server does not answer: no call ever ends"
    NO_SPACE = "writes fail"


class Faults:
    """What is wrong now. `calls` counts those that came, `cancelled` those that were given up."""

    def __init__(self) -> None:
        self.now = Fault.NONE
        self.delay = 0.0
        self.calls: Counter[str] = Counter()
        self.sizes: list[int] = []
        self.cancelled = 0

    async def call(self, name: str, function: Callable[..., Awaitable[T]], *args: Any, **kwargs: Any) -> T:
        self.calls[name] += 1
        if name == "write":
            self.sizes.append(len(args[1]))
        if self.delay:
            await asyncio.sleep(self.delay)
        if self.now is Fault.DISCONNECTED:
            raise FsError(Status.DISCONNECTED)
        if self.now is Fault.SILENT:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                self.cancelled += 1
                raise
        if self.now is Fault.NO_SPACE and name == "write":
            raise FsError(Status.NO_SPACE)
        return await function(*args, **kwargs)


class FaultyFile(OpenFile):
    def __init__(self, file: OpenFile, faults: Faults) -> None:
        self._file = file
        self._faults = faults

    @property
    def node(self) -> Node:
        return self._file.node

    async def read(self, offset: int, length: int) -> bytes | memoryview:
        return await self._faults.call("read", self._file.read, offset, length)

    async def write(self, offset: int, data: bytes | memoryview, *, stable: bool = False) -> int:
        return await self._faults.call("write", self._file.write, offset, data, stable=stable)

    async def getattr(self) -> Attr:
        return await self._faults.call("getattr", self._file.getattr)

    async def setattr(self, changes: SetAttr) -> Attr:
        return await self._faults.call("setattr", self._file.setattr, changes)

    async def fsync(self, *, data_only: bool = False) -> None:
        await self._faults.call("fsync", self._file.fsync, data_only=data_only)

    async def lock(self, offset: int, length: int, kind: LockKind, *, owner: int, wait: bool = False) -> None:
        await self._faults.call("lock", self._file.lock, offset, length, kind, owner=owner, wait=wait)

    async def close(self) -> None:
        await self._file.close()


class FaultyTree(LocalTree):
    """A local tree with `faults`."""

    def __init__(self, path: str, faults: Faults) -> None:
        super().__init__(path)
        self.faults = faults

    async def open(
        self, directory: Node, path: str, flags: OpenFlags, mode: int = 0o644
    ) -> tuple[OpenFile, Attr, bool]:
        file, attr, created = await self.faults.call("open", super().open, directory, path, flags, mode)
        return FaultyFile(file, self.faults), attr, created

    async def close(self) -> None:
        self.faults.now = Fault.NONE
        await super().close()


def _wrap(name: str) -> Callable[..., Awaitable[Any]]:
    original = getattr(LocalTree, name)

    async def method(self: FaultyTree, *args: Any, **kwargs: Any) -> Any:
        return await self.faults.call(name, original, self, *args, **kwargs)

    return method


for _name in FileSystem.__abstractmethods__ - {"root", "open"}:
    setattr(FaultyTree, _name, _wrap(_name))


class FaultyMount:
    """The other end of the orders."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process

    def _order(self, **order: Any) -> dict[str, Any]:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps(order) + "\n")
        self.process.stdin.flush()
        answer: dict[str, Any] = json.loads(self.process.stdout.readline())
        return answer

    def set(self, fault: Fault, delay: float = 0.0) -> None:
        self._order(fault=fault.name, delay=delay)

    @property
    def calls(self) -> Counter[str]:
        return Counter(self._order()["calls"])

    @property
    def write_sizes(self) -> list[int]:
        return list(self._order()["sizes"])

    @property
    def cancelled(self) -> int:
        return int(self._order()["cancelled"])


@contextlib.contextmanager
def faulty_mount(source: Path, mountpoint: Path, options: str) -> Iterator[FaultyMount]:
    command = [sys.executable, __file__, str(source), str(mountpoint), options]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True) as process:
        assert process.stdout is not None
        try:
            line = process.stdout.readline()
            assert line == "ready\n", f"the mount failed: {line!r}"
            yield FaultyMount(process)
        finally:
            with contextlib.suppress(MountError):
                unmount_path(str(mountpoint), lazy=True)
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()


async def _serve(source: str, mountpoint: str, options: str) -> None:
    faults = Faults()
    fs = FaultyTree(source, faults)
    mount = FuseMount(fs, mountpoint, parse_options(options))
    await mount.mount()
    loop = asyncio.get_running_loop()

    def obey() -> None:
        order = json.loads(sys.stdin.readline() or "{}")
        if "fault" in order:
            faults.now, faults.delay = Fault[order["fault"]], order["delay"]
        state = {"calls": faults.calls, "sizes": faults.sizes, "cancelled": faults.cancelled}
        print(json.dumps(state), flush=True)

    loop.add_reader(sys.stdin.fileno(), obey)
    print("ready", flush=True)
    await mount.wait()
    await fs.close()


if __name__ == "__main__":
    asyncio.run(_serve(*sys.argv[1:4]))
