"""NFSv3's READDIR and READDIRPLUS (RFC 1813 §3.3.16, §3.3.17)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from quicfs.nfs.limits import MAX_LISTING
from quicfs.nfs.server.pseudo import PseudoNode
from quicfs.nfs.server.v3_call import Handler, Nfs3Error, Work, need_directory
from quicfs.nfs.v3.nfs3 import (
    READDIR_OVERHEAD,
    Entry,
    EntryPlus,
    ReaddirArgs,
    ReaddirOk,
    ReaddirplusArgs,
    ReaddirplusOk,
)
from quicfs.nfs.v3.types import Stat
from quicfs.nfs.xdr import PackedChain
from quicfs.vfs.api import DirEntry, FsError, Status

if TYPE_CHECKING:
    from quicfs.nfs.server.context import Target

__all__ = ["HANDLERS"]

_DOT: Final = 1  # cookies of "." and "..": those of the tree are far away
_DOTDOT: Final = 2
_COOKIE_MAX: Final = (1 << 63) - 1
_ENTRY_SIZE: Final = 40  # of a typical entry, to ask the file system for about as many as fit
_ENTRY_PLUS_SIZE: Final = 200
_PAGE_MAX: Final = 4096


async def _begin(work: Work, args: ReaddirArgs | ReaddirplusArgs) -> tuple[Target, bytes]:
    """The directory and the verifier that its cookies go with."""
    directory = await work.target(args.dir)
    need_directory(directory)
    verifier = (await work.ctx.server.tree.facts(directory.export)).cookie_verifier
    if args.cookie > _COOKIE_MAX or (args.cookie and args.cookieverf != verifier):
        raise Nfs3Error(Stat.BAD_COOKIE)
    return directory, verifier


async def _dots(work: Work, directory: Target, cookie: int) -> list[tuple[str, Target, int]]:
    """ "." and ".." after `cookie`."""
    found: list[tuple[str, Target, int]] = []
    if cookie < _DOT:
        found.append((".", directory, _DOT))
    if cookie < _DOTDOT:
        found.append(("..", await work.ctx.server.tree.parent_or_self(work.ctx, directory), _DOTDOT))
    return found


async def readdir(work: Work, args: ReaddirArgs) -> ReaddirOk:
    directory, verifier = await _begin(work, args)
    room = min(args.count, MAX_LISTING) - READDIR_OVERHEAD
    chain = PackedChain(room)
    eof = await _names(work, directory, args.cookie, chain, room)
    if not chain.count and not eof:
        raise Nfs3Error(Stat.TOOSMALL)
    return ReaddirOk(await work.post(), verifier, chain, eof)


async def _names(work: Work, directory: Target, cookie: int, chain: PackedChain, room: int) -> bool:
    for name, target, number in await _dots(work, directory, cookie):
        assert target.attr is not None
        if not chain.append(Entry(target.attr.fileid, name, number)):
            return False
    cookie = cookie if cookie > _DOTDOT else 0
    count = max(min(room // _ENTRY_SIZE, _PAGE_MAX), 8)
    while True:
        page = await directory.fs.readdir(directory.node, cookie, count)
        for entry in page.entries:
            cookie = entry.cookie
            if not chain.append(Entry(entry.attr.fileid, entry.name, cookie)):
                return False
        if page.eof:
            return True


async def readdirplus(work: Work, args: ReaddirplusArgs) -> ReaddirplusOk:
    """`dircount`, the bytes of names and cookies alone, is a hint that `maxcount` says better."""
    directory, verifier = await _begin(work, args)
    room = min(args.maxcount, MAX_LISTING) - READDIR_OVERHEAD
    chain = PackedChain(room)
    eof = await _entries(work, directory, args.cookie, chain, room)
    if not chain.count and not eof:
        raise Nfs3Error(Stat.TOOSMALL)
    return ReaddirplusOk(await work.post(), verifier, chain, eof)


async def _entries(work: Work, directory: Target, cookie: int, chain: PackedChain, room: int) -> bool:
    for name, target, number in await _dots(work, directory, cookie):
        assert target.attr is not None
        attributes = work.fattr(target, target.attr)
        if not chain.append(EntryPlus(attributes.fileid, name, number, attributes, target.raw)):
            return False
    cookie = cookie if cookie > _DOTDOT else 0
    count = max(min(room // _ENTRY_PLUS_SIZE, _PAGE_MAX), 8)
    while True:
        page = await directory.fs.readdir(directory.node, cookie, count)
        for entry in page.entries:
            cookie = entry.cookie
            element = await _plus(work, directory, entry)
            if element is not None and not chain.append(element):
                return False
        if page.eof:
            return True


async def _plus(work: Work, directory: Target, entry: DirEntry) -> EntryPlus | None:
    """None for an entry that is gone. What cannot be told of one is left out (§3.3.17)."""
    tree = work.ctx.server.tree
    try:
        node = await directory.fs.entry_node(directory.node, entry)
        if isinstance(node, PseudoNode):
            target = await tree.enter(work.ctx, node)
        else:
            target = await tree.target(directory, node, entry.attr)
    except FsError as error:
        if error.status is Status.NOT_FOUND:
            return None
        return EntryPlus(entry.attr.fileid, entry.name, entry.cookie, None, None)
    attributes = await work.post_of(target)
    return EntryPlus(entry.attr.fileid, entry.name, entry.cookie, attributes, target.raw)


HANDLERS: Final[dict[int, Handler]] = {16: readdir, 17: readdirplus}
