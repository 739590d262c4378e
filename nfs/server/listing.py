"""READDIR (RFC 8881 §18.23)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from quicfs.nfs.limits import MAX_LISTING
from quicfs.nfs.server import fattr
from quicfs.nfs.server.access import need_directory
from quicfs.nfs.server.attributes import packed
from quicfs.nfs.server.pseudo import PseudoNode
from quicfs.nfs.server.status import STATUS
from quicfs.nfs.v4.attributes import Attribute, PackedFattr
from quicfs.nfs.v4.const import Nfs4Error, Op, Stat
from quicfs.nfs.v4.operations_directories import PackedEntries, ReaddirArgs, ReaddirResok
from quicfs.vfs.api import DirEntry, FsError, StatFs, Status

if TYPE_CHECKING:
    from quicfs.nfs.server.context import Context, Handler, Target

__all__ = ["HANDLERS"]

_ENTRY_SIZE: Final = 48
"""Of a typical entry without its attributes, to ask the file system for about as many as fit."""

_RDATTR_ERROR: Final = 1 << Attribute.RDATTR_ERROR
_FILEHANDLE: Final = 1 << Attribute.FILEHANDLE
_MORE: Final = fattr.STATFS | _FILEHANDLE
_COOKIE_AND_LENGTH: Final = 12
_OF_STATUS: Final = 8  # operation and status before the result
_RESERVED_COOKIES: Final = (1, 2)  # §18.23.3
_PAGE_MAX: Final = 4096


async def readdir(ctx: Context, args: ReaddirArgs) -> ReaddirResok:
    directory = ctx.need_current()
    await need_directory(directory)
    mask = args.attr_request
    if mask & fattr.WRITE_ONLY:
        raise Nfs4Error(Stat.INVAL)
    facts = await ctx.server.tree.facts(directory.export)
    if args.cookie in _RESERVED_COOKIES or args.cookie >> 63:
        raise Nfs4Error(Stat.BAD_COOKIE)
    if args.cookie and args.cookieverf != facts.cookie_verifier:
        raise Nfs4Error(Stat.NOT_SAME)
    room = min(args.maxcount, ctx.room - _OF_STATUS, MAX_LISTING)
    if room < PackedEntries.OVERHEAD:
        raise Nfs4Error(Stat.TOOSMALL)
    wanted = _Wanted(ctx, directory, mask & fattr.READABLE, facts)
    entries = PackedEntries(room)
    eof = await _fill(entries, wanted, args.cookie, room, args.dircount or room)
    if not entries.count and not eof:
        raise Nfs4Error(Stat.TOOSMALL)  # §18.23.3: not one entry fits
    return ReaddirResok(facts.cookie_verifier, entries, eof)


async def _fill(entries: PackedEntries, wanted: _Wanted, cookie: int, room: int, dircount: int) -> bool:
    """Adds what comes after `cookie`, as much as fits; whether the directory ended."""
    fs, node = wanted.directory.fs, wanted.directory.node
    while True:
        count = max(min(room // wanted.typical_size, _PAGE_MAX), 8)
        page = await fs.readdir(node, cookie, count)
        for entry in page.entries:
            cookie = entry.cookie
            attributes = await wanted.of(entry)
            if attributes is None:
                continue
            # §18.23.3: dircount is a hint, for names and cookies only; one entry comes in any case.
            dircount -= _COOKIE_AND_LENGTH + len(entry.name)
            if (dircount < 0 and entries.count) or not entries.add(cookie, entry.name, attributes):
                return False
        if page.eof:
            return True


class _Wanted:
    """The attributes of the entries of one directory."""

    def __init__(self, ctx: Context, directory: Target, mask: int, facts: fattr.Facts) -> None:
        self.directory: Final = directory
        self.typical_size: Final = _ENTRY_SIZE + 8 * mask.bit_count()
        self._ctx = ctx
        self._mask = mask
        self._facts = facts
        self._statfs: StatFs | None = None
        self._encode = fattr.encoder(mask)

    async def of(self, entry: DirEntry) -> PackedFattr | None:
        """None for an entry that is gone."""
        directory = self.directory
        if directory.export is None:
            return await self._across(entry)
        if not self._mask & _MORE:
            return self._encode(entry.attr, self._facts, b"", 0, None)
        raw = b""
        try:
            if self._mask & fattr.STATFS and self._statfs is None:
                self._statfs = await directory.fs.statfs()
            if self._mask & _FILEHANDLE:
                node = await directory.fs.entry_node(directory.node, entry)
                raw = await self._ctx.server.handles.raw(directory.export, node)
        except FsError as error:
            return None if error.status is Status.NOT_FOUND else self._failed(STATUS[error.status])
        return self._encode(entry.attr, self._facts, raw, 0, self._statfs)

    async def _across(self, entry: DirEntry) -> PackedFattr:
        """An entry of the pseudo file system, where an export may begin: its root shows (§7.3)."""
        node, _ = await self.directory.fs.lookup(self.directory.node, entry.name)
        assert isinstance(node, PseudoNode)
        try:
            return await packed(self._ctx, await self._ctx.server.tree.enter(self._ctx, node), self._mask)
        except FsError as error:
            return self._failed(STATUS[error.status])

    def _failed(self, status: Stat) -> PackedFattr:
        """§18.23.3: one entry's failure is told in its rdattr_error, or fails the whole."""
        if not self._mask & _RDATTR_ERROR:
            raise Nfs4Error(status)
        return PackedFattr.of({Attribute.RDATTR_ERROR: status})


HANDLERS: Final[dict[Op, Handler]] = {Op.READDIR: readdir}
