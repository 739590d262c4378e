"""The names that the client knows: a tree of nodes, so that renaming a directory moves all below it."""

from __future__ import annotations

from typing import Final
from weakref import WeakValueDictionary

from quicfs.smb.names import name_to_wire
from quicfs.vfs.api import Node
from quicfs.vfs.status import FsError, Status

__all__ = ["SmbNode", "split"]

_NAME_MAX: Final = 255


class SmbNode(Node):
    """An object at a path. Equal only to itself; the same path gives the same node while it is in use.

    `fileid` tells whether the path still leads to the same object; 0 where the server has no such numbers.
    """

    __slots__ = ("__weakref__", "_children", "fileid", "gone", "name", "opens", "parent")

    def __init__(self, parent: SmbNode | None, name: str, fileid: int) -> None:
        self.parent = parent
        self.name = name
        self.fileid = fileid
        self.gone = False
        self.opens: list[object] = []
        self._children: WeakValueDictionary[str, SmbNode] | None = None

    @property
    def path(self) -> str:
        """From the share's root, backslashes between the names; "" is the root. STALE once it is gone."""
        names: list[str] = []
        node = self
        while node.parent is not None:
            if node.gone:
                raise FsError(Status.STALE, self.shown)
            names.append(node.name)
            node = node.parent
        if len(names) == 1:
            return names[0]
        names.reverse()
        return "\\".join(names)

    @property
    def shown(self) -> str:
        """For a person, with slashes."""
        names: list[str] = []
        node = self
        while node.parent is not None:
            names.append(node.name)
            node = node.parent
        return "/" + "/".join(reversed(names))

    def child(self, name: str, fileid: int) -> SmbNode:
        """The node for what is now called `name`; a node for something older of that name is gone."""
        if self._children is None:
            self._children = WeakValueDictionary()
        node = self._children.get(name)
        if node is not None:
            if node.fileid == fileid or not fileid or not node.fileid:
                node.fileid = node.fileid or fileid
                return node
            node.gone = True
        node = SmbNode(self, name, fileid)
        self._children[name] = node
        return node

    def at(self, names: list[str], fileid: int) -> SmbNode:
        """The node at the end of `names`; those on the way may be unknown yet (their `fileid` is 0)."""
        node = self
        for name in names[:-1]:
            node = node.known(name) or node.child(name, 0)
        return node.child(names[-1], fileid) if names else node

    def known(self, name: str) -> SmbNode | None:
        return self._children.get(name) if self._children is not None else None

    def forget(self, name: str) -> None:
        """`name` was removed, or replaced by something else."""
        if self._children is not None and (node := self._children.pop(name, None)) is not None:
            node.gone = True

    def move(self, name: str, target: SmbNode, new_name: str) -> None:
        """`name` below us is now `new_name` below `target`."""
        node = self._children.pop(name, None) if self._children is not None else None
        target.forget(new_name)
        if node is not None:
            node.parent, node.name = target, new_name
            if target._children is None:
                target._children = WeakValueDictionary()
            target._children[new_name] = node


def split(path: str, *, posix: bool) -> list[str]:
    """The names of a path of the contract as they go over the wire. INVALID for ".." and absolute paths."""
    if not path:
        return []
    names = path.split("/")
    for name in names:
        if name in ("", ".", "..") or "\0" in name:
            raise FsError(Status.INVALID, ascii(path))
        if len(name) > _NAME_MAX:
            raise FsError(Status.NAME_TOO_LONG, ascii(path))
    return [name_to_wire(name, posix=posix) for name in names]
