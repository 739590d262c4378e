"""Handles of the local tree: bytes that name an object also after a restart and wherever it was moved to.

Two kinds, told apart by their first byte:

- With CAP_DAC_READ_SEARCH, on file systems that have them (ext4, XFS, Btrfs, tmpfs...): the kernel's own, which
  hold inode and generation. Opening one gives the object itself, and for a directory and for everything seen since
  it was read from disk also its path.
- Otherwise, and on file systems mounted inside the tree: inode number, time of birth and a mark of the file
  system. Where there is no time of birth a later object with the same number cannot be told apart: NOT_SUPPORTED.

An object counts only if a path from the root leads to it; what was moved out of the tree is STALE although the
kernel could open it. Where the kernel does not tell the path (a file after a restart, a file with several names of
which it shows one outside), the directories are searched, with bounded work: see `local_search`. An object beyond
these bounds is STALE, too.
"""

from __future__ import annotations

import asyncio
import errno
import os
import struct
from collections import OrderedDict
from concurrent.futures import Executor
from typing import Final

from quicfs.vfs.api import HANDLE_MAX, Attr, FileKind
from quicfs.vfs.descriptor import Descriptor
from quicfs.vfs.errno_table import fs_error
from quicfs.vfs.local_attr import ObjectKey
from quicfs.vfs.local_node import BY_KERNEL, O_NODE, LocalNode, NodeTable
from quicfs.vfs.local_search import Search
from quicfs.vfs.openat2 import open_beneath
from quicfs.vfs.status import FsError, Status

MAX_KNOWN: Final = 1 << 15
"""Nodes that are kept because their handle was used lately; about 15 MiB."""

MAX_MISSING: Final = 1024
MISSING_S: Final = 10.0
"""What a search did not find is not searched for again for this long."""

BY_NUMBER: Final = b"\x02"
_NUMBERS: Final = struct.Struct(">QqI")  # inode, birth in ns, mark of the file system


class Handles:
    """Makes and resolves the handles of one tree."""

    def __init__(self, nodes: NodeTable, pool: Executor) -> None:
        self._nodes = nodes
        self._pool = pool
        self._known: OrderedDict[bytes, LocalNode] = OrderedDict()
        self._search = Search()
        self._searching = asyncio.Lock()
        self._missing: OrderedDict[bytes, float] = OrderedDict()
        self._home = nodes.root.key.device

    def of(self, node: LocalNode) -> bytes:
        """NOT_SUPPORTED for an object that cannot be named for good; STALE."""
        handle = node.handle
        if handle is None:
            with self._nodes.opened(node) as (fd, _):
                handle = self._make(fd, node.key)
            node.handle = handle
            self._keep(handle, node)
        return handle

    async def find(self, handle: bytes) -> tuple[LocalNode, Attr]:
        """STALE for everything but the handle of an object that is in the tree now."""
        node = self._known.get(handle)
        if node is not None:
            try:
                attr = self._nodes.getattr_inside(node)
            except FsError as error:
                if error.status is not Status.STALE:
                    raise
                del self._known[handle]
            else:
                self._known.move_to_end(handle)
                return node, attr
        try:
            if handle.startswith(BY_KERNEL):
                node = await self._by_kernel(handle)
            elif handle.startswith(BY_NUMBER):
                node = await self._by_number(handle)
            else:
                raise _stale()
        except OSError as error:
            raise fs_error(error, "handle") from None
        node.handle = handle
        attr = self._nodes.getattr_inside(node)
        self._keep(handle, node)
        return node, attr

    def close(self) -> None:
        self._search.stop()
        self._known.clear()

    def _make(self, fd: int, key: ObjectKey) -> bytes:
        try:
            raw = self._nodes.kernel.name(fd)
            if raw is not None and len(raw) < HANDLE_MAX:
                return BY_KERNEL + raw
            if not key.birth_ns:
                raise FsError(Status.NOT_SUPPORTED, "handles on a file system without times of birth")
            return BY_NUMBER + _NUMBERS.pack(key.inode, key.birth_ns, self._mark(fd, key.device))
        except OSError as error:
            raise fs_error(error, "handle") from None

    def _mark(self, fd: int, device: int) -> int:
        """Which file system: 0 for the root's. (The number of a device may be another one tomorrow.)"""
        return 0 if device == self._home else os.fstatvfs(fd).f_fsid & 0xFFFFFFFF or 1

    async def _by_kernel(self, handle: bytes) -> LocalNode:
        try:
            fd = self._nodes.kernel.open(handle[len(BY_KERNEL) :])
        except OSError as error:
            if error.errno in (errno.EMFILE, errno.ENFILE, errno.ENOMEM):
                raise
            raise _stale() from None
        try:
            key, attr = self._nodes.stat.of_descriptor(fd)
            if not attr.nlink and attr.kind is not FileKind.DIRECTORY:
                raise _stale()  # somebody has it open still, but it has no name any more
            where = self._nodes.below_root(fd)
            if where is not None and self._nodes.seen_at(where, key):
                return self._nodes.intern(key, where)
            # A directory's path is always known; of a file that the kernel has not met by a name it is "/".
            named = os.readlink(f"/proc/self/fd/{fd}") != "/"
            if attr.kind is FileKind.DIRECTORY or (named and attr.nlink == 1):
                raise _stale()
        finally:
            os.close(fd)
        where = await self._searched(handle, key.inode, key.birth_ns)
        if not self._nodes.seen_at(where, key):
            raise _stale()
        return self._nodes.intern(key, where)

    async def _by_number(self, handle: bytes) -> LocalNode:
        if len(handle) != len(BY_NUMBER) + _NUMBERS.size:
            raise _stale()
        inode, birth_ns, mark = _NUMBERS.unpack_from(handle, len(BY_NUMBER))
        root = self._nodes.root
        if (inode, birth_ns, mark) == (root.key.inode, root.key.birth_ns, 0):
            return root
        where = await self._searched(handle, inode, birth_ns)
        try:
            fd = open_beneath(self._nodes.root_fd, where, O_NODE)
        except (OSError, FsError):
            raise _stale() from None
        try:
            key, _ = self._nodes.stat.of_descriptor(fd)
            if (key.inode, key.birth_ns, self._mark(fd, key.device)) != (inode, birth_ns, mark):
                raise _stale()
        finally:
            os.close(fd)
        return self._nodes.intern(key, where)

    async def _searched(self, handle: bytes, inode: int, birth_ns: int) -> bytes:
        now = asyncio.get_running_loop().time
        async with self._searching:  # one at a time: each leaves the next one less to do
            if self._missing.get(handle, 0.0) > now():
                raise _stale()
            root = Descriptor(os.dup(self._nodes.root_fd))
            try:
                where = await root.run(self._pool, self._search.look, inode, birth_ns)
            finally:
                root.close()
            if where is None:
                self._missing[handle] = now() + MISSING_S
                self._missing.move_to_end(handle)
                if len(self._missing) > MAX_MISSING:
                    self._missing.popitem(last=False)
                raise _stale()
            self._missing.pop(handle, None)
            return where

    def _keep(self, handle: bytes, node: LocalNode) -> None:
        self._known[handle] = node
        self._known.move_to_end(handle)
        if len(self._known) > MAX_KNOWN:
            self._known.popitem(last=False)


def _stale() -> FsError:
    return FsError(Status.STALE, "handle")
