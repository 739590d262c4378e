"""What clients see as one tree: the exports below their pseudo root, and what names the things in it."""

from __future__ import annotations

import secrets
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

from quicfs.nfs.server.context import Target
from quicfs.nfs.server.exports import Export
from quicfs.nfs.server.fattr import Facts
from quicfs.nfs.server.handles import HandleTable, handle_key
from quicfs.nfs.server.owners import Owners
from quicfs.nfs.server.pseudo import PseudoNode, PseudoTree
from quicfs.nfs.v4.const import FhExpire, Nfs4Error, Stat
from quicfs.vfs.api import Attr, FsError, Node, Status

if TYPE_CHECKING:
    from quicfs.nfs.server.context import Context

__all__ = ["Tree"]


class Tree:
    """`lease_time` in seconds, as attributes tell it. `domain`: see `Owners`."""

    def __init__(
        self,
        exports: Sequence[Export],
        state_directory: Path | None,
        *,
        lease_time: int = 90,
        domain: str | None = None,
    ) -> None:
        self.pseudo: Final = PseudoTree(exports, time.time_ns())
        self._run = secrets.token_bytes(8)
        self.handles: Final = HandleTable(self.pseudo, handle_key(state_directory), self._run)
        self.owners: Final = Owners(domain)
        self._lease_time = lease_time
        self._facts: dict[Export | None, Facts] = {
            None: Facts((0, 0), FhExpire.PERSISTENT, lease_time, False, self.owners)
        }

    async def facts(self, export: Export | None) -> Facts:
        """What is the same for all objects of `export`; None is the pseudo file system."""
        facts = self._facts.get(export)
        if facts is None:
            assert export is not None
            expire = (
                FhExpire.PERSISTENT if await self.handles.is_persistent(export) else FhExpire.VOLATILE_ANY
            )
            xattrs = await _has_xattrs(export)
            facts = Facts(export.fsid, expire, self._lease_time, xattrs, self.owners)
            if expire is not FhExpire.PERSISTENT:
                facts.cookie_verifier = self._run  # where handles do not hold over a restart, cookies may not
            self._facts[export] = facts
        return facts

    async def root(self, ctx: Context) -> Target:
        """Where clients start: the pseudo root, or the one export that takes its place."""
        return await self.enter(ctx, self.pseudo.root)

    async def enter(self, ctx: Context, place: PseudoNode) -> Target:
        """A directory of the pseudo file system, or the export that begins there."""
        export = place.export
        if export is None:
            return Target(await self.handles.raw(None, place), None, self.pseudo, place, place.attr)
        fs = ctx.view(export)
        node = fs.root
        return Target(await self.handles.raw(export, node), export, fs, node, await fs.getattr(node))

    async def child(self, ctx: Context, directory: Target, name: str) -> Target:
        """What `name` is in `directory`. FsError."""
        node, attr = await directory.fs.lookup(directory.node, name)
        if directory.export is None:
            assert isinstance(node, PseudoNode)
            return await self.enter(ctx, node)
        return await self.target(directory, node, attr)

    async def target(self, beside: Target, node: Node, attr: Attr | None) -> Target:
        """Another object of the file system that `beside` is in."""
        return Target(await self.handles.raw(beside.export, node), beside.export, beside.fs, node, attr)

    async def parent(self, ctx: Context, directory: Target) -> Target:
        """The directory above, across the border of an export; NOENT above the root (RFC 8881 §18.14.3)."""
        if directory.export is not None and not self.is_root(directory):
            node, attr = await directory.fs.parent(directory.node)
            return await self.target(directory, node, attr)
        place = directory.node if directory.export is None else self.pseudo.place_of(directory.export)
        assert isinstance(place, PseudoNode)
        if place.parent is None:
            raise Nfs4Error(Stat.NOENT)
        return await self.enter(ctx, place.parent)

    async def parent_or_self(self, ctx: Context, directory: Target) -> Target:
        """What ".." means: the root is its own parent."""
        try:
            return await self.parent(ctx, directory)
        except Nfs4Error:
            return directory

    async def attr(self, ctx: Context, target: Target) -> Attr:
        """The attributes of `target` as they are now, also when it is open and has no name any more."""
        return await ctx.server.files.attr_of_open(target.raw) or await target.fs.getattr(target.node)

    def is_root(self, target: Target) -> bool:
        """Whether an export begins here."""
        return target.export is not None and target.node == target.export.file_system.root

    def mounted_on(self, target: Target) -> int:
        """The fileid of the directory that the root of an export covers, 0 elsewhere (RFC 8881 §5.8.2.23)."""
        return (
            self.pseudo.place_of(target.export).attr.fileid if target.export and self.is_root(target) else 0
        )


async def _has_xattrs(export: Export) -> bool:
    try:
        await export.file_system.listxattr(export.file_system.root)
    except FsError as error:
        if error.status is Status.NOT_SUPPORTED:
            return False
        raise
    return True
