"""Real mounts for tests: a local tree mounted by another process.

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
from collections.abc import Iterator
from pathlib import Path

from quicfs.fuse_mount import MountError, parse_options, serve_mount, unmount_path
from quicfs.vfs.local import LocalTree


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
