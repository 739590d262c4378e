from __future__ import annotations

from quicfs.fuse_mount.locks import LocalLocks
from quicfs.vfs import LockKind

EX, SH, UN = LockKind.EXCLUSIVE, LockKind.SHARED, LockKind.UNLOCK


def test_exclusive() -> None:
    locks = LocalLocks()
    assert locks.lock(1, 7, EX, 0, 10)
    assert not locks.lock(1, 8, EX, 9, 20)
    assert not locks.lock(1, 8, SH, 0, 1)
    assert locks.lock(1, 8, EX, 10, 20)
    assert locks.lock(2, 8, EX, 0, 10)


def test_shared() -> None:
    locks = LocalLocks()
    assert locks.lock(1, 7, SH, 0, 10)
    assert locks.lock(1, 8, SH, 0, 10)
    assert not locks.lock(1, 7, EX, 0, 10)
    assert locks.lock(1, 8, UN, 0, 10)
    assert locks.lock(1, 7, EX, 0, 10)


def test_unlocking_the_middle_splits() -> None:
    locks = LocalLocks()
    assert locks.lock(1, 7, EX, 0, 30)
    assert locks.lock(1, 7, UN, 10, 20)
    assert locks.lock(1, 8, EX, 10, 20)
    assert not locks.lock(1, 8, EX, 9, 10)
    assert not locks.lock(1, 8, EX, 20, 21)
    assert locks.holds(1, 7, 0, 100)
    assert not locks.holds(1, 7, 10, 20)


def test_one_owner_changes_its_lock() -> None:
    locks = LocalLocks()
    assert locks.lock(1, 7, EX, 0, 30)
    assert locks.lock(1, 7, SH, 0, 30)
    assert locks.lock(1, 8, SH, 0, 30)
    assert locks.conflicts(1, 8, EX, 5, 6)
