"""The one table from `Status` to the errno that a program behind the mount sees.

A lost server is EHOSTDOWN ("Host is down"), as with the kernel's SMB client: EIO would look like a broken disk,
ENOTCONN is what Linux reports for a mount whose own process died, and that needs a remount; this one does
not. A server that is there but silent is ETIMEDOUT. Neither is retried or reinterpreted by the VFS.
"""

from __future__ import annotations

import errno
from typing import Final

from quicfs.vfs import Status

ERRNO_OF_STATUS: Final[dict[Status, int]] = {
    Status.NOT_FOUND: errno.ENOENT,
    Status.EXISTS: errno.EEXIST,
    Status.NOT_DIR: errno.ENOTDIR,
    Status.IS_DIR: errno.EISDIR,
    Status.NOT_EMPTY: errno.ENOTEMPTY,
    Status.ACCESS: errno.EACCES,
    Status.NOT_PERMITTED: errno.EPERM,
    Status.READ_ONLY: errno.EROFS,
    Status.NO_SPACE: errno.ENOSPC,
    Status.QUOTA: errno.EDQUOT,
    Status.TOO_BIG: errno.EFBIG,
    Status.NAME_TOO_LONG: errno.ENAMETOOLONG,
    Status.BAD_NAME: errno.EINVAL,
    Status.LOOP: errno.ELOOP,
    Status.CROSS_DEVICE: errno.EXDEV,
    Status.TOO_MANY_LINKS: errno.EMLINK,
    Status.INVALID: errno.EINVAL,
    Status.BAD_FILE: errno.EBADF,
    Status.STALE: errno.ESTALE,
    Status.BUSY: errno.EBUSY,
    Status.SHARING: errno.EBUSY,
    Status.LOCKED: errno.EAGAIN,
    Status.NO_DATA: errno.ENODATA,
    Status.RANGE: errno.ERANGE,
    Status.NO_RESOURCES: errno.ENFILE,
    Status.NOT_SUPPORTED: errno.EOPNOTSUPP,
    Status.IO: errno.EIO,
    Status.TIMEOUT: errno.ETIMEDOUT,
    Status.DISCONNECTED: errno.EHOSTDOWN,
}
