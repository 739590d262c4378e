"""How OPEN makes a file (createhow4, RFC 8881 §18.16.3).

    UNCHECKED      takes what is there; truncates it when it should have size 0
    GUARDED        fails when the name is taken
    EXCLUSIVE,     fails when the name is taken, unless the file bears the same verifier: then this is the same request
    EXCLUSIVE4_1   again, whose reply was lost, perhaps with the server that gave it

The verifier is kept in the file's times, 31 bits of it in the seconds of each, as Linux does: every file system can
keep them, they last over a restart, they leave nothing behind when the client sets the times afterwards (that these
attributes were used is in the reply), and a file that has been written to no longer passes for new. An extended
attribute would have to be removed one day, by somebody. Neither it nor the name is forced to the disk: after a crash of
the machine a request that comes again finds the file with its verifier, or no file and makes it; what has to last is
what the client COMMITs, and that brings the name along.
"""

from __future__ import annotations

import struct
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from quicfs.nfs.server import fattr
from quicfs.nfs.server.access import need_writable
from quicfs.nfs.server.attributes import settings
from quicfs.nfs.server.files import HeldFile
from quicfs.nfs.v4.attributes import Attribute, bitmap
from quicfs.nfs.v4.const import CreateMode, Nfs4Error, Stat
from quicfs.nfs.v4.operations_open import CreateHow
from quicfs.vfs.api import Attr, FileKind, OpenFlags, SetAttr
from quicfs.vfs.status import FsError

if TYPE_CHECKING:
    from quicfs.nfs.server.context import Context, Target

__all__ = ["Creation"]

_NS: Final = 1_000_000_000
_VERIFIER: Final = struct.Struct(">II")
_VERIFIER_ATTRIBUTES: Final = bitmap((Attribute.TIME_ACCESS_SET, Attribute.TIME_MODIFY_SET))
_UNSETTABLE: Final = 1 << Attribute.TIME_CREATE  # a wish that no file system here fulfils
_EXCLUSIVE: Final = (CreateMode.EXCLUSIVE, CreateMode.EXCLUSIVE4_1)
_FLAGS: Final = OpenFlags.READ | OpenFlags.WRITE | OpenFlags.CREATE | OpenFlags.EXCLUSIVE | OpenFlags.NOFOLLOW
_DEFAULT_MODE: Final = 0o644
_PRIVATE_MODE: Final = (
    0o600  # EXCLUSIVE says nothing of the mode: until the client sets it, nobody else gets in
)


class Creation:
    """A createhow4, checked: ATTRNOTSUPP or INVAL for attributes that a new file cannot have."""

    def __init__(self, ctx: Context, how: CreateHow) -> None:
        self._ctx = ctx
        self._mode = how.mode
        self._mask = bitmap(how.attrs)
        wanted = settings(how.attrs, ctx.server.tree.owners, creating=True)
        self._times: tuple[int, int] | None = None
        if how.mode in _EXCLUSIVE:
            # §18.16.3: the attributes that the verifier is kept in cannot be set by the same request.
            if self._mask & ~fattr.EXCLUSIVE_CREATE:
                raise Nfs4Error(Stat.INVAL)
            first, second = _VERIFIER.unpack(how.verifier)
            self._times = (first & 0x7FFFFFFF) * _NS, (second & 0x7FFFFFFF) * _NS
            wanted = replace(wanted, atime_ns=self._times[0], mtime_ns=self._times[1])
        self._wanted = wanted

    @property
    def exclusive(self) -> bool:
        """Whether a file that is there already is in the way, but for one case."""
        return self._mode is not CreateMode.UNCHECKED

    def check_existing(self, attr: Attr) -> bool:
        """The name is there: whether the file is to be truncated. EXIST, or what is wrong with its kind."""
        if self._mode is CreateMode.GUARDED:
            raise Nfs4Error(Stat.EXIST)
        if self._times is not None:
            same = (attr.atime_ns, attr.mtime_ns) == self._times and attr.size == (self._wanted.size or 0)
            if attr.kind is not FileKind.REGULAR or not same:
                raise Nfs4Error(Stat.EXIST)
            return False
        need_regular(attr)
        return self._wanted.size == 0

    def attrset(self, *, created: bool, truncated: bool = False) -> int:
        """The attributes that were set, as a bitmap."""
        if self._times is not None:
            return (self._mask & ~_UNSETTABLE) | _VERIFIER_ATTRIBUTES
        if created:
            return self._mask & ~_UNSETTABLE
        return 1 << Attribute.SIZE if truncated else 0

    async def make(self, directory: Target, name: str) -> tuple[HeldFile, Target]:
        """The new file. FsError: EXISTS when somebody was faster."""
        need_writable(directory)
        fs, wanted = directory.fs, self._wanted
        mode = wanted.mode
        if mode is None:
            mode = _PRIVATE_MODE if self._mode is CreateMode.EXCLUSIVE else _DEFAULT_MODE
        file, attr, _ = await fs.open(directory.node, name, _FLAGS, mode)
        try:
            rest = replace(wanted, mode=None, btime_ns=None, size=wanted.size or None)
            if rest != _NOTHING:
                attr = await file.setattr(rest)
            target = await self._ctx.server.tree.target(directory, file.node, attr)
        except BaseException:
            await file.close()
            await _unmake(directory, name)
            raise
        return HeldFile(file, readable=True, writable=True), target


_NOTHING: Final = SetAttr()


async def _unmake(directory: Target, name: str) -> None:
    """A file that could not be given the attributes it should have is not left behind (§18.16.4)."""
    try:
        await directory.fs.unlink(directory.node, name)
    except FsError:
        return  # it is gone already, or will be found: the request has failed in either case


def need_regular(attr: Attr) -> None:
    """§18.16.3: only regular files have data."""
    if attr.kind is FileKind.REGULAR:
        return
    if attr.kind is FileKind.DIRECTORY:
        raise Nfs4Error(Stat.ISDIR)
    raise Nfs4Error(Stat.SYMLINK if attr.kind is FileKind.SYMLINK else Stat.WRONG_TYPE)
