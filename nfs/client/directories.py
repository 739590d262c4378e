"""READDIR (RFC 8881 §18.23), with attributes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from quicfs.nfs.client.attributes import ATTR, attr_of
from quicfs.nfs.client.nodes import NfsNode
from quicfs.nfs.client.requests import CHANGE, put
from quicfs.nfs.v4.attributes import Attribute
from quicfs.nfs.v4.const import Op
from quicfs.nfs.v4.operations_directories import ReaddirArgs
from quicfs.vfs.api import DirEntry, DirPage

if TYPE_CHECKING:
    from quicfs.nfs.client.filesystem import NfsFileSystem

__all__ = ["page"]

_ENTRY: Final = 256  # bytes that an entry takes on the wire, rather more than fewer
_NAME: Final = 48  # of these, without attributes (dircount)
_LEAST: Final = 8192
_WANTED: Final = ATTR | 1 << Attribute.RDATTR_ERROR | 1 << Attribute.FILEHANDLE


async def page(fs: NfsFileSystem, directory: NfsNode, cookie: int, limit: int) -> DirPage:
    """One READDIR: as many entries as fit into a reply, at most `limit`."""
    limit = max(1, limit)
    most = min(fs.read_limit, max(_LEAST, limit * _ENTRY))
    verifier = directory.cookieverf if cookie else bytes(8)
    args = ReaddirArgs(cookie, verifier, min(most, limit * _NAME), most, _WANTED)
    values = await fs.run([put(directory), CHANGE, (Op.READDIR, args)], directory.shown)
    result = values[2]
    directory.cookieverf = result.cookieverf
    found = result.entries[:limit]
    entries: list[DirEntry] = []
    for entry in found:
        attributes = entry.attrs
        if Attribute.FILEID not in attributes:
            # §5.8.1.12: only the error of this object; it may be gone in the meantime
            continue
        attr = attr_of(attributes)
        fh = attributes.get(Attribute.FILEHANDLE)
        node = fs.nodes.at(fh, attr.fileid, (directory, entry.name)) if fh else None
        entries.append(DirEntry(entry.name, attr, entry.cookie, node))
    if not entries and found and not result.eof:
        return await page(fs, directory, found[-1].cookie, limit)
    return DirPage(entries, result.eof and len(found) == len(result.entries))
