"""From a directory and a path to the object: one COMPOUND, unless a symbolic link lies on the way."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from quicfs.nfs.client.attributes import attr_of
from quicfs.nfs.client.caching import Caches
from quicfs.nfs.client.channel import Operation
from quicfs.nfs.client.errors import CompoundFailed
from quicfs.nfs.client.link import Link
from quicfs.nfs.client.nodes import NfsNode, Nodes
from quicfs.nfs.client.requests import CHANGE, GETATTR, GETFH, LOOKUPP, READLINK, put
from quicfs.nfs.client.status import fs_error
from quicfs.nfs.rpc.message import Credential
from quicfs.nfs.v4.const import Op, Stat
from quicfs.nfs.v4.operations_directories import LookupArgs
from quicfs.vfs.api import Attr, FileKind
from quicfs.vfs.status import FsError, Status

__all__ = ["Walker", "shown"]

_MAX_LINKS: Final = 40  # symbolic links followed in one path, as Linux has it
_RESERVED: Final = 12  # operations of a COMPOUND besides LOOKUP
_ON_THE_WAY: Final = frozenset({Stat.SYMLINK, Stat.NOTDIR})


def shown(directory: NfsNode, names: Sequence[str]) -> str:
    return "/".join((directory.shown.rstrip("/"), *names))


class Walker:
    """Finds objects in the name of one user. `root` is set once it is known."""

    def __init__(
        self, link: Link, nodes: Nodes, caches: Caches, root: NfsNode, credential: Credential
    ) -> None:
        self._link = link
        self._nodes = nodes
        self._caches = caches
        self._root = root
        self._credential = credential

    async def run(
        self,
        directory: NfsNode,
        names: Sequence[str],
        tail: Sequence[Operation],
        **options: Any,
    ) -> list[Any]:
        """`tail` with the object at `names` below `directory` as the current file handle; its results. What is believed
        of the way is not walked again, and what is learned on the rest of it is believed later.

        CompoundFailed of `tail` is left to the caller: `results` and `index` count from its first operation.
        What happens before is an FsError.
        """
        caches = self._caches
        for trust in (True, False):
            node, rest = caches.closest(directory, names) if trust else (directory, list(names))
            node, rest = await self._shorten(node, rest)
            operations = [put(node)] if caches.fresh(node) else [put(node), CHANGE]
            for name in rest:
                operations += ((Op.LOOKUP, LookupArgs(name)), GETFH, GETATTR)
            before = len(operations)
            what = shown(directory, names)
            try:
                values = await self._link.compound(
                    [*operations, *tail], what, credential=self._credential, **options
                )
            except CompoundFailed as failed:
                if not failed.index and trust and node is not directory:
                    caches.forget(node)  # what was believed of the way is not so any more
                    continue
                # LOOKUP in a link, or the first operation of `tail` that finds a link where a directory should be
                if not rest or failed.index < 1 or failed.status not in _ON_THE_WAY:
                    raise self._of_tail(failed, before, what) from failed
            else:
                return values[before:]
            break
        node, _ = await self.walk(node, rest)
        try:
            values = await self._link.compound(
                [put(node), *tail], what, credential=self._credential, **options
            )
        except CompoundFailed as failed:
            raise self._of_tail(failed, 1, what) from failed
        return values[1:]

    def _of_tail(self, failed: CompoundFailed, before: int, what: str) -> Exception:
        if failed.index < before:
            return fs_error(failed, what)
        return CompoundFailed(failed.status, failed.results[before:], what)

    async def _shorten(self, directory: NfsNode, names: list[str]) -> tuple[NfsNode, list[str]]:
        """A path that does not fit into one COMPOUND is walked in several."""
        session = self._link.current
        room = (session.limits.maxoperations if session is not None else 64) - _RESERVED
        most = max(1, room // 3)
        while len(names) > most:
            part, names = names[: most - 1], names[most - 1 :]
            fh, values = (await self.run(directory, part, [GETFH, GETATTR]))[:2]
            attr = attr_of(values.attributes)
            directory = self._nodes.at(fh.object, attr.fileid, (directory, "/".join(part)))
        return directory, names

    async def look(self, directory: NfsNode, name: str) -> tuple[NfsNode, Attr]:
        """One name, no link followed."""
        try:
            _, fh, values = await self.run(directory, [], [(Op.LOOKUP, LookupArgs(name)), GETFH, GETATTR])
        except CompoundFailed as failed:
            raise fs_error(failed, shown(directory, [name])) from failed
        attr = attr_of(values.attributes)
        return self._nodes.at(fh.object, attr.fileid, (directory, name)), attr

    async def walk(self, start: NfsNode, names: Sequence[str]) -> tuple[NfsNode, Attr]:
        """Step by step, following every link, also the last. CROSS_DEVICE if one leads out of the tree."""
        way = [start]
        attr: Attr | None = None
        rest = list(reversed(names))
        links = 0
        while rest:
            name = rest.pop()
            here = way[-1]
            if name == "..":
                if len(way) > 1:
                    way.pop()
                elif here is self._root:
                    raise FsError(Status.CROSS_DEVICE, f"{shown(start, names)} leads out of the export")
                else:
                    way[-1] = (await self.parent(here))[0]
                attr = None
                continue
            node, attr = await self.look(here, name)
            if attr.kind is not FileKind.SYMLINK:
                way.append(node)
                continue
            links += 1
            if links > _MAX_LINKS:
                raise FsError(Status.LOOP, shown(start, names))
            target = await self.readlink(node)
            if target.startswith("/"):
                raise FsError(Status.CROSS_DEVICE, f"{shown(start, names)} leads out of the export")
            rest.extend(name for name in reversed(target.split("/")) if name not in ("", "."))
        node = way[-1]
        return node, attr if attr is not None else await self.getattr(node)

    async def getattr(self, node: NfsNode) -> Attr:
        values = await self._link.run([put(node), GETATTR], node.shown, credential=self._credential)
        return attr_of(values[1].attributes)

    async def readlink(self, node: NfsNode) -> str:
        values = await self._link.run([put(node), READLINK], node.shown, credential=self._credential)
        target: str = values[1].link
        return target

    async def parent(self, node: NfsNode) -> tuple[NfsNode, Attr]:
        if node is self._root:
            raise FsError(Status.NOT_FOUND, "the root has no parent")
        values = await self._link.run(
            [put(node), LOOKUPP, GETFH, GETATTR], node.shown, credential=self._credential
        )
        attr = attr_of(values[3].attributes)
        return self._nodes.at(values[2].object, attr.fileid), attr
