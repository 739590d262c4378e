"""Counts of the names that come and go in directories."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import pytest

from quicfs.vfs import FileKind, LocalTree, OpenFlags, SetAttr, local_count

NEW = OpenFlags.WRITE | OpenFlags.CREATE


@pytest.fixture
def counted(share: Any) -> Callable[[Any], None]:
    """Runs a scenario in a tree whose file system shows changes."""

    def go(scenario: Any) -> None:
        async def main(tree: LocalTree) -> None:
            if tree.name_changes(tree.root) is None:
                pytest.skip("changes cannot be seen on this file system")
            await scenario(tree)

        share.run(main)

    return go


def test_each_name_counts_once(counted: Any, share: Any) -> None:
    async def scenario(tree: LocalTree) -> None:
        root = tree.root
        known = tree.name_changes(root)
        assert known is not None

        def grew() -> int:
            nonlocal known
            before, known = known, tree.name_changes(root)
            assert known is not None and before is not None
            return known - before

        assert grew() == 0
        file, _, _ = await tree.open(root, "f", NEW)
        assert grew() == 1
        await file.write(0, b"hello")
        await file.close()
        file, _, created = await tree.open(root, "f", NEW)
        assert not created
        await file.close()
        node, _ = await tree.lookup(root, "f")
        await tree.setattr(node, SetAttr(mode=0o600, mtime_ns=1))
        assert grew() == 0
        for change, number in (
            (lambda: tree.mkdir(root, "d"), 1),
            (lambda: tree.mkdir(root, "d/e"), 0),
            (lambda: tree.symlink(root, "s", "f"), 1),
            (lambda: tree.mknod(root, "p", FileKind.FIFO), 1),
            (lambda: tree.link(node, root, "g"), 1),
            (lambda: tree.rename(root, "f", root, "h"), 2),
            (lambda: tree.rename(root, "s", root, "p"), 2),
            (lambda: tree.rename(root, "h", root, "d/h"), 1),
            (lambda: tree.rename(root, "d/h", root, "h"), 1),
            (lambda: tree.rename(root, "g", root, "h"), 0),
            (lambda: tree.unlink(root, "g"), 1),
            (lambda: tree.rmdir(root, "d/e"), 0),
            (lambda: tree.rmdir(root, "d"), 1),
        ):
            await change()
            assert grew() == number
        (share.path / "theirs").touch()
        (share.path / "theirs").unlink()
        assert grew() == 2

    counted(scenario)


def test_what_was_not_watched_compares_with_nothing(counted: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local_count, "MAX_COUNTED_DIRECTORIES", 2)

    async def scenario(tree: LocalTree) -> None:
        first = tree.name_changes(tree.root)
        for name in ("a", "b", "c"):
            node, _ = await tree.mkdir(tree.root, name)
            assert tree.name_changes(node) == tree.name_changes(node)
        again = tree.name_changes(tree.root)
        assert first is not None and again is not None and abs(again - first) > 1_000_000

    counted(scenario)


def test_a_directory_that_is_made_anew(counted: Any) -> None:
    async def scenario(tree: LocalTree) -> None:
        counts = []
        for _ in range(3):
            node, _ = await tree.mkdir(tree.root, "d")
            counts.append(tree.name_changes(node))
            await tree.rmdir(tree.root, "d")
        assert len(set(counts)) == 3

    counted(scenario)


def test_where_nothing_can_be_seen(share: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local_count, "_SEEN", frozenset())

    async def scenario(tree: LocalTree) -> None:
        assert tree.name_changes(tree.root) is None
        assert tree.name_changes(tree.root) is None

    share.run(scenario)


def test_a_system_that_gives_no_more_descriptors(share: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> int:
        raise OSError(24, os.strerror(24))

    async def scenario(tree: LocalTree) -> None:
        monkeypatch.setattr("quicfs.vfs.syscalls.inotify_init", refuse)
        assert tree.name_changes(tree.root) is None

    share.run(scenario)
