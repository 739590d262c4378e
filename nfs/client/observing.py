"""What each COMPOUND tells of the objects in it, and does to them: in one place, whoever sends it.

A COMPOUND is followed with the current and the saved file handle, as the server follows it. What changes an object
makes everything that is remembered of it void; attributes and names that come with the results are remembered.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Final

from quicfs.nfs.client.attributes import ATTR
from quicfs.nfs.client.caching import Caches
from quicfs.nfs.client.channel import Operation
from quicfs.nfs.client.delegations import Delegations
from quicfs.nfs.client.errors import CompoundFailed
from quicfs.nfs.client.nodes import NfsNode, Nodes
from quicfs.nfs.v4.attributes import Attribute
from quicfs.nfs.v4.const import UINT64_MAX, CbOp, Op, Stat
from quicfs.nfs.v4.operations_open import ClaimNull
from quicfs.nfs.v4.types import ChangeInfo

__all__ = ["Observer", "Sight"]

_RECENT: Final = 256  # objects that stay until somebody holds them, or not
_CHANGE: Final = 1 << Attribute.CHANGE
# The current object is another one afterwards.
_CURRENT: Final = frozenset(
    {
        Op.SETATTR,
        Op.WRITE,
        Op.ALLOCATE,
        Op.DEALLOCATE,
        Op.CLONE,
        Op.COPY,
        Op.WRITE_SAME,
        Op.SETXATTR,
        Op.REMOVEXATTR,
    }
)
_RIGHTS: Final = frozenset(
    {
        Attribute.MODE,
        Attribute.MODE_SET_MASKED,
        Attribute.OWNER,
        Attribute.OWNER_GROUP,
        Attribute.ACL,
        Attribute.DACL,
    }
)
_DIRECTORY: Final = frozenset({Op.CREATE, Op.REMOVE, Op.RENAME, Op.LINK, Op.OPEN})
_WORTH_IT: Final = _CURRENT | _DIRECTORY | {Op.GETATTR, Op.LOOKUP, Op.READDIR}


class Observer:
    def __init__(self, nodes: Nodes, caches: Caches, delegations: Delegations) -> None:
        self.nodes = nodes
        self.caches = caches
        self.delegations = delegations
        self.recent: deque[NfsNode] = deque(maxlen=_RECENT)

    def begin(self, operations: Sequence[Operation]) -> Sight | None:
        """Before it is sent. None if there is nothing to learn."""
        for op, _ in operations:
            if op in _WORTH_IT:
                return Sight(self, operations)
        return None


class Sight:
    """One COMPOUND under way; one of its methods is called when it has ended."""

    __slots__ = (
        "_caches",
        "_clean",
        "_current",
        "_found",
        "_observer",
        "_operations",
        "_pending",
        "_saved",
        "_saved_way",
        "_ticket",
        "_way",
    )

    def __init__(self, observer: Observer, operations: Sequence[Operation]) -> None:
        self._observer = observer
        self._caches = observer.caches
        self._operations = operations
        self._ticket = observer.caches.clock
        self._clean: dict[NfsNode, int] = {}  # touched by nobody but this COMPOUND, and when
        self._found: dict[tuple[NfsNode, str], NfsNode] = {}  # by LOOKUP
        self._current: NfsNode | None = None
        self._saved: NfsNode | None = None
        self._pending: tuple[NfsNode, str] | None = None  # the name that leads to the current object
        self._way: tuple[NfsNode, str] | None = None  # to the current object: a node and a path from there
        self._saved_way: tuple[NfsNode, str] | None = None

    def lost(self) -> None:
        """Nobody knows what the server did of it."""
        current: NfsNode | None = None
        saved: NfsNode | None = None
        for op, args in self._operations:
            if op is Op.PUTFH:
                current = self._observer.nodes.get(args.object)  # type: ignore[union-attr]
            elif op is Op.SAVEFH:
                saved = current
            elif op in _CURRENT or op in _DIRECTORY:
                for node in (current, saved):
                    if node is not None:
                        self._caches.names_changed(node, None)
                        self._caches.data.drop(node)

    def failed(self, failure: CompoundFailed) -> None:
        self.done([result.value for result in failure.results[:-1]])
        if not failure.results:
            return
        op, args = self._operations[len(failure.results) - 1]
        current = self._current
        if current is None:
            return
        if op is Op.LOOKUP and failure.status is Stat.NOENT:
            self._learn_name(current, args.objname, None)  # type: ignore[union-attr]
        elif op in _CURRENT:
            self._touch(current)

    def done(self, values: Sequence[Any]) -> None:
        """`values`: of the operations that succeeded."""
        for (op, args), value in zip(self._operations, values, strict=False):
            step = _STEPS.get(op)
            if step is not None:
                step(self, args, value)
            elif op in _CURRENT and self._current is not None:
                self._change(self._current, op, args)

    # What is known, and what is not any more

    def _current_as_of(self, node: NfsNode) -> bool:
        """Whether what the server said of it is no older than what has been done to it."""
        return self._caches.untouched(node, self._ticket) or self._clean.get(node) == node.cache.touched  # type: ignore[union-attr]

    def _touch(self, node: NfsNode) -> None:
        clean = self._current_as_of(node)
        self._caches.touch(node)
        if clean:
            self._clean[node] = self._caches.clock

    def _change(self, node: NfsNode, op: Op, args: Any) -> None:
        self._touch(node)
        start, end = _written(op, args)
        if end > start:
            self._caches.data.cut(node, start, end)
        if op is Op.SETATTR and not _RIGHTS.isdisjoint(args.attributes):
            self._observer.delegations.rights_changed(node)
        elif op is Op.WRITE:
            self._observer.delegations.wrote(node, end)

    def _names_changed(self, directory: NfsNode, cinfo: ChangeInfo, *names: str) -> None:
        clean = self._current_as_of(directory)
        self._caches.names_changed(directory, cinfo, *names)
        if clean:
            self._clean[directory] = self._caches.clock

    def _learn_name(self, directory: NfsNode, name: str, node: NfsNode | None) -> None:
        if self._current_as_of(directory):
            self._caches.learn_name(directory, name, node)

    # One step each. Those that lead to another object leave it unknown until GETFH tells it.

    def _putfh(self, args: Any, value: Any) -> None:
        self._current = self._observer.nodes.get(args.object)
        self._pending = None
        self._way = None if self._current is None else (self._current, "")

    def _away(self, args: Any, value: Any) -> None:
        self._current = self._pending = self._way = None

    def _savefh(self, args: Any, value: Any) -> None:
        self._saved, self._saved_way = self._current, self._way

    def _restorefh(self, args: Any, value: Any) -> None:
        self._current, self._way, self._pending = self._saved, self._saved_way, None

    def _lookup(self, args: Any, value: Any) -> None:
        self._pending = None if self._current is None else (self._current, args.objname)
        self._way = _below(self._way, args.objname)
        self._current = None

    def _getfh(self, args: Any, value: Any) -> None:
        if self._current is not None:
            return
        nodes, pending = self._observer.nodes, self._pending
        self._current = nodes.at(value.object, 0, self._way)
        self._observer.recent.append(self._current)  # its finder asks for it in a moment
        if self._way is not None:
            self._found[self._way] = self._current
        if pending is not None:
            self._learn_name(*pending, self._current)

    def _getattr(self, args: Any, value: Any) -> None:
        node = self._current
        if node is None or not self._current_as_of(node):
            return
        if args.attr_request & ATTR == ATTR:
            self._caches.learn(node, value.attributes)
        elif args.attr_request & _CHANGE:
            self._caches.learn_change(node, value.attributes.get(Attribute.CHANGE))
        else:
            return
        # Learning that it has changed touches it, too.
        if node.cache is not None and node.cache.touched > self._ticket:
            self._clean[node] = node.cache.touched

    def _readdir(self, args: Any, value: Any) -> None:
        directory = self._current
        if directory is None or not self._current_as_of(directory):
            return
        nodes, caches, ticket = self._observer.nodes, self._caches, self._ticket
        for entry in value.entries:
            attributes = entry.attrs
            fh = attributes.get(Attribute.FILEHANDLE)
            if fh is None or Attribute.FILEID not in attributes:
                continue
            node = nodes.at(fh, attributes[Attribute.FILEID], (directory, entry.name))
            if caches.untouched(node, ticket):
                caches.learn(node, attributes)
            caches.learn_name(directory, entry.name, node)

    def _open(self, args: Any, value: Any) -> None:
        directory, claim = self._current, args.claim
        if not isinstance(claim, ClaimNull):
            return
        self._current = self._pending = None
        self._way = _below(self._way, claim.file)
        if directory is None:
            return
        if args.how is not None and value.cinfo.before != value.cinfo.after:
            self._names_changed(directory, value.cinfo, claim.file)
        self._pending = directory, claim.file

    def _create(self, args: Any, value: Any) -> None:
        if self._current is not None:
            self._names_changed(self._current, value.cinfo, args.objname)
            self._pending = self._current, args.objname
        self._way = _below(self._way, args.objname)
        self._current = None

    def _remove(self, args: Any, value: Any) -> None:
        self._object_changed(self._current, self._way, args.target, removed=True)
        if self._current is not None:
            self._names_changed(self._current, value.cinfo, args.target)

    def _link(self, args: Any, value: Any) -> None:
        if self._saved is not None:
            self._touch(self._saved)
        if self._current is not None:
            self._names_changed(self._current, value.cinfo, args.newname)

    def _rename(self, args: Any, value: Any) -> None:
        source, target = self._saved, self._current
        self._object_changed(target, self._way, args.newname, removed=True)
        moved = self._object_changed(source, self._saved_way, args.oldname, removed=False)
        place = _below(self._way, args.newname)
        if moved is not None and place is not None:
            moved.place = place
        self._observer.delegations.moved(args.oldname, args.newname)
        if source is not None and source is target:
            self._names_changed(source, value.source_cinfo, args.oldname, args.newname)
            return
        if source is not None:
            self._names_changed(source, value.source_cinfo, args.oldname)
        if target is not None:
            self._names_changed(target, value.target_cinfo, args.newname)

    def _object_changed(
        self, directory: NfsNode | None, way: tuple[NfsNode, str] | None, name: str, *, removed: bool
    ) -> NfsNode | None:
        """What had this name has a name less, or another: its count of links and its times are others. The object, if
        we know which it was."""
        place = _below(way, name)
        if place is None:
            return None
        node: object = self._found.get(place)
        if node is None and directory is not None:
            node = self._caches.name(directory, name)
        if isinstance(node, NfsNode):
            self._touch(node)
            if removed:
                self._observer.delegations.removed(node)
        if removed:
            self._observer.delegations.name_gone(place)
        return node if isinstance(node, NfsNode) else None


def _below(way: tuple[NfsNode, str] | None, name: str) -> tuple[NfsNode, str] | None:
    if way is None:
        return None
    return way[0], f"{way[1]}/{name}" if way[1] else name


def _written(op: Op | CbOp, args: Any) -> tuple[int, int]:
    """The range whose data are others afterwards."""
    match op:
        case Op.WRITE:
            return args.offset, args.offset + len(args.data)
        case Op.DEALLOCATE | Op.ALLOCATE:
            return args.offset, args.offset + args.length
        case Op.SETATTR:
            return args.attributes.get(Attribute.SIZE, UINT64_MAX), UINT64_MAX
        case Op.COPY | Op.CLONE:
            return args.dst_offset, (args.dst_offset + args.count) if args.count else UINT64_MAX
        case Op.WRITE_SAME:
            return 0, UINT64_MAX
    return 0, 0


_STEPS: Final[dict[Op | CbOp, Callable[[Sight, Any, Any], None]]] = {
    Op.PUTFH: Sight._putfh,
    Op.PUTROOTFH: Sight._away,
    Op.LOOKUPP: Sight._away,
    Op.SAVEFH: Sight._savefh,
    Op.RESTOREFH: Sight._restorefh,
    Op.LOOKUP: Sight._lookup,
    Op.GETFH: Sight._getfh,
    Op.GETATTR: Sight._getattr,
    Op.READDIR: Sight._readdir,
    Op.OPEN: Sight._open,
    Op.CREATE: Sight._create,
    Op.REMOVE: Sight._remove,
    Op.LINK: Sight._link,
    Op.RENAME: Sight._rename,
}
