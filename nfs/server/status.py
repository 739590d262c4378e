"""The one table from the contract's outcomes to those of NFSv4 (RFC 8881 §15.1)."""

from __future__ import annotations

from typing import Final

from quicfs.nfs.v4.const import Stat
from quicfs.vfs.status import Status

__all__ = ["STATUS"]

STATUS: Final[dict[Status, Stat]] = {
    Status.NOT_FOUND: Stat.NOENT,
    Status.EXISTS: Stat.EXIST,
    Status.NOT_DIR: Stat.NOTDIR,
    Status.IS_DIR: Stat.ISDIR,
    Status.NOT_EMPTY: Stat.NOTEMPTY,
    Status.ACCESS: Stat.ACCESS,
    Status.NOT_PERMITTED: Stat.PERM,
    Status.READ_ONLY: Stat.ROFS,
    Status.NO_SPACE: Stat.NOSPC,
    Status.QUOTA: Stat.DQUOT,
    Status.TOO_BIG: Stat.FBIG,
    Status.NAME_TOO_LONG: Stat.NAMETOOLONG,
    Status.BAD_NAME: Stat.BADNAME,
    Status.LOOP: Stat.SYMLINK,  # links are not followed: it is the object itself
    Status.CROSS_DEVICE: Stat.XDEV,
    Status.TOO_MANY_LINKS: Stat.MLINK,
    Status.INVALID: Stat.INVAL,
    Status.BAD_FILE: Stat.OPENMODE,
    Status.STALE: Stat.STALE,
    Status.BUSY: Stat.FILE_OPEN,
    Status.SHARING: Stat.SHARE_DENIED,
    Status.LOCKED: Stat.LOCKED,
    Status.NO_DATA: Stat.NXIO,
    Status.RANGE: Stat.INVAL,
    Status.NO_RESOURCES: Stat.DELAY,
    Status.NOT_SUPPORTED: Stat.NOTSUPP,
    Status.IO: Stat.IO,
    # What stands behind an export may itself be far away: the client asks again.
    Status.TIMEOUT: Stat.DELAY,
    Status.DISCONNECTED: Stat.DELAY,
}
