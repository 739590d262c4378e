"""A descriptor outlives the calls in the pool, whoever gave up waiting for them."""

from __future__ import annotations

import asyncio
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from quicfs.vfs import FsError, Status
from quicfs.vfs.descriptor import Descriptor


def is_open(fd: int) -> bool:
    return os.path.exists(f"/proc/self/fd/{fd}")


def test_cancelled_calls_keep_it_open_until_they_are_done(tmp_path: Path) -> None:
    entered, go_on = threading.Event(), threading.Event()
    sizes: list[int] = []

    def slow(fd: int, other: int) -> None:
        entered.set()
        assert go_on.wait(10)
        sizes.append(os.fstat(fd).st_size + os.fstat(other).st_size)

    async def main(pool: ThreadPoolExecutor, first: Descriptor, second: Descriptor) -> None:
        task = asyncio.ensure_future(first.run_with(pool, second, slow))
        queued = asyncio.ensure_future(first.run(pool, os.fstat))  # the pool's one thread is taken
        await asyncio.to_thread(entered.wait)
        task.cancel()
        queued.cancel()
        await asyncio.gather(task, queued, return_exceptions=True)
        first.close()
        second.close()
        first.close()
        assert is_open(fds[0]) and is_open(fds[1])
        with pytest.raises(FsError) as caught:
            await second.run(pool, os.fstat)
        assert caught.value.status is Status.BAD_FILE
        go_on.set()

    fds = [os.open(tmp_path, os.O_RDONLY) for _ in range(2)]
    with ThreadPoolExecutor(1) as pool:
        asyncio.run(main(pool, Descriptor(fds[0]), Descriptor(fds[1])))
    assert sizes and not is_open(fds[0]) and not is_open(fds[1])


def test_a_closed_partner_is_refused_without_a_leak(tmp_path: Path) -> None:
    async def main(pool: ThreadPoolExecutor) -> None:
        first = Descriptor(os.open(tmp_path, os.O_RDONLY))
        second = Descriptor(os.open(tmp_path, os.O_RDONLY))
        fd = second.fd
        first.close()
        with pytest.raises(FsError):
            await first.run_with(pool, second, lambda a, b: None)
        second.close()
        assert not is_open(fd)

    with ThreadPoolExecutor(1) as pool:
        asyncio.run(main(pool))
