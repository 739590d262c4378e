"""Real mounts for tests: a local tree mounted by another process, or any file system mounted by this one.

Run as a program, it is that other process: `fuse_rig.py SOURCE MOUNTPOINT [OPTIONS]`; it says "ready", and
ends when it was unmounted or got SIGTERM.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any, TypeVar

from quicfs.fuse_mount import FuseMount, MountError, MountOptions, parse_options, serve_mount, unmount_path
from quicfs.vfs import FileSystem
from quicfs.vfs.local import LocalTree

T = TypeVar("T")


@contextlib.contextmanager
def mounted_elsewhere(source: Path, mountpoint: Path, options: str = "") -> Iterator[subprocess.Popen[str]]:
    """`source` mounted at `mountpoint` by another process, until the block ends."""
    command = [sys.executable, __file__, str(source), str(mountpoint), options]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            line = process.stdout.readline()
            assert line == "ready\n", f"the mount failed: {line!r}"
            yield process
        finally:
            with contextlib.suppress(MountError):
                unmount_path(str(mountpoint), lazy=True)
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()


class LoopThread:
    """An event loop in a thread of its own."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self.loop.run_forever, name="test-loop", daemon=True)
        self._thread.start()

    def run(self, coroutine: Coroutine[Any, Any, T], timeout: float = 60) -> T:
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop).result(timeout)

    def stop(self) -> None:
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join(10)
        self.loop.close()


@contextlib.contextmanager
def mounted_here(
    make: Callable[[], FileSystem], mountpoint: Path, options: MountOptions
) -> Iterator[tuple[LoopThread, FuseMount]]:
    """A file system made by `make` in a loop of its own, mounted by this process.

    Only calls that release the interpreter lock may touch the mount from here: those of `os`, not mmap."""
    thread = LoopThread()

    async def start() -> tuple[FileSystem, FuseMount]:
        fs = make()
        mount = FuseMount(fs, str(mountpoint), options)
        await mount.mount()
        return fs, mount

    fs, mount = thread.run(start())
    try:
        yield thread, mount
    finally:
        thread.run(mount.unmount(lazy=True))
        thread.run(fs.close())
        thread.stop()


async def _serve(source: str, mountpoint: str, options: str) -> None:
    fs = LocalTree(source)
    serving = asyncio.ensure_future(
        serve_mount(fs, mountpoint, parse_options(options), ready=lambda: print("ready", flush=True))
    )
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, serving.cancel)
    with contextlib.suppress(asyncio.CancelledError):
        await serving
    await fs.close()


if __name__ == "__main__":
    try:
        asyncio.run(_serve(sys.argv[1], sys.argv[2], sys.argv[3] if len(sys.argv) > 3 else ""))
    except MountError as error:
        print(error, flush=True)
        os._exit(1)
