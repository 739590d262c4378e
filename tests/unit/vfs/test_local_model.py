"""The local tree against plain calls of `os` on a second folder: the same steps, the same outcome."""

from __future__ import annotations

import asyncio
import os
import shutil
import stat
import tempfile
from collections.abc import Callable, Coroutine
from dataclasses import replace
from pathlib import Path
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from quicfs.vfs import FileKind, FsError, LocalTree, OpenFlags, SetAttr, Status
from quicfs.vfs.errno_table import fs_error

NAMES = ["a", "b", "ü", "d", "d/a", "d/b", "d/d", "d/d/a", "s/a", "a/b"]
names = st.sampled_from(NAMES)
offsets = st.integers(0, 100_000)
contents = st.binary(max_size=3000)


class Twins(RuleBasedStateMachine):
    """`self.tree` serves one folder; `self.model` is another, changed with os calls."""

    def __init__(self) -> None:
        super().__init__()
        self.top = Path(tempfile.mkdtemp(prefix="quicfs-model-"))
        self.model = self.top / "model"
        self.served = self.top / "served"
        self.model.mkdir()
        self.served.mkdir()
        self.runner = asyncio.Runner()
        self.tree = LocalTree(self.served)

    def teardown(self) -> None:
        self.runner.run(self.tree.close())
        self.runner.close()
        shutil.rmtree(self.top)

    def both(self, ours: Coroutine[Any, Any, Any], model: Callable[[], Any]) -> tuple[Any, Any]:
        """Run both; either both succeed or both fail with the same status."""
        expected: Any = None
        failure: Status | None = None
        try:
            expected = model()
        except OSError as error:
            failure = fs_error(error).status
        try:
            result = self.runner.run(ours)
        except FsError as error:
            assert error.status is failure, (error, failure)
            return None, None
        assert failure is None, f"the model failed with {failure}"
        return result, expected

    @rule(name=names, offset=offsets, data=contents, exclusive=st.booleans())
    def create_and_write(self, name: str, offset: int, data: bytes, exclusive: bool) -> None:
        async def ours() -> None:
            flags = OpenFlags.READ | OpenFlags.WRITE | OpenFlags.CREATE
            if exclusive:
                flags |= OpenFlags.EXCLUSIVE
            file, _, _ = await self.tree.open(self.tree.root, name, flags, 0o640)
            await file.write(offset, data)
            await file.close()

        def model() -> None:
            flags = os.O_RDWR | os.O_CREAT | (os.O_EXCL if exclusive else 0)
            fd = os.open(self.model / name, flags, 0o640)
            os.pwrite(fd, data, offset)
            os.close(fd)

        self.both(ours(), model)

    @rule(name=names, offset=offsets, length=st.integers(0, 200_000))
    def read(self, name: str, offset: int, length: int) -> None:
        async def ours() -> bytes:
            file, _, _ = await self.tree.open(self.tree.root, name, OpenFlags.READ)
            try:
                return bytes(await file.read(offset, length))
            finally:
                await file.close()

        def model() -> bytes:
            fd = os.open(self.model / name, os.O_RDONLY)
            try:
                return os.pread(fd, length, offset)
            finally:
                os.close(fd)

        result, expected = self.both(ours(), model)
        assert result == expected

    @rule(name=names)
    def mkdir(self, name: str) -> None:
        self.both(self.tree.mkdir(self.tree.root, name, 0o750), lambda: os.mkdir(self.model / name, 0o750))

    @rule(name=names)
    def unlink(self, name: str) -> None:
        self.both(self.tree.unlink(self.tree.root, name), lambda: os.unlink(self.model / name))

    @rule(name=names)
    def rmdir(self, name: str) -> None:
        self.both(self.tree.rmdir(self.tree.root, name), lambda: os.rmdir(self.model / name))

    @rule(old=names, new=names)
    def rename(self, old: str, new: str) -> None:
        root = self.tree.root
        self.both(
            self.tree.rename(root, old, root, new), lambda: os.rename(self.model / old, self.model / new)
        )

    @rule(name=names)
    def symlink(self, name: str) -> None:
        self.both(self.tree.symlink(self.tree.root, name, "d"), lambda: os.symlink("d", self.model / name))

    @rule()
    def well_known_symlink(self) -> None:
        self.both(self.tree.symlink(self.tree.root, "s", "d"), lambda: os.symlink("d", self.model / "s"))

    @rule(old=names, new=names)
    def link(self, old: str, new: str) -> None:
        async def ours() -> None:
            node, attr = await self.tree.lookup(self.tree.root, old)
            if attr.kind is not FileKind.DIRECTORY:
                await self.tree.link(node, self.tree.root, new)

        def model() -> None:
            if not stat.S_ISDIR(os.lstat(self.model / old).st_mode):
                os.link(self.model / old, self.model / new, follow_symlinks=False)

        self.both(ours(), model)

    @rule(name=names, size=offsets)
    def truncate(self, name: str, size: int) -> None:
        async def ours() -> None:
            node, _ = await self.tree.lookup(self.tree.root, name, follow=True)
            await self.tree.setattr(node, SetAttr(size=size))

        self.both(ours(), lambda: os.truncate(self.model / name, size))

    @rule(name=names, mode=st.integers(0, 0o7777), mtime=st.integers(0, 2**33 * 10**9))
    def set_mode_and_time(self, name: str, mode: int, mtime: int) -> None:
        mode |= 0o700  # so that somebody without privileges can go on

        async def ours() -> None:
            node, _ = await self.tree.lookup(self.tree.root, name, follow=True)
            await self.tree.setattr(node, SetAttr(mode=mode, mtime_ns=mtime, atime_ns=mtime))

        def model() -> None:
            os.chmod(self.model / name, mode)
            os.utime(self.model / name, ns=(mtime, mtime))

        self.both(ours(), model)

    @invariant()
    def same_trees(self) -> None:
        async def ours() -> dict[str, tuple[Any, ...]]:
            found: dict[str, tuple[Any, ...]] = {}
            pending = [("", self.tree.root)]
            while pending:
                path, node = pending.pop()
                for entry in (await self.tree.readdir(node)).entries:
                    where = f"{path}/{entry.name}" if path else entry.name
                    child, attr = await self.tree.lookup(node, entry.name)
                    again = await self.tree.getattr(child)
                    # Reading a link that has another name changes when it was read.
                    assert len({replace(a, atime_ns=0) for a in (entry.attr, attr, again)}) == 1
                    detail = (attr.size, attr.mode, attr.nlink) if attr.kind is FileKind.REGULAR else ()
                    found[where] = (attr.kind.value, *detail)
                    if attr.kind is FileKind.SYMLINK:
                        found[where] += (await self.tree.readlink(child),)
                    elif attr.kind is FileKind.DIRECTORY:
                        pending.append((where, child))
            return found

        expected: dict[str, tuple[Any, ...]] = {}
        for path, directories, files in os.walk(self.model):
            for name in directories + files:
                where = os.path.join(path, name)
                info = os.lstat(where)
                mode = info.st_mode
                if stat.S_ISLNK(mode):
                    value: tuple[Any, ...] = ("symlink", os.readlink(where))
                elif stat.S_ISDIR(mode):
                    value = ("directory",)
                else:
                    value = ("regular", info.st_size, stat.S_IMODE(mode), info.st_nlink)
                expected[os.path.relpath(where, self.model)] = value
        assert self.runner.run(ours()) == expected


TestTwins = Twins.TestCase
TestTwins.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
