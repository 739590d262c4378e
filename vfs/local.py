"""`LocalTree`: a directory of this machine behind the file-system contract.

Nothing is opened by joining strings: a path of several components goes through openat2(2) beneath an open
directory, and what changes a name works on one last component relative to its opened parent.
"""

from __future__ import annotations

import copy
import os
import resource
import stat
from collections import OrderedDict
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Final

from quicfs.vfs import local_access, local_change, syscalls
from quicfs.vfs.api import (
    Access,
    Attr,
    Caller,
    DirEntry,
    DirPage,
    FileKind,
    FileSystem,
    Node,
    OpenFile,
    OpenFlags,
    SetAttr,
    StatFs,
)
from quicfs.vfs.descriptor import Descriptor
from quicfs.vfs.errno_table import fs_error
from quicfs.vfs.local_attr import ObjectKey
from quicfs.vfs.local_count import NameCounts
from quicfs.vfs.local_dir import Listings, LocalEntry
from quicfs.vfs.local_file import FileContext, LocalFile, truncate
from quicfs.vfs.local_handle import Handles
from quicfs.vfs.local_node import O_DIR, O_NODE, LocalNode, NodeTable
from quicfs.vfs.local_rights import OWN, Rights, rights_of
from quicfs.vfs.local_watch import LocalWatch
from quicfs.vfs.names import encode_path, split_path
from quicfs.vfs.openat2 import open_beneath, open_root
from quicfs.vfs.status import FsError, Status

POOL_THREADS: Final = 4
MAX_CACHED_DIRECTORIES: Final = 1024
MAX_WATCHES: Final = 256
MAX_VIEWS: Final = 256
"""Callers whose view is kept; another one is made in a few microseconds."""

CREATE_RETRIES: Final = 16
"""How often an open that creates is repeated while others create and remove the same name."""

_SPECIAL: Final = {
    FileKind.FIFO: stat.S_IFIFO,
    FileKind.SOCKET: stat.S_IFSOCK,
    FileKind.CHARACTER: stat.S_IFCHR,
    FileKind.BLOCK: stat.S_IFBLK,
}
_NEVER_BLOCK: Final = os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
_XATTR_NAMESPACE: Final = "user."
_ST_RDONLY: Final = 1


class LocalTree(FileSystem):
    """The directory `path` and everything below it, with the rights of this process; `as_caller` gives others'.

    Raises FsError with one sentence when `path` cannot be opened or the kernel lacks openat2.
    With `read_only` every call that would change something is READ_ONLY.
    """

    def __init__(self, path: str | os.PathLike[str], *, read_only: bool = False) -> None:
        root_fd = open_root(os.fspath(path))
        limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        quarter = limit // 4 if limit > 0 else MAX_CACHED_DIRECTORIES
        self._nodes = NodeTable(root_fd, min(MAX_CACHED_DIRECTORIES, quarter))
        self._read_only = read_only
        self._pool = ThreadPoolExecutor(POOL_THREADS, "quicfs-disk")
        self._files = FileContext(self._nodes.stat, self._pool, read_only)
        self._listings = Listings(self._nodes.stat, self._pool)
        self._handles = Handles(self._nodes, self._pool)
        self._name_counts = NameCounts()
        self._watches: set[LocalWatch] = set()
        self._rights: Rights = OWN
        self._views: OrderedDict[Caller, LocalTree] = OrderedDict()
        self._base: LocalTree | None = None  # of a view: the tree that it shows
        self._closed = False

    @property
    def root(self) -> LocalNode:
        return self._nodes.root

    @property
    def read_only(self) -> bool:
        return self._read_only

    def as_caller(self, caller: Caller) -> LocalTree:
        """See `local_rights`. A process that is not root serves everybody with its own rights. The views share
        everything but the rights, and closing one does nothing.

        Attributes, handles, parents and the targets of links are for everyone who has the node; what the kernel
        checks is everything else. INVALID; NOT_PERMITTED and ACCESS if the identity cannot be taken on.
        """
        views = self._views
        view = views.get(caller)
        if view is None:
            rights = rights_of(caller)
            base = self._base or self
            if rights is OWN:
                view = base
            else:
                view = copy.copy(base)
                view._rights = rights
                view._base = base
            views[caller] = view
            if len(views) > MAX_VIEWS:
                views.popitem(last=False)
        return view

    # Looking

    async def lookup(self, directory: Node, path: str, *, follow: bool = False) -> tuple[LocalNode, Attr]:
        raw = encode_path(path)
        if not raw:
            attr = self._nodes.getattr(directory)
            assert isinstance(directory, LocalNode)
            return directory, attr
        dir_fd = self._nodes.directory_fd(directory)
        assert isinstance(directory, LocalNode)
        try:
            with self._rights:
                if b"/" not in raw:
                    key, attr = self._nodes.stat.of_entry(dir_fd, raw)
                    if not (follow and attr.kind is FileKind.SYMLINK):
                        return self._nodes.intern(key, directory.child_path(raw)), attr
                fd, key, attr, where = self._open_path(directory, dir_fd, raw, follow)
        except OSError as error:
            raise fs_error(error, path) from None
        node = self._nodes.intern(key, where)
        if attr.kind is FileKind.DIRECTORY:
            self._nodes.keep_directory(node, fd)
        else:
            os.close(fd)
        return node, attr

    async def getattr(self, node: Node) -> Attr:
        return self._nodes.getattr(node)

    async def access(self, node: Node, wanted: Access) -> Access:
        with self._opened(node) as (fd, _), self._rights:
            allowed = local_access.allowed(fd, wanted)
        return allowed & ~Access.WRITE if self._read_only else allowed

    async def parent(self, node: Node) -> tuple[LocalNode, Attr]:
        return self._nodes.parent(node)

    async def readlink(self, node: Node) -> str:
        with self._opened(node) as (fd, attr):
            if attr.kind is not FileKind.SYMLINK:
                raise FsError(Status.INVALID, "not a symbolic link")
            return os.readlink("", dir_fd=fd)

    async def readdir(self, directory: Node, cookie: int = 0, limit: int = 1024) -> DirPage:
        if limit < 1 or cookie < 0:
            raise FsError(Status.INVALID, "limit")
        with self._opened(directory) as (fd, attr):
            if attr.kind is not FileKind.DIRECTORY:
                raise FsError(Status.NOT_DIR)
            assert isinstance(directory, LocalNode)
            return await self._listings.page(directory, fd, attr, cookie, limit, self._rights)

    async def entry_node(self, directory: Node, entry: DirEntry) -> LocalNode:
        if not isinstance(entry, LocalEntry):
            return (await self.lookup(directory, entry.name))[0]
        return self._nodes.intern(entry.key, self._nodes.own(directory).child_path(os.fsencode(entry.name)))

    async def statfs(self) -> StatFs:
        try:
            found = os.fstatvfs(self._nodes.root_fd)
        except OSError as error:
            raise fs_error(error) from None
        return StatFs(
            block_size=found.f_frsize,
            blocks=found.f_blocks,
            blocks_free=found.f_bfree,
            blocks_available=found.f_bavail,
            files=found.f_files,
            files_free=found.f_ffree,
            name_max=found.f_namemax,
            read_only=self._read_only or bool(found.f_flag & _ST_RDONLY),
        )

    def name_changes(self, directory: Node) -> int | None:
        return self._name_counts.of(self._nodes.own(directory), self._nodes.directory_fd(directory))

    def watch(self, directory: Node, *, recursive: bool = False) -> LocalWatch:
        """See `LocalWatch`: it is watching when this returns."""
        if self._rights is not OWN:
            raise FsError(Status.NOT_SUPPORTED, "change notification for another user")
        self._watches = {watch for watch in self._watches if watch.active}
        if len(self._watches) >= MAX_WATCHES:
            raise FsError(Status.NO_RESOURCES, "too many watches")
        watch = LocalWatch(self._nodes.directory_fd(directory), recursive=recursive)
        self._watches.add(watch)
        return watch

    # Names for good

    async def handle(self, node: Node) -> bytes:
        """See `local_handle`."""
        return self._handles.of(self._nodes.own(node))

    async def from_handle(self, handle: bytes) -> tuple[LocalNode, Attr]:
        return await self._handles.find(handle)

    # Opening

    async def open(
        self, directory: Node, path: str, flags: OpenFlags, mode: int = 0o644
    ) -> tuple[LocalFile, Attr, bool]:
        raw = encode_path(path)
        access = _access_mode(flags)
        create = OpenFlags.CREATE in flags
        if self._read_only and (access != os.O_RDONLY or OpenFlags.TRUNCATE in flags):
            raise FsError(Status.READ_ONLY, path)
        if create and (not raw or not 0 <= mode <= 0o7777):
            raise FsError(Status.IS_DIR if not raw else Status.INVALID, path)
        if not raw:
            with self._opened(directory) as (fd, attr), self._rights:
                assert isinstance(directory, LocalNode)
                return self._open_found(directory, os.dup(fd), attr, access, flags)
        dir_fd = self._nodes.directory_fd(directory)
        assert isinstance(directory, LocalNode)
        try:
            with self._rights:
                return self._open_or_create(directory, dir_fd, raw, access, flags, mode)
        except OSError as error:
            raise fs_error(error, path) from None

    def _open_or_create(
        self, directory: LocalNode, dir_fd: int, raw: bytes, access: int, flags: OpenFlags, mode: int
    ) -> tuple[LocalFile, Attr, bool]:
        create = OpenFlags.CREATE in flags
        for _ in range(CREATE_RETRIES):
            if create and not self._read_only:
                try:
                    return self._create(directory, dir_fd, raw, access, flags, mode)
                except FileExistsError:
                    if OpenFlags.EXCLUSIVE in flags:
                        raise
            try:
                follow = OpenFlags.NOFOLLOW not in flags
                path_fd, key, attr, where = self._open_path(directory, dir_fd, raw, follow)
                return self._open_found(self._nodes.intern(key, where), path_fd, attr, access, flags)
            except FileNotFoundError:
                if not create:
                    raise
                if self._read_only:
                    raise FsError(Status.READ_ONLY, os.fsdecode(raw)) from None
                if OpenFlags.NOFOLLOW not in flags:
                    return self._create(directory, dir_fd, raw, access, flags, mode, through_link=True)
        raise FsError(Status.BUSY, os.fsdecode(raw))

    def _create(
        self, directory: LocalNode, dir_fd: int, raw: bytes, access: int, flags: OpenFlags, mode: int,
        *, through_link: bool = False,
    ) -> tuple[LocalFile, Attr, bool]:  # fmt: skip
        """A new file; FileExistsError. `through_link`: the name is a link whose target does not exist yet."""
        how = os.O_CREAT if through_link else os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
        fd = open_beneath(dir_fd, raw, how | access | _NEVER_BLOCK, mode)
        try:
            key, attr = self._nodes.stat.of_descriptor(fd)
            _check_regular(attr)
            if attr.mode != mode:  # the umask, or bits that open(2) ignores
                os.fchmod(fd, mode)
                key, attr = self._nodes.stat.of_descriptor(fd)
            where = directory.child_path(raw)
            if through_link:
                where = self._nodes.path_of(fd, where)
            self._parent_changed(directory, dir_fd, raw)
            node = self._nodes.intern(key, where)
            return LocalFile(self._files, node, fd, access, self._rights), attr, True
        except BaseException:
            os.close(fd)
            raise

    def _open_found(
        self, node: LocalNode, path_fd: int, attr: Attr, access: int, flags: OpenFlags
    ) -> tuple[LocalFile, Attr, bool]:
        """The second of two steps: first the object is found, and it is opened only when it is a regular file.
        Opening a device or a FIFO can block or set something in motion. `path_fd` is closed."""
        try:
            _check_regular(attr)
            truncate = os.O_TRUNC if OpenFlags.TRUNCATE in flags else 0
            fd = os.open(f"/proc/self/fd/{path_fd}", access | truncate | _NEVER_BLOCK)
        finally:
            os.close(path_fd)
        try:
            if truncate:
                attr = self._nodes.stat.of_descriptor(fd)[1]
            return LocalFile(self._files, node, fd, access, self._rights), attr, False
        except BaseException:
            os.close(fd)
            raise

    def _open_path(
        self, directory: LocalNode, dir_fd: int, raw: bytes, follow: bool
    ) -> tuple[int, ObjectKey, Attr, bytes]:
        """An O_PATH descriptor of what a path leads to, and where that is."""
        where = directory.child_path(raw)
        fd = open_beneath(dir_fd, raw, O_NODE)
        try:
            key, attr = self._nodes.stat.of_descriptor(fd)
            if follow and attr.kind is FileKind.SYMLINK:
                target = open_beneath(dir_fd, raw, os.O_PATH)
                os.close(fd)
                fd = target
                key, attr = self._nodes.stat.of_descriptor(fd)
                where = self._nodes.path_of(fd, where)
        except BaseException:
            os.close(fd)
            raise
        return fd, key, attr, where

    # Changing names

    async def mkdir(self, directory: Node, path: str, mode: int = 0o755) -> tuple[LocalNode, Attr]:
        if not 0 <= mode <= 0o7777:
            raise FsError(Status.INVALID, "mode")
        with self._parent(directory, path) as (fd, name, where), self._rights:
            os.mkdir(name, mode & 0o777, dir_fd=fd)
            key, attr = self._nodes.stat.of_entry(fd, name)
            inherited = attr.mode & stat.S_ISGID  # of the parent: files below belong to its group
            if attr.mode != mode | inherited and attr.kind is FileKind.DIRECTORY:
                key, attr = self._set_mode(fd, name, key, mode | inherited)
            return self._nodes.intern(key, where), attr

    async def mknod(
        self, directory: Node, path: str, kind: FileKind, mode: int = 0o644, rdev: int = 0
    ) -> tuple[LocalNode, Attr]:
        what = _SPECIAL.get(kind)
        if what is None or not 0 <= mode <= 0o7777 or rdev < 0:
            raise FsError(Status.INVALID, kind.value)
        device = rdev if kind in (FileKind.CHARACTER, FileKind.BLOCK) else 0
        with self._parent(directory, path) as (fd, name, where), self._rights:
            os.mknod(name, what | mode & 0o777, device, dir_fd=fd)
            key, attr = self._nodes.stat.of_entry(fd, name)
            if attr.mode != mode and attr.kind is kind:
                key, attr = self._set_mode(fd, name, key, mode)
            return self._nodes.intern(key, where), attr

    async def symlink(self, directory: Node, path: str, target: str) -> tuple[LocalNode, Attr]:
        if not target or "\0" in target:
            raise FsError(Status.INVALID, "target of a symbolic link")
        with self._parent(directory, path) as (fd, name, where), self._rights:
            try:
                os.symlink(os.fsencode(target), name, dir_fd=fd)
            except UnicodeEncodeError:
                raise FsError(Status.BAD_NAME, ascii(target)) from None
            key, attr = self._nodes.stat.of_entry(fd, name)
            return self._nodes.intern(key, where), attr

    async def link(self, node: Node, directory: Node, path: str) -> Attr:
        with self._parent(directory, path) as (fd, name, _), self._opened(node) as (node_fd, attr):
            if attr.kind is FileKind.DIRECTORY:
                raise FsError(Status.IS_DIR, "hard link")
            with self._rights:
                # linkat(2) with AT_SYMLINK_FOLLOW: the only way that needs no capability
                os.link(f"/proc/self/fd/{node_fd}", name, dst_dir_fd=fd, follow_symlinks=True)
            self._changed(node_fd)
            return self._nodes.stat.of_descriptor(node_fd)[1]

    async def unlink(self, directory: Node, path: str) -> None:
        with self._parent(directory, path) as (fd, name, _), self._rights:
            os.unlink(name, dir_fd=fd)

    async def rmdir(self, directory: Node, path: str) -> None:
        with self._parent(directory, path) as (fd, name, _), self._rights:
            os.rmdir(name, dir_fd=fd)

    async def rename(
        self, source: Node, path: str, target: Node, new_path: str, *, replace: bool = True
    ) -> None:
        with (
            self._parent(source, path) as (src_fd, src, old),
            self._parent(target, new_path) as (dst_fd, dst, new),
        ):
            with self._rights:
                key, attr = self._nodes.stat.of_entry(src_fd, src)
                if replace:
                    os.rename(src, dst, src_dir_fd=src_fd, dst_dir_fd=dst_fd)
                else:
                    syscalls.rename_noreplace(src_fd, src, dst_fd, dst)
            self._nodes.stat.changed(key)
            self._nodes.renamed(key, old, new, tree=attr.kind is FileKind.DIRECTORY)

    def _set_mode(self, dir_fd: int, name: bytes, made: ObjectKey, mode: int) -> tuple[ObjectKey, Attr]:
        """The exact mode for what was made as `name` a moment ago, unless somebody put something else there."""
        fd = os.open(name, O_NODE | os.O_CLOEXEC, dir_fd=dir_fd)
        try:
            if self._nodes.stat.of_descriptor(fd)[0] == made:
                os.chmod(f"/proc/self/fd/{fd}", mode)
            return self._nodes.stat.of_descriptor(fd)
        finally:
            os.close(fd)

    # Changing attributes

    async def setattr(self, node: Node, changes: SetAttr) -> Attr:
        self._writable()
        with self._opened(node) as (fd, attr):
            local_change.check(changes, attr.kind)
            path = f"/proc/self/fd/{fd}"
            if changes.size is not None:
                with self._rights:
                    file = Descriptor(os.open(path, os.O_WRONLY | _NEVER_BLOCK))
                try:
                    await truncate(file, self._pool, changes.size, self._rights)
                finally:
                    file.close()
            with self._rights:
                local_change.apply(fd, path, changes)
            self._changed(fd)
            return self._nodes.stat.of_descriptor(fd)[1]

    async def fsync(self, node: Node) -> None:
        with self._opened(node) as (fd, attr):
            if attr.kind is FileKind.DIRECTORY:
                opened = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=fd)
                sync: Callable[[int], None] = os.fsync
            elif attr.kind is FileKind.REGULAR:
                opened = os.open(f"/proc/self/fd/{fd}", os.O_RDONLY | _NEVER_BLOCK)
                sync = os.fsync
            else:  # cannot be opened: everything of the file system instead
                opened = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=self._nodes.root_fd)
                sync = syscalls.syncfs
            file = Descriptor(opened)
            try:
                await file.run(self._pool, sync)
            finally:
                file.close()

    async def getxattr(self, node: Node, name: str) -> bytes:
        _check_xattr(name)
        with self._opened(node) as (fd, _), self._rights:
            return os.getxattr(f"/proc/self/fd/{fd}", name)

    async def setxattr(
        self, node: Node, name: str, value: bytes, *, create: bool = False, replace: bool = False
    ) -> None:
        self._writable()
        _check_xattr(name)
        flags = (os.XATTR_CREATE if create else 0) | (os.XATTR_REPLACE if replace else 0)
        with self._opened(node) as (fd, _), self._rights:
            os.setxattr(f"/proc/self/fd/{fd}", name, value, flags)
            self._changed(fd)

    async def listxattr(self, node: Node) -> list[str]:
        with self._opened(node) as (fd, _), self._rights:
            return [name for name in os.listxattr(f"/proc/self/fd/{fd}") if name.startswith(_XATTR_NAMESPACE)]

    async def removexattr(self, node: Node, name: str) -> None:
        self._writable()
        _check_xattr(name)
        with self._opened(node) as (fd, _), self._rights:
            os.removexattr(f"/proc/self/fd/{fd}", name)
            self._changed(fd)

    async def copy_range(
        self, source: OpenFile, offset: int, target: OpenFile, target_offset: int, length: int
    ) -> int:
        if not isinstance(source, LocalFile) or not isinstance(target, LocalFile):
            raise FsError(Status.NOT_SUPPORTED, "copying between file systems")
        return await source.copy_to(offset, target, target_offset, length)

    async def clone_range(
        self, source: OpenFile, offset: int, target: OpenFile, target_offset: int, length: int
    ) -> None:
        if not isinstance(source, LocalFile) or not isinstance(target, LocalFile):
            raise FsError(Status.NOT_SUPPORTED, "cloning between file systems")
        await source.clone_to(offset, target, target_offset, length)

    async def close(self) -> None:
        if self._closed or self._base is not None:
            return
        self._closed = True
        for watch in self._watches:
            watch.close()
        self._handles.close()
        self._name_counts.close()
        self._nodes.close()
        self._pool.shutdown(wait=False)

    # Helpers

    def _changed(self, fd: int) -> None:
        """Count a change of what `fd` names."""
        self._nodes.stat.changed(self._nodes.stat.of_descriptor(fd)[0])

    def _parent_changed(self, directory: LocalNode, dir_fd: int, raw: bytes) -> None:
        parent = raw.rpartition(b"/")[0]
        if not parent:
            self._nodes.stat.changed(directory.key)
            return
        try:
            fd = open_beneath(dir_fd, parent, O_DIR)
        except (OSError, FsError):
            return  # renamed a moment ago: the file is made all the same
        try:
            self._changed(fd)
        finally:
            os.close(fd)

    def _writable(self) -> None:
        if self._read_only:
            raise FsError(Status.READ_ONLY)

    @contextmanager
    def _opened(self, node: Node) -> Iterator[tuple[int, Attr]]:
        """As `NodeTable.opened`; an OSError inside becomes the contract's error."""
        try:
            with self._nodes.opened(node) as found:
                yield found
        except OSError as error:
            raise fs_error(error, repr(node)) from None

    @contextmanager
    def _parent(self, directory: Node, path: str) -> Iterator[tuple[int, bytes, bytes]]:
        """For a call that changes a name: its parent's descriptor, the name there, the path from the root."""
        self._writable()
        parent, name = split_path(path)
        fd = dir_fd = self._nodes.directory_fd(directory)
        assert isinstance(directory, LocalNode)
        try:
            if parent:
                with self._rights:
                    fd = open_beneath(dir_fd, parent, O_DIR)
            yield fd, name, directory.child_path(parent + b"/" + name if parent else name)
            self._changed(fd)
        except OSError as error:
            raise fs_error(error, path) from None
        finally:
            if fd != dir_fd:
                os.close(fd)


def _access_mode(flags: OpenFlags) -> int:
    reading, writing = OpenFlags.READ in flags, OpenFlags.WRITE in flags
    if not (reading or writing):
        raise FsError(Status.INVALID, "neither READ nor WRITE")
    if OpenFlags.TRUNCATE in flags and not writing:
        raise FsError(Status.INVALID, "TRUNCATE without WRITE")
    return (os.O_RDWR if reading else os.O_WRONLY) if writing else os.O_RDONLY


def _check_regular(attr: Attr) -> None:
    if attr.kind is FileKind.REGULAR:
        return
    if attr.kind is FileKind.DIRECTORY:
        raise FsError(Status.IS_DIR)
    if attr.kind is FileKind.SYMLINK:
        raise FsError(Status.LOOP)
    raise FsError(Status.NOT_SUPPORTED, f"opening a {attr.kind.value}")


def _check_xattr(name: str) -> None:
    if not name.startswith(_XATTR_NAMESPACE) or "\0" in name:
        raise FsError(Status.NOT_SUPPORTED, f"extended attribute {name!a}")
    if name == _XATTR_NAMESPACE:
        raise FsError(Status.INVALID, "an empty attribute name")
