"""A local tree that keeps what is written in memory until it is asked to keep it for good, as a machine does: what was
not committed is lost with the process."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from quicfs.vfs.api import (
    Attr,
    Caller,
    FileSystem,
    LockKind,
    Node,
    OpenFile,
    OpenFlags,
    SetAttr,
)
from quicfs.vfs.local import LocalTree


class ForgetfulTree(LocalTree):
    """Everybody is let in as who we are."""

    def __init__(self, path: str) -> None:
        super().__init__(path)
        self.pending: dict[Node, list[tuple[int, bytes]]] = {}
        self.writers: dict[Node, OpenFile] = {}

    def as_caller(self, caller: Caller) -> FileSystem:
        return self

    async def open(  # type: ignore[override]
        self, directory: Node, path: str, flags: OpenFlags, mode: int = 0o644
    ) -> tuple[OpenFile, Attr, bool]:
        file, attr, created = await super().open(directory, path, flags, mode)
        return ForgetfulFile(self, file), self.seen(file.node, attr), created

    async def lookup(self, directory: Node, path: str, *, follow: bool = False) -> Any:
        node, attr = await super().lookup(directory, path, follow=follow)
        return node, self.seen(node, attr)

    async def from_handle(self, handle: bytes) -> Any:
        node, attr = await super().from_handle(handle)
        return node, self.seen(node, attr)

    async def getattr(self, node: Node) -> Attr:
        return self.seen(node, await super().getattr(node))

    async def fsync(self, node: Node) -> None:
        if node in self.pending:
            file, _, _ = await super().open(node, "", OpenFlags.WRITE)
            await self.keep(node, file)
            await file.close()
        await super().fsync(node)

    def seen(self, node: Node, attr: Attr) -> Attr:
        pending = self.pending.get(node)
        if not pending:
            return attr
        size = max(attr.size, *(offset + len(data) for offset, data in pending))
        return replace(attr, size=size, change=attr.change + len(pending))

    async def keep(self, node: Node, file: OpenFile) -> None:
        for offset, data in self.pending.pop(node, ()):
            await file.write(offset, data)


class ForgetfulFile(OpenFile):
    def __init__(self, tree: ForgetfulTree, file: OpenFile) -> None:
        self._tree = tree
        self._file = file

    @property
    def node(self) -> Node:
        return self._file.node

    async def read(self, offset: int, length: int) -> bytes | memoryview:
        pending = self._tree.pending.get(self.node)
        if not pending:
            return await self._file.read(offset, length)
        found = bytearray(await self._file.read(offset, length))
        for start, data in pending:
            first, last = max(start, offset), min(start + len(data), offset + length)
            if first < last:
                found.extend(bytes(max(0, last - offset - len(found))))
                found[first - offset : last - offset] = data[first - start : last - start]
        return bytes(found)

    async def write(self, offset: int, data: bytes | memoryview, *, stable: bool = False) -> int:
        self._tree.pending.setdefault(self.node, []).append((offset, bytes(data)))
        if stable:
            await self.fsync(data_only=True)
        return len(data)

    async def getattr(self) -> Attr:
        return self._tree.seen(self.node, await self._file.getattr())

    async def setattr(self, changes: SetAttr) -> Attr:
        if changes.size is not None:
            await self._tree.keep(self.node, self._file)
        return self._tree.seen(self.node, await self._file.setattr(changes))

    async def fsync(self, *, data_only: bool = False) -> None:
        await self._tree.keep(self.node, self._file)
        await self._file.fsync(data_only=data_only)

    async def close(self) -> None:
        await self._file.close()

    async def lock(self, offset: int, length: int, kind: LockKind, *, owner: int, wait: bool = False) -> None:
        await self._file.lock(offset, length, kind, owner=owner, wait=wait)
