"""Objects of the server, by their file handles."""

from __future__ import annotations

from typing import TYPE_CHECKING
from weakref import WeakValueDictionary

from quicfs.vfs.api import Node
from quicfs.vfs.names import encode_path
from quicfs.vfs.status import FsError, Status

if TYPE_CHECKING:
    from quicfs.nfs.client.caching import NodeCache
    from quicfs.nfs.client.openfile import NfsOpenFile
    from quicfs.nfs.client.unstable import Unstable

__all__ = ["NfsNode", "Nodes", "node_of", "split"]


class NfsNode(Node):
    """One object. Equal only to itself; the same handle gives the same node while it is in use.

    `place`: where it was found last, a directory and the path from there; for servers whose handles expire.
    """

    __slots__ = ("__weakref__", "cache", "cookieverf", "fh", "fileid", "opens", "place", "unstable")

    def __init__(self, fh: bytes, fileid: int, place: tuple[NfsNode, str] | None) -> None:
        self.fh = fh
        self.fileid = fileid
        self.place = place
        self.opens: list[NfsOpenFile] = []
        self.unstable: Unstable | None = None
        self.cache: NodeCache | None = None
        self.cookieverf = bytes(8)

    @property
    def shown(self) -> str:
        """For a person."""
        names: list[str] = []
        place = self.place
        while place is not None and len(names) < 100:
            names.append(place[1])
            place = place[0].place
        return "/" + "/".join(reversed([name for name in names if name]))


class Nodes:
    """All nodes that somebody holds."""

    def __init__(self) -> None:
        self._nodes: WeakValueDictionary[bytes, NfsNode] = WeakValueDictionary()
        self._moved: WeakValueDictionary[bytes, NfsNode] = (
            WeakValueDictionary()
        )  # by a handle that has expired

    def get(self, fh: bytes) -> NfsNode | None:
        return self._nodes.get(fh)

    def at(self, fh: bytes, fileid: int, place: tuple[NfsNode, str] | None = None) -> NfsNode:
        node = self._nodes.get(fh)
        if node is None:
            node = self._nodes[fh] = NfsNode(fh, fileid, place)
            return node
        if place is not None and place[0] is not node:
            node.place = place
        node.fileid = fileid or node.fileid
        return node

    def moved(self, node: NfsNode, fh: bytes) -> None:
        """The object has another handle now."""
        if fh != node.fh:
            self._nodes.pop(node.fh, None)
            self._moved[node.fh] = node
        node.fh = fh
        self._nodes[fh] = node

    def once(self, fh: bytes) -> NfsNode | None:
        """The object that had this handle."""
        return self._moved.get(fh) or self._nodes.get(fh)


def node_of(node: Node) -> NfsNode:
    if not isinstance(node, NfsNode):
        raise FsError(Status.STALE, "a node of another file system")
    return node


def split(path: str) -> list[str]:
    """The names of a path of the contract. INVALID for ".." and absolute paths."""
    if not path:
        return []
    encode_path(path)
    return path.split("/")
