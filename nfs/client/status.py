"""What a status of the server means in the contract: the client's one table."""

from __future__ import annotations

from typing import Final

from quicfs.nfs.v4.const import Nfs4Error, Stat
from quicfs.vfs.status import FsError, Status

__all__ = ["LOST_STATE", "fs_error", "status_of"]

_STATUS: Final[dict[Stat, Status]] = {
    Stat.PERM: Status.NOT_PERMITTED,
    Stat.NOENT: Status.NOT_FOUND,
    Stat.NXIO: Status.NO_DATA,  # SEEK beyond the last data (RFC 7862 §15.11)
    Stat.ACCESS: Status.ACCESS,
    Stat.EXIST: Status.EXISTS,
    Stat.XDEV: Status.CROSS_DEVICE,
    Stat.NOTDIR: Status.NOT_DIR,
    Stat.ISDIR: Status.IS_DIR,
    Stat.INVAL: Status.INVALID,
    Stat.FBIG: Status.TOO_BIG,
    Stat.NOSPC: Status.NO_SPACE,
    Stat.ROFS: Status.READ_ONLY,
    Stat.MLINK: Status.TOO_MANY_LINKS,
    Stat.NAMETOOLONG: Status.NAME_TOO_LONG,
    Stat.NOTEMPTY: Status.NOT_EMPTY,
    Stat.DQUOT: Status.QUOTA,
    Stat.STALE: Status.STALE,
    Stat.BADHANDLE: Status.STALE,
    Stat.FHEXPIRED: Status.STALE,
    Stat.NOTSUPP: Status.NOT_SUPPORTED,
    Stat.ATTRNOTSUPP: Status.NOT_SUPPORTED,
    Stat.UNION_NOTSUPP: Status.NOT_SUPPORTED,
    Stat.LOCK_NOTSUPP: Status.NOT_SUPPORTED,
    Stat.BADTYPE: Status.NOT_SUPPORTED,
    Stat.MINOR_VERS_MISMATCH: Status.NOT_SUPPORTED,
    Stat.OP_ILLEGAL: Status.NOT_SUPPORTED,
    Stat.PARTNER_NOTSUPP: Status.NOT_SUPPORTED,
    Stat.DELAY: Status.TIMEOUT,  # it was tried for as long as a call may take
    Stat.GRACE: Status.TIMEOUT,
    Stat.DENIED: Status.LOCKED,
    Stat.LOCKED: Status.LOCKED,
    Stat.DEADLOCK: Status.BUSY,
    Stat.SHARE_DENIED: Status.SHARING,
    Stat.FILE_OPEN: Status.BUSY,
    Stat.RESOURCE: Status.NO_RESOURCES,
    Stat.WRONGSEC: Status.ACCESS,
    Stat.WRONG_CRED: Status.ACCESS,
    Stat.OPENMODE: Status.BAD_FILE,
    Stat.LOCK_RANGE: Status.RANGE,
    Stat.BAD_RANGE: Status.RANGE,
    Stat.BADOWNER: Status.INVALID,
    Stat.BADCHAR: Status.BAD_NAME,
    Stat.BADNAME: Status.BAD_NAME,
    Stat.SYMLINK: Status.LOOP,
    Stat.WRONG_TYPE: Status.INVALID,
    Stat.NOXATTR: Status.NO_DATA,
    Stat.XATTR2BIG: Status.RANGE,
    Stat.BAD_COOKIE: Status.STALE,
    Stat.NOT_SAME: Status.STALE,
    Stat.MOVED: Status.CROSS_DEVICE,
}

LOST_STATE: Final = frozenset(
    {
        Stat.EXPIRED,
        Stat.STALE_STATEID,
        Stat.BAD_STATEID,
        Stat.OLD_STATEID,
        Stat.ADMIN_REVOKED,
        Stat.DELEG_REVOKED,
    }
)
"""The server does not know, or no longer honours, a stateid that it gave (RFC 8881 §8.4.2.3, §10.2)."""


def status_of(stat: Stat) -> Status:
    return _STATUS.get(stat, Status.IO)


def fs_error(error: Nfs4Error, what: str = "") -> FsError:
    status = status_of(error.status)
    if status is Status.IO and error.status is not Stat.IO:
        return FsError(status, f"{what or error} ({error.status.name})")
    return FsError(status, what or str(error))
