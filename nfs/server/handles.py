"""File handles: what clients keep to name an object, also across a restart of the server.

    1 byte   kind: of the pseudo file system, persistent, volatile
    7 bytes  the export (`Export.id`), zeros for the pseudo file system
    0-40     what the file system calls the object; for volatile ones this run of the server and a number
    16       a MAC (keyed BLAKE2b) over all that

At most 64 bytes, as NFSv3 allows. Nothing that a client made up gets past the MAC (BADHANDLE); what got past it may
name an object that is gone (STALE), or a volatile handle that we have forgotten (FHEXPIRED).
"""

from __future__ import annotations

import enum
import logging
import secrets
import struct
from collections import OrderedDict
from hashlib import blake2b
from hmac import compare_digest
from pathlib import Path
from typing import TYPE_CHECKING, Final

from quicfs.nfs.limits import MAX_VOLATILE_HANDLES
from quicfs.nfs.server.context import Target
from quicfs.nfs.server.exports import EXPORT_ID_SIZE, Export
from quicfs.nfs.server.pseudo import PseudoTree
from quicfs.nfs.v4.const import Nfs4Error, Stat
from quicfs.transport.kept_secret import SECRET_SIZE, kept_secret
from quicfs.vfs.api import HANDLE_MAX, Attr, FileSystem, FsError, Node, Status

if TYPE_CHECKING:
    from quicfs.nfs.server.context import Context

__all__ = ["RAW_MAX", "HandleTable", "handle_key"]

_MAC_SIZE: Final = 16
_HEADER_SIZE: Final = 1 + EXPORT_ID_SIZE
RAW_MAX: Final = _HEADER_SIZE + HANDLE_MAX + _MAC_SIZE
"""The longest handle that is ever given out."""

_NO_EXPORT: Final = bytes(EXPORT_ID_SIZE)
_VOLATILE: Final = struct.Struct(">8sQ")  # this run of the server, number
_log = logging.getLogger("quicfs.nfs")


class _Kind(enum.IntEnum):
    PSEUDO = 1
    PERSISTENT = 2
    VOLATILE = 3


def handle_key(directory: Path | None) -> bytes:
    """The key of the MACs: what is kept in handles.key of the state directory, which is made when it is missing.

    Where nothing can be kept it is good for this run only, and a line in the log says so."""
    if directory is None:
        return secrets.token_bytes(SECRET_SIZE)
    path = directory / "handles.key"
    try:
        return kept_secret(path)
    except OSError as error:
        _log.warning("file handles will not survive a restart: %s: %s", path, error.strerror)
        return secrets.token_bytes(SECRET_SIZE)


class HandleTable:
    """Makes handles and finds what they name. `run` tells this run of the server from others."""

    def __init__(self, tree: PseudoTree, key: bytes, run: bytes) -> None:
        self._tree = tree
        self._key = key
        self._run = run.ljust(8, b"\0")[:8]
        self._volatile: OrderedDict[int, tuple[Export, Node]] = OrderedDict()
        self._numbers: dict[tuple[Export, Node], int] = {}
        self._last_number = 0
        self._persistent: dict[Export, bool] = {}

    async def raw(self, export: Export | None, node: Node) -> bytes:
        """The handle of `node` (of the pseudo file system without `export`)."""
        if export is None:
            return self._sealed(_Kind.PSEUDO, _NO_EXPORT, await self._tree.handle(node))
        if await self.is_persistent(export):
            try:
                return self._sealed(_Kind.PERSISTENT, export.id, await export.file_system.handle(node))
            except FsError as error:
                if error.status is not Status.NOT_SUPPORTED:
                    raise  # a corner of the tree may be another file system, without handles
        return self._sealed(_Kind.VOLATILE, export.id, _VOLATILE.pack(self._run, self._number(export, node)))

    async def target(self, raw: bytes, ctx: Context) -> Target:
        """What `raw` names, with the rights of the caller. BADHANDLE, STALE, FHEXPIRED.

        The attributes are fresh, or are not there for a file that is open: that is found without asking for them, also
        when it has no name any more (OPEN4_RESULT_PRESERVE_UNLINKED).
        """
        file = ctx.server.files.get(raw)
        held = file.some_held() if file is not None else None
        if held is not None:
            export = self._tree.export_of(raw[1:_HEADER_SIZE])  # what is open here is no forgery
            assert export is not None
            return Target(raw, export, ctx.view(export), held.file.node)
        kind, export, body = self._opened(raw)
        fs: FileSystem = self._tree if export is None else ctx.view(export)
        try:
            node, attr = await self._find(kind, fs, body)
        except FsError as error:
            if error.status in (Status.NOT_FOUND, Status.INVALID):
                raise Nfs4Error(Stat.STALE) from None
            raise
        return Target(raw, export, fs, node, attr)

    async def is_persistent(self, export: Export) -> bool:
        """Whether handles hold as long as the objects, at least where `export` begins; if not, they are volatile."""
        answer = self._persistent.get(export)
        if answer is None:
            try:
                await export.file_system.handle(export.file_system.root)
                answer = True
            except FsError as error:
                if error.status is not Status.NOT_SUPPORTED:
                    raise
                answer = False
            self._persistent[export] = answer
        return answer

    # Bytes

    def _sealed(self, kind: _Kind, export_id: bytes, body: bytes) -> bytes:
        assert len(body) <= HANDLE_MAX
        plain = bytes((kind,)) + export_id + body
        return plain + blake2b(plain, key=self._key, digest_size=_MAC_SIZE).digest()

    def _opened(self, raw: bytes) -> tuple[_Kind, Export | None, bytes]:
        """Kind, export and body of a handle that we made; BADHANDLE, and STALE for an export that is gone."""
        if not _HEADER_SIZE + _MAC_SIZE <= len(raw) <= RAW_MAX:
            raise Nfs4Error(Stat.BADHANDLE)
        plain, mac = raw[:-_MAC_SIZE], raw[-_MAC_SIZE:]
        if not compare_digest(mac, blake2b(plain, key=self._key, digest_size=_MAC_SIZE).digest()):
            raise Nfs4Error(Stat.BADHANDLE)
        kind = _Kind(plain[0])
        if kind is _Kind.PSEUDO:
            return kind, None, plain[_HEADER_SIZE:]
        export = self._tree.export_of(plain[1:_HEADER_SIZE])
        if export is None:
            raise Nfs4Error(Stat.STALE)
        return kind, export, plain[_HEADER_SIZE:]

    async def _find(self, kind: _Kind, fs: FileSystem, body: bytes) -> tuple[Node, Attr]:
        if kind is not _Kind.VOLATILE:
            return await fs.from_handle(body)
        run, number = _VOLATILE.unpack(body)
        place = self._volatile.get(number) if run == self._run else None
        if place is None:
            raise Nfs4Error(Stat.FHEXPIRED)
        self._volatile.move_to_end(number)
        return place[1], await fs.getattr(place[1])

    def _number(self, export: Export, node: Node) -> int:
        """By which the volatile handle of `node` names it; a new one pushes out the one longest unused."""
        place = export, node
        number = self._numbers.get(place)
        if number is None:
            number = self._last_number = self._last_number + 1
            self._numbers[place] = number
            self._volatile[number] = place
            if len(self._volatile) > MAX_VOLATILE_HANDLES:
                del self._numbers[self._volatile.popitem(last=False)[1]]
        return number
