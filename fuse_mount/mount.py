"""A file system of the contract, mounted.

    mount = FuseMount(fs, "/mnt/x", options)     # in the event loop that `fs` lives in
    await mount.mount()                          # it can be used now, by other threads and processes
    await mount.wait()                           # until somebody unmounts it
    await mount.unmount()                        # or we do

Going into the background: fork first, then start the event loop, connect, and mount. A fork keeps neither
threads nor loops, and libfuse's threads start in `mount`. The parent waits for the child's word (a pipe
written to by `serve_mount`'s `ready`) before it exits, so that the shell comes back to a mount that works.

The thread that runs the event loop must never touch the mount itself: it would wait for its own answer.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from quicfs.fuse_mount.binding import Binding
from quicfs.fuse_mount.context import Context
from quicfs.fuse_mount.crossing import Crossing
from quicfs.fuse_mount.library import load_library
from quicfs.fuse_mount.locks import Locks
from quicfs.fuse_mount.mounts import find_mount, unmount_path
from quicfs.fuse_mount.options import MAX_IO, MountError, MountOptions
from quicfs.fuse_mount.preflight import check_mount
from quicfs.fuse_mount.session import FuseSession
from quicfs.fuse_mount.stat_layout import StatLayout
from quicfs.vfs import FileSystem, FsError, Status

_log = logging.getLogger("quicfs.fuse_mount")

_IDLE_S: Final = 0.5
"""Written data that is not followed by more goes to the server after this."""

_DETACHED_S: Final = 2.0
"""After a lazy unmount: how long to wait for the last user."""

_SIGKILL_BIT: Final = 1 << 8


class FuseMount:
    """One mount. The file system stays the caller's: it is not closed."""

    def __init__(self, fs: FileSystem, mountpoint: str, options: MountOptions | None = None) -> None:
        self._fs = fs
        self._mountpoint = os.path.abspath(mountpoint)
        self._options = options if options is not None else MountOptions()
        self._session: FuseSession | None = None
        self._binding: Binding | None = None
        self._housekeeper: asyncio.Task[None] | None = None
        self._gone = asyncio.Event()
        self._finished: asyncio.Task[None] | None = None

    @property
    def mountpoint(self) -> str:
        return self._mountpoint

    async def mount(self) -> None:
        """Mount it; it answers when this returns. Raises MountError, or FsError if the root cannot be read."""
        assert self._session is None, "a FuseMount mounts once"
        options = self._options
        await asyncio.to_thread(check_mount, self._mountpoint, options)
        library = load_library()
        loop = asyncio.get_running_loop()
        await self._fs.getattr(self._fs.root)
        ready = asyncio.Event()

        def on_init(connection: Any, config: Any) -> None:
            session.configure(connection, config)
            loop.call_soon_threadsafe(ready.set)

        def on_end() -> None:
            with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits
                loop.call_soon_threadsafe(self._gone.set)

        def abandoned(interruptible: bool) -> bool:
            return (interruptible and bool(library.interrupted())) or _is_dying(library.caller())

        def blocked(count: int) -> None:
            session.threads_wait(count)

        crossing = Crossing(
            loop, options.deadline, options.retry_deadline, abandoned=abandoned, blocked=blocked
        )
        layout = StatLayout(library.c_stat, uid=options.uid, gid=options.gid)
        context = Context(self._fs, crossing, options, layout, lambda: session.opcode())  # noqa: PLW0108
        locks = Locks(context, lambda: abandoned(True))
        binding = Binding(library, context, locks, on_init)
        if not await self._has_xattrs():
            binding.leave_out("getxattr", "setxattr", "listxattr", "removexattr")
        session = FuseSession(library, binding.operations, options, on_end)
        await asyncio.to_thread(session.mount, self._mountpoint)
        self._session, self._binding = session, binding
        session.start()
        self._housekeeper = loop.create_task(self._keep_house(context))
        self._finished = loop.create_task(self._finish(crossing))
        waiting = {asyncio.ensure_future(ready.wait()), asyncio.ensure_future(self._gone.wait())}
        await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        for task in waiting:
            task.cancel()
        if not ready.is_set():
            raise MountError(f"{self._mountpoint} was unmounted while it was being mounted: mount it again.")
        self._raise_kernel_readahead()

    async def wait(self) -> None:
        """Returns when the mount is gone and everything is given back."""
        assert self._finished is not None, "not mounted"
        await asyncio.shield(self._finished)

    async def unmount(self, *, lazy: bool = False) -> None:
        """Raises MountError when it is in use; not with `lazy`, and then its last user ends it.

        What was written before is at the file system when this returns (not with `lazy` while in use)."""
        if self._gone.is_set() or self._session is None:
            return
        try:
            await asyncio.to_thread(unmount_path, self._mountpoint, lazy=lazy)
        except MountError:
            if not self._gone.is_set():
                raise
        try:
            await asyncio.wait_for(self._gone.wait(), _DETACHED_S if lazy else None)
        except TimeoutError:
            _log.warning("%s is detached but still in use", self._mountpoint)
            return
        await self.wait()

    async def _has_xattrs(self) -> bool:
        """Known before, the kernel need not ask for one before every write."""
        try:
            await self._fs.listxattr(self._fs.root)
        except FsError as error:
            return error.status is not Status.NOT_SUPPORTED
        return True

    async def _keep_house(self, context: Context) -> None:
        while True:
            await asyncio.sleep(_IDLE_S)
            since = time.monotonic() - _IDLE_S
            for shared in list(context.handles.dirty.values()):
                for writer in list(shared.writers):
                    writer.send_if_idle(since)

    async def _finish(self, crossing: Crossing) -> None:
        await self._gone.wait()
        assert self._session is not None and self._binding is not None and self._housekeeper is not None
        self._housekeeper.cancel()
        try:
            async with asyncio.timeout(self._options.deadline):
                await self._binding.close()
        except TimeoutError:
            _log.warning("the server was silent when %s was unmounted", self._mountpoint)
        crossing.cancel_all()
        await asyncio.to_thread(self._session.destroy)

    def _raise_kernel_readahead(self) -> None:
        """The kernel reads 128 KiB ahead unless root asks it for more."""
        mount = find_mount(self._mountpoint)
        if mount is None:
            return
        try:
            Path(f"/sys/class/bdi/{mount.device}/read_ahead_kb").write_text(str(MAX_IO // 1024))
        except OSError as error:
            _log.debug("read-ahead of the kernel stays as it is: %s", error)


async def serve_mount(
    fs: FileSystem, mountpoint: str, options: MountOptions | None = None, *, ready: Callable[[], None]
) -> None:
    """Mount, call `ready`, and return when it was unmounted, by whomever. When cancelled, unmount.

    Raises MountError. See the top of this file for the order of fork and loop."""
    mount = FuseMount(fs, mountpoint, options)
    await mount.mount()
    try:
        ready()
        await mount.wait()
    except BaseException:
        try:
            await mount.unmount()
        except MountError as error:
            _log.warning("%s Detaching it.", error)
            await mount.unmount(lazy=True)
        raise


def _is_dying(thread_id: int) -> bool:
    """Whether a program waits for nothing but its own end: a fatal signal is pending as SIGKILL in all of its
    threads. A program in another PID namespace (0) cannot be seen."""
    if not thread_id:
        return False
    try:
        with open(f"/proc/{thread_id}/status", "rb") as status:
            for line in status:
                if line.startswith((b"SigPnd:", b"ShdPnd:")) and int(line.split()[1], 16) & _SIGKILL_BIT:
                    return True
    except (FileNotFoundError, ProcessLookupError):
        return True
    return False
