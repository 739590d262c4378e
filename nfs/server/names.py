"""Names of directory entries as clients send them (RFC 8881 §14.4, §14.5)."""

from __future__ import annotations

import os

from quicfs.nfs.v4.const import Nfs4Error, Stat
from quicfs.vfs.names import NAME_MAX

__all__ = ["component"]


def component(name: str) -> str:
    """A name that a directory may have. INVAL, BADNAME, BADCHAR, NAMETOOLONG.

    Names that are not UTF-8 pass, as the attribute fs_charset_cap says: there are such files.
    """
    if not name:
        raise Nfs4Error(Stat.INVAL)
    if name in (".", ".."):
        raise Nfs4Error(Stat.BADNAME)
    if "/" in name or "\0" in name:
        raise Nfs4Error(Stat.BADCHAR)
    if len(name) > NAME_MAX // 4 and len(os.fsencode(name)) > NAME_MAX:
        raise Nfs4Error(Stat.NAMETOOLONG)
    return name
