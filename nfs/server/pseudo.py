"""The pseudo file system (RFC 8881 §7.3): the directories that lead to the exports, for reading only."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Final, NoReturn

from quicfs.nfs.server.exports import Export, check_exports
from quicfs.vfs.api import (
    Access,
    Attr,
    DirEntry,
    DirPage,
    FileKind,
    FileSystem,
    FsError,
    Node,
    OpenFile,
    OpenFlags,
    SetAttr,
    StatFs,
    Status,
)
from quicfs.vfs.names import NAME_MAX, encode_path

__all__ = ["PseudoNode", "PseudoTree"]

_FIRST_COOKIE: Final = 1 << 16  # far away from 0 to 2, which protocols use for themselves


class PseudoNode(Node):
    """A directory on the way to an export, or (`export`) the place where one begins."""

    __slots__ = ("attr", "children", "export", "handle", "name", "parent")

    def __init__(self, name: str, parent: PseudoNode | None) -> None:
        self.name = name
        self.parent = parent
        self.children: dict[str, PseudoNode] = {}
        self.export: Export | None = None
        self.handle = b""
        self.attr: Attr

    @property
    def path(self) -> str:
        return f"{self.parent.path}/{self.name}" if self.parent else ""


class PseudoTree(FileSystem):
    """Joins `exports`. It never crosses into one by itself: who finds a node with an `export` goes on there.

    `now_ns` is the time that its directories show. ValueError if one export would hide another.
    """

    def __init__(self, exports: Sequence[Export], now_ns: int = 0) -> None:
        self.exports: Final = check_exports(exports)
        self._root = PseudoNode("", None)
        self._by_export = {export.id: export for export in self.exports}
        self._handles: dict[bytes, PseudoNode] = {}
        self._places: dict[Export, PseudoNode] = {}
        for export in self.exports:
            node = self._root
            for name in export.names:
                if name not in node.children:
                    node.children[name] = PseudoNode(name, node)
                node = node.children[name]
            node.export = export
            self._places[export] = node
        self._finish(self._root, now_ns)

    def _finish(self, node: PseudoNode, now_ns: int) -> None:
        digest = hashlib.blake2b(node.path.encode(errors="surrogateescape"), digest_size=16).digest()
        names = "\0".join(sorted(node.children)).encode(errors="surrogateescape")
        change = int.from_bytes(hashlib.blake2b(names, digest_size=8).digest(), "big")
        node.handle = digest
        self._handles[digest] = node
        node.attr = Attr(
            kind=FileKind.DIRECTORY, mode=0o555, nlink=2 + len(node.children), uid=0, gid=0, size=4096, allocated=0,
            fileid=int.from_bytes(digest[:8], "big") >> 1 | 1, atime_ns=now_ns, mtime_ns=now_ns, ctime_ns=now_ns,
            btime_ns=now_ns, change=change,
        )  # fmt: skip
        for child in node.children.values():
            self._finish(child, now_ns)

    @property
    def root(self) -> PseudoNode:
        return self._root

    def export_of(self, identity: bytes) -> Export | None:
        """The export with this `Export.id`."""
        return self._by_export.get(identity)

    def place_of(self, export: Export) -> PseudoNode:
        """Where `export` begins: its fileid is the export's mounted_on_fileid."""
        return self._places[export]

    # Looking

    async def lookup(self, directory: Node, path: str, *, follow: bool = False) -> tuple[PseudoNode, Attr]:
        node = self._own(directory)
        encode_path(path)
        for name in path.split("/") if path else ():
            found = node.children.get(name)
            if found is None:
                raise FsError(Status.NOT_FOUND, name)
            node = found
        return node, node.attr

    async def getattr(self, node: Node) -> Attr:
        return self._own(node).attr

    async def readdir(self, directory: Node, cookie: int = 0, limit: int = 1024) -> DirPage:
        if limit < 1 or cookie < 0:
            raise FsError(Status.INVALID, "limit")
        children = list(self._own(directory).children.values())
        start = max(cookie - _FIRST_COOKIE + 1, 0)
        entries = [
            DirEntry(child.name, child.attr, _FIRST_COOKIE + position)
            for position, child in enumerate(children[start : start + limit], start)
        ]
        return DirPage(entries, start + limit >= len(children))

    async def statfs(self) -> StatFs:
        count = len(self._handles)
        return StatFs(4096, 0, 0, 0, count, 0, NAME_MAX, True)

    async def access(self, node: Node, wanted: Access) -> Access:
        return wanted & ~Access.WRITE

    async def handle(self, node: Node) -> bytes:
        return self._own(node).handle

    async def from_handle(self, handle: bytes) -> tuple[PseudoNode, Attr]:
        node = self._handles.get(handle)
        if node is None:
            raise FsError(Status.STALE)
        return node, node.attr

    async def parent(self, node: Node) -> tuple[PseudoNode, Attr]:
        parent = self._own(node).parent
        if parent is None:
            raise FsError(Status.NOT_FOUND)
        return parent, parent.attr

    async def fsync(self, node: Node) -> None:
        """Nothing here is ever written."""

    # Changing: nobody may

    async def setattr(self, node: Node, changes: SetAttr) -> Attr:
        _refuse()

    async def open(
        self, directory: Node, path: str, flags: OpenFlags, mode: int = 0o644
    ) -> tuple[OpenFile, Attr, bool]:
        try:
            await self.lookup(directory, path)
        except FsError as error:
            if error.status is Status.NOT_FOUND and OpenFlags.CREATE in flags:
                _refuse()
            raise
        raise FsError(Status.IS_DIR, path)

    async def mkdir(self, directory: Node, path: str, mode: int = 0o755) -> tuple[Node, Attr]:
        _refuse()

    async def symlink(self, directory: Node, path: str, target: str) -> tuple[Node, Attr]:
        _refuse()

    async def readlink(self, node: Node) -> str:
        raise FsError(Status.INVALID, "not a symbolic link")

    async def link(self, node: Node, directory: Node, path: str) -> Attr:
        _refuse()

    async def unlink(self, directory: Node, path: str) -> None:
        _refuse()

    async def rmdir(self, directory: Node, path: str) -> None:
        _refuse()

    async def rename(
        self, source: Node, path: str, target: Node, new_path: str, *, replace: bool = True
    ) -> None:
        _refuse()

    async def mknod(
        self, directory: Node, path: str, kind: FileKind, mode: int = 0o644, rdev: int = 0
    ) -> tuple[Node, Attr]:
        _refuse()

    @staticmethod
    def _own(node: Node) -> PseudoNode:
        if not isinstance(node, PseudoNode):
            raise FsError(Status.STALE, "a node of another file system")
        return node


def _refuse() -> NoReturn:
    raise FsError(Status.READ_ONLY)
