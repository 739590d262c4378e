"""What all operations of one mount share, and how a path becomes attributes and a node."""

from __future__ import annotations

import os
import posixpath
import re
from collections.abc import Awaitable, Callable
from typing import Any, Concatenate, Final, ParamSpec, TypeVar

from quicfs.fuse_mount.cache import Cache, Entry
from quicfs.fuse_mount.crossing import Crossing
from quicfs.fuse_mount.handles import HandleTable, SharedFile
from quicfs.fuse_mount.neighbours import Neighbours
from quicfs.fuse_mount.options import MountOptions
from quicfs.fuse_mount.stat_layout import StatLayout
from quicfs.vfs import Attr, FileSystem, FsError, Node, Status

T = TypeVar("T")
P = ParamSpec("P")


FUSE_UNLINK: Final = 10  # <linux/fuse.h>
FUSE_RENAME: Final = 12
FUSE_RENAME2: Final = 45

_PROBES: Final = (FUSE_UNLINK, FUSE_RENAME, FUSE_RENAME2)
_HIDDEN: Final = re.compile(rb"/\.fuse_hidden[0-9a-f]{16}\Z")  # hidden_name in libfuse's fuse.c


def parent_of(path: bytes) -> bytes:
    return posixpath.dirname(path)


def relative(path: bytes) -> str:
    """The contract's path below the root for libfuse's absolute one."""
    return os.fsdecode(path[1:])


def is_hidden(path: bytes) -> bool:
    """Whether libfuse invented this name for a file that is open but has none any more."""
    return _HIDDEN.search(path) is not None


class Context:
    """Paths are absolute, as bytes. Methods raise FsError, and CallAbandoned when nobody waits any more.

    `opcode()` tells, in a callback, which request of the kernel libfuse works on."""

    def __init__(
        self,
        fs: FileSystem,
        crossing: Crossing,
        options: MountOptions,
        layout: StatLayout,
        opcode: Callable[[], int],
    ) -> None:
        self.fs = fs
        self.opcode = opcode
        self.crossing = crossing
        self.options = options
        self.layout = layout
        self.cache = Cache(
            attr_timeout=options.attr_timeout,
            negative_timeout=options.negative_timeout,
            max_attrs=options.max_attrs,
            max_listing=options.max_listing,
        )
        self.handles = HandleTable(crossing, options, self._written)
        self._neighbours = Neighbours(self)

    def _written(self, shared: SharedFile) -> None:
        for handle in list(shared.handles):
            self.cache.touch_content(handle.path)

    def look_up(self, path: bytes) -> Entry:
        """Ask the server, unless a remembered directory says that nothing is there."""
        if is_hidden(path):
            if self.opcode() in _PROBES:
                return Entry(
                    None, None, 0
                )  # libfuse looks for a name that is free; ours never get to the server
            if self.handles.buried(path):
                raise FsError(Status.STALE)  # the kernel still knew it by its old name; it will look again
        cache = self.cache
        ticket = cache.ticket()
        name = relative(path)
        listing = cache.listing(parent_of(path)) if name else None  # the root has no name to look for
        if listing is not None and listing.excludes(posixpath.basename(name)):
            return Entry(None, None, listing.expires)
        ends = self.handles.ends()
        try:
            node, attr = self.by_name(self.fs.lookup, path)
        except FsError as error:
            if error.status is not Status.NOT_FOUND:
                raise
            return cache.put(path, None, None, ticket)
        return cache.put(path, self.seen(attr, ends), node, ticket)

    def seen(self, attr: Attr, ends: dict[int, int]) -> Attr:
        """`attr` came from the server, which was asked when our writes were at `ends`."""
        shared = self.handles.shared_file(attr.fileid)
        return attr if shared is None else shared.see(attr, ends.get(attr.fileid, 0))

    def entry(self, path: bytes) -> Entry:
        """What is known, or learned now. `attr` None: nothing is there."""
        return self.cache.get(path) or self._neighbours.look(path) or self.look_up(path)

    def node(self, path: bytes) -> Node:
        """Raises NOT_FOUND."""
        known = self.cache.node(path)
        if known is not None:
            return known
        entry = self.entry(path)
        if entry.attr is not None and entry.node is None:
            entry = self.look_up(path)
        if entry.node is None:
            raise FsError(Status.NOT_FOUND)
        return entry.node

    def on_node(
        self,
        path: bytes,
        function: Callable[Concatenate[Node, P], Awaitable[T]],
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> T:
        """`function(node of path, ...)`, once more with a new node if the remembered one has gone."""
        try:
            return self.crossing.call(function, self.node(path), *args, **kwargs)
        except FsError as error:
            if error.status is not Status.STALE:
                raise
        self.cache.touch(path)
        return self.crossing.call(function, self.node(path), *args, **kwargs)

    def changed(self, path: bytes, attr: Attr | None = None, node: Node | None = None) -> None:
        """We changed the object at `path`; `attr` is how it is now."""
        old = self.cache.node(path)
        self.cache.touch(path)
        if attr is not None:
            self.cache.put(path, attr, node or old, self.cache.ticket())
            if attr.nlink > 1:
                self.cache.touch_object(attr.fileid, path)

    def names_changed(self, path: bytes) -> None:
        """The name `path` came, went, or leads elsewhere."""
        self.cache.touch(path)
        self.cache.touch_names(parent_of(path), posixpath.basename(path))

    def base(self, path: bytes) -> tuple[Node, str]:
        """A directory and the way from there: the parent if it is known, else the root."""
        known = self.cache.node(parent_of(path)) if path != b"/" else None
        if known is None:
            return self.fs.root, relative(path)
        return known, os.fsdecode(posixpath.basename(path))

    def by_name(self, function: Callable[..., Awaitable[T]], path: bytes, *args: Any, **kwargs: Any) -> T:
        """`function(directory, name, ...)`, once more from the root if the remembered directory has gone."""
        directory, name = self.base(path)
        try:
            return self.crossing.call(function, directory, name, *args, **kwargs)
        except FsError as error:
            if error.status is not Status.STALE or directory is self.fs.root:
                raise
        self.cache.touch(parent_of(path))
        return self.crossing.call(function, self.fs.root, relative(path), *args, **kwargs)

    def child(self, function: Callable[..., Awaitable[T]], path: bytes, *args: Any, **kwargs: Any) -> T:
        """`by_name` of what makes, removes or opens the name; forgotten in any case, as an error does not tell that
        nothing happened."""
        try:
            return self.by_name(function, path, *args, **kwargs)
        finally:
            self.names_changed(path)
