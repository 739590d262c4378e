"""Byte-range locks."""

from __future__ import annotations

import asyncio
import fcntl
import os
import struct

import pytest

from quicfs.vfs import LocalTree, LockKind, OpenFile, OpenFlags, Status

NEW = OpenFlags.READ | OpenFlags.WRITE | OpenFlags.CREATE
SHARED, EXCLUSIVE, UNLOCK = LockKind.SHARED, LockKind.EXCLUSIVE, LockKind.UNLOCK


async def opened(tree: LocalTree, flags: OpenFlags = NEW) -> OpenFile:
    return (await tree.open(tree.root, "f", flags))[0]


@pytest.mark.parametrize("one_open_file", [True, False])
def test_owners_conflict(share, one_open_file: bool) -> None:
    async def scenario(tree: LocalTree) -> None:
        a = await opened(tree)
        b = a if one_open_file else await opened(tree)
        await a.lock(0, 10, EXCLUSIVE, owner=1)
        await a.lock(5, 10, EXCLUSIVE, owner=1)  # its own locks merge
        await share.fails(Status.LOCKED, b.lock(14, 1, SHARED, owner=2))
        await b.lock(15, 1, EXCLUSIVE, owner=2)
        await a.lock(4, 4, UNLOCK, owner=1)  # and split
        await b.lock(4, 4, SHARED, owner=2)
        await share.fails(Status.LOCKED, b.lock(3, 1, SHARED, owner=2))
        await share.fails(Status.LOCKED, b.lock(8, 1, SHARED, owner=2))
        await b.lock(100, 0, SHARED, owner=2)
        await a.lock(200, 5, SHARED, owner=1)
        await share.fails(Status.LOCKED, a.lock(1 << 62, 1, EXCLUSIVE, owner=1))
        await b.lock(0, 0, UNLOCK, owner=2)
        await a.lock(0, 0, EXCLUSIVE, owner=1)
        await a.close()
        if not one_open_file:
            await b.lock(0, 0, EXCLUSIVE, owner=2)  # closing gave everything back
            await b.close()

    share.run(scenario)


def test_other_programs_see_the_locks(share) -> None:
    def other(kind: int) -> bool:
        fd = os.open(share.path / "f", os.O_RDWR)
        try:
            fcntl.fcntl(fd, fcntl.F_OFD_SETLK, struct.pack("@hhqqi0q", kind, os.SEEK_SET, 0, 1, 0))
            return True
        except BlockingIOError:
            return False
        finally:
            os.close(fd)

    async def scenario(tree: LocalTree) -> None:
        file = await opened(tree)
        await file.lock(0, 1, SHARED, owner=1)
        assert other(fcntl.F_RDLCK) and not other(fcntl.F_WRLCK)
        await file.lock(0, 1, EXCLUSIVE, owner=1)
        assert not other(fcntl.F_RDLCK)
        await file.lock(0, 1, UNLOCK, owner=1)
        assert other(fcntl.F_WRLCK)
        await file.close()

    share.run(scenario)


def test_waiting(share) -> None:
    async def scenario(tree: LocalTree) -> None:
        a, b = await opened(tree), await opened(tree)
        await a.lock(0, 1, EXCLUSIVE, owner=1)
        waiters = [asyncio.ensure_future(b.lock(0, 1, EXCLUSIVE, owner=i, wait=True)) for i in (2, 3)]
        await asyncio.sleep(0.02)
        assert not any(w.done() for w in waiters)
        await a.lock(0, 1, UNLOCK, owner=1)
        done, pending = await asyncio.wait(waiters, return_when=asyncio.FIRST_COMPLETED)
        assert len(done) == len(pending) == 1
        pending.pop().cancel()
        await asyncio.sleep(0)
        # Closing the file ends those who wait through it.
        waiter = asyncio.ensure_future(a.lock(0, 1, SHARED, owner=4, wait=True))
        await asyncio.sleep(0)
        await a.close()
        await share.fails(Status.BAD_FILE, waiter)
        await b.close()

    share.run(scenario)


def test_ranges_and_rights(share) -> None:
    async def scenario(tree: LocalTree) -> None:
        file = await opened(tree)
        for offset, length in ((1 << 63, 1), (-1, 1), (0, -1), (1 << 64, 0)):
            await share.fails(Status.INVALID, file.lock(offset, length, SHARED, owner=1))
        await file.lock((1 << 63) - 1, 1, EXCLUSIVE, owner=1)
        await file.lock(1, 1 << 64, EXCLUSIVE, owner=1)
        await file.lock(0, 0, UNLOCK, owner=7)
        reader = await opened(tree, OpenFlags.READ)
        await share.fails(Status.BAD_FILE, reader.lock(0, 1, EXCLUSIVE, owner=2))
        await reader.lock(0, 1, SHARED, owner=2)
        await reader.close()
        await share.fails(Status.BAD_FILE, reader.lock(0, 1, SHARED, owner=2))
        await file.close()

    share.run(scenario)


def test_many_owners_are_bounded_and_idle_ones_are_free(share) -> None:
    async def scenario(tree: LocalTree) -> None:
        file = await opened(tree)
        for owner in range(1000):
            await file.lock(0, 1, EXCLUSIVE, owner=owner)
            await share.fails(Status.LOCKED, file.lock(0, 1, SHARED, owner=-1))
            await file.lock(0, 1, UNLOCK, owner=owner)
        for owner in range(256):
            await file.lock(owner, 1, EXCLUSIVE, owner=owner)
        await share.fails(Status.NO_RESOURCES, file.lock(1000, 1, SHARED, owner=1000))
        await file.close()

    share.run(scenario)
