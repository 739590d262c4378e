"""Nodes of the local tree: identity, where they were last seen, and a bounded cache of open directories.

A node is a key (device, inode, birth) and the path from the root at which it was last seen. Files keep no
descriptor, so that deleting one frees its space at once; directories keep an O_PATH descriptor for as
long as the cache has room. A node whose path now leads to another object is STALE.
"""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final
from weakref import WeakValueDictionary

from quicfs.vfs.api import Attr, FileKind, Node
from quicfs.vfs.errno_table import fs_error
from quicfs.vfs.kernel_handle import KernelHandles
from quicfs.vfs.local_attr import ObjectKey, StatReader
from quicfs.vfs.openat2 import open_beneath
from quicfs.vfs.status import FsError, Status

O_NODE: Final = os.O_PATH | os.O_NOFOLLOW
O_DIR: Final = os.O_PATH | os.O_DIRECTORY

BY_KERNEL: Final = b"\x01"
"""First byte of a handle that is the kernel's from there on."""


class LocalNode(Node):
    """One object. Made by `NodeTable` only, one per key."""

    __slots__ = ("__weakref__", "handle", "key", "path")

    def __init__(self, key: ObjectKey, path: bytes) -> None:
        self.key = key
        self.handle: bytes | None = None  # once somebody asked for it
        self.path = path  # from the root, b"" for the root itself

    def child_path(self, name: bytes) -> bytes:
        return self.path + b"/" + name if self.path else name

    def __repr__(self) -> str:
        return f"LocalNode({os.fsdecode(self.path)!r}, inode {self.key.inode})"


class NodeTable:
    """All living nodes of one tree, and the descriptors of its recently used directories."""

    def __init__(self, root_fd: int, max_directories: int) -> None:
        self.root_fd = root_fd
        self.kernel = KernelHandles(root_fd)
        self.stat = StatReader()
        self._max_directories = max(max_directories, 4)
        self._nodes: WeakValueDictionary[ObjectKey, LocalNode] = WeakValueDictionary()
        self._directories: OrderedDict[LocalNode, int] = OrderedDict()
        self.root = self.intern(self.stat.of_descriptor(root_fd)[0], b"")

    def intern(self, key: ObjectKey, path: bytes) -> LocalNode:
        """The node for `key`, which was just seen at `path`."""
        node = self._nodes.get(key)
        if node is None:
            node = self._nodes[key] = LocalNode(key, path)
        elif node.path != path and node.path:
            node.path = path
        return node

    def directory_fd(self, node: Node) -> int:
        """An O_PATH descriptor of a directory, good until the next but one call of this table."""
        local = self.own(node)
        if local is self.root:
            return self.root_fd
        fd = self._directories.get(local)
        if fd is not None:
            self._directories.move_to_end(local)
            return fd
        fd, cached, attr = self._checked(local)
        if attr.kind is not FileKind.DIRECTORY:
            os.close(fd)
            raise FsError(Status.NOT_DIR, os.fsdecode(local.path))
        assert cached
        return fd

    def keep_directory(self, node: LocalNode, fd: int) -> None:
        """Take over an O_PATH descriptor of a directory."""
        if node is self.root or node in self._directories:
            os.close(fd)
            return
        self._directories[node] = fd
        if len(self._directories) > self._max_directories:
            old, old_fd = self._directories.popitem(last=False)
            old.path = self.path_of(old_fd, old.path)
            os.close(old_fd)

    def path_of(self, fd: int, otherwise: bytes) -> bytes:
        """Where the kernel sees the object of `fd` now, from the root; a hint that every use checks."""
        return self.below_root(fd) or otherwise

    def below_root(self, fd: int) -> bytes | None:
        """As `path_of`: b"" for the root itself, None for what the kernel does not see below it."""
        here = os.fsencode(os.readlink(f"/proc/self/fd/{fd}"))
        root = os.fsencode(os.readlink(f"/proc/self/fd/{self.root_fd}")).rstrip(b"/")
        if here.startswith(root + b"/"):
            return here[len(root) + 1 :]
        return b"" if here == root else None

    def living(self, key: ObjectKey) -> LocalNode | None:
        return self._nodes.get(key)

    def parent(self, node: Node) -> tuple[LocalNode, Attr]:
        """The directory that holds the directory `node` now; NOT_FOUND for the root."""
        local = self.own(node)
        if local is self.root:
            raise FsError(Status.NOT_FOUND, "the root has no parent")
        try:
            up = os.open("..", O_DIR | os.O_CLOEXEC, dir_fd=self.directory_fd(local))
        except OSError as error:
            raise self._gone(local, error) from None
        try:
            where = self.below_root(up)
            key, attr = self.stat.of_descriptor(up)
        except BaseException:
            os.close(up)
            raise
        if where is None:  # moved out of the tree
            os.close(up)
            raise FsError(Status.STALE, os.fsdecode(local.path))
        found = self.intern(key, where)
        self.keep_directory(found, up)
        return found, attr

    def getattr(self, node: Node) -> Attr:
        """Attributes of any node; STALE when its path leads to another object now."""
        fd, cached, attr = self._checked(self.own(node))
        if not cached:
            os.close(fd)
        return attr

    def getattr_inside(self, local: LocalNode) -> Attr:
        """As `getattr`; STALE also for an open directory that was moved out of the tree."""
        opened = self._directories.get(local)
        if opened is None:
            return self.getattr(local)
        attr = self.seen_at(local.path, local.key)
        if attr is None:
            where = self.below_root(opened)
            attr = self.seen_at(where, local.key) if where else None
            if where is None or attr is None:
                raise FsError(Status.STALE, os.fsdecode(local.path))
            local.path = where
        return attr

    def seen_at(self, path: bytes, key: ObjectKey) -> Attr | None:
        """The attributes of the object `key` if `path` leads to it from the root."""
        if not path:
            found, attr = self.stat.of_descriptor(self.root_fd)
            return attr if found == key else None
        try:
            fd = open_beneath(self.root_fd, path, O_NODE)
        except (OSError, FsError):
            return None
        try:
            found, attr = self.stat.of_descriptor(fd)
        finally:
            os.close(fd)
        return attr if found == key else None

    @contextmanager
    def opened(self, node: Node) -> Iterator[tuple[int, Attr]]:
        """An O_PATH descriptor of any node, checked to be the same object, and its attributes. While the
        block suspends, the descriptor stays ours."""
        fd, cached, attr = self._checked(self.own(node))
        if cached:
            fd = os.dup(fd)
        try:
            yield fd, attr
        finally:
            os.close(fd)

    def renamed(self, key: ObjectKey, old: bytes, new: bytes, *, tree: bool) -> None:
        """Tell the nodes at (and with `tree` below) `old` that they are at `new` now."""
        node = self._nodes.get(key)
        if node is not None:
            node.path = new
        if not tree:
            return
        prefix = old + b"/"
        for other in list(self._nodes.values()):
            if other.path.startswith(prefix):
                other.path = new + other.path[len(old) :]

    def close(self) -> None:
        for fd in self._directories.values():
            os.close(fd)
        self._directories.clear()
        self.kernel.close()
        os.close(self.root_fd)

    def _checked(self, local: LocalNode) -> tuple[int, bool, Attr]:
        """A descriptor, whether it belongs to the cache, and the attributes."""
        try:
            return self._at_path(local)
        except FsError as error:
            if error.status is not Status.STALE or not self._moved(local):
                raise
        return self._at_path(local)

    def _moved(self, local: LocalNode) -> bool:
        """Whether the kernel knows by the node's handle that it has another path now; the node has it then."""
        if local.handle is None or not local.handle.startswith(BY_KERNEL):
            return False
        try:
            fd = self.kernel.open(local.handle[len(BY_KERNEL) :])
        except OSError:
            return False
        try:
            where = self.below_root(fd) if os.fstat(fd).st_nlink else None
        finally:
            os.close(fd)
        if not where or where == local.path:
            return False
        local.path = where
        return True

    def _at_path(self, local: LocalNode) -> tuple[int, bool, Attr]:
        cached = True
        fd = self.root_fd if local is self.root else self._directories.get(local, -1)
        if fd < 0:
            cached = False
            try:
                fd = open_beneath(self.root_fd, local.path, O_NODE)
            except OSError as error:
                raise self._gone(local, error) from None
            except FsError as error:
                if error.status is Status.ACCESS:  # a directory on the way is a link out of the tree now
                    raise FsError(Status.STALE, error.detail) from None
                raise
        key, attr = self.stat.of_descriptor(fd)
        # An open directory outlives its name. (What was found by its name has one, whatever the count says:
        # some file systems in user space always report 0.)
        if key != local.key or (cached and not attr.nlink):
            if not cached:
                os.close(fd)
            raise FsError(Status.STALE, os.fsdecode(local.path))
        if not cached and attr.kind is FileKind.DIRECTORY:
            self.keep_directory(local, fd)
            cached = True
        return fd, cached, attr

    def own(self, node: Node) -> LocalNode:
        """`node` itself; STALE if another file system made it."""
        if not isinstance(node, LocalNode) or self._nodes.get(node.key) is not node:
            raise FsError(Status.STALE, "a node of another file system")
        return node

    @staticmethod
    def _gone(local: LocalNode, error: OSError) -> FsError:
        failed = fs_error(error, os.fsdecode(local.path))
        if failed.status in (Status.NOT_FOUND, Status.NOT_DIR, Status.LOOP):
            # The node was valid once: its path now leads nowhere.
            return FsError(Status.STALE, failed.detail)
        return failed
