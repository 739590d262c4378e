"""The one table from errno to `Status`."""

from __future__ import annotations

import errno
from typing import Final

from quicfs.vfs.status import FsError, Status

STATUS_OF_ERRNO: Final[dict[int, Status]] = {
    errno.ENOENT: Status.NOT_FOUND,
    errno.EEXIST: Status.EXISTS,
    errno.ENOTDIR: Status.NOT_DIR,
    errno.EISDIR: Status.IS_DIR,
    errno.ENOTEMPTY: Status.NOT_EMPTY,
    errno.EACCES: Status.ACCESS,
    errno.EPERM: Status.NOT_PERMITTED,
    errno.EROFS: Status.READ_ONLY,
    errno.ENOSPC: Status.NO_SPACE,
    errno.EDQUOT: Status.QUOTA,
    errno.EFBIG: Status.TOO_BIG,
    errno.EOVERFLOW: Status.TOO_BIG,
    errno.ENAMETOOLONG: Status.NAME_TOO_LONG,
    errno.EILSEQ: Status.BAD_NAME,
    errno.ELOOP: Status.LOOP,
    errno.EXDEV: Status.CROSS_DEVICE,
    errno.EMLINK: Status.TOO_MANY_LINKS,
    errno.EINVAL: Status.INVALID,
    errno.EBADF: Status.BAD_FILE,
    errno.ESTALE: Status.STALE,
    errno.EBUSY: Status.BUSY,
    errno.ETXTBSY: Status.BUSY,
    errno.EAGAIN: Status.BUSY,
    errno.ENOLCK: Status.NO_RESOURCES,
    errno.EDEADLK: Status.LOCKED,
    errno.ENODATA: Status.NO_DATA,
    errno.ENXIO: Status.NO_DATA,  # lseek(SEEK_DATA) past the last data
    errno.ERANGE: Status.RANGE,
    errno.E2BIG: Status.RANGE,
    errno.EMFILE: Status.NO_RESOURCES,
    errno.ENFILE: Status.NO_RESOURCES,
    errno.ENOMEM: Status.NO_RESOURCES,
    errno.EOPNOTSUPP: Status.NOT_SUPPORTED,
    errno.ENOSYS: Status.NOT_SUPPORTED,
    errno.ENOTTY: Status.NOT_SUPPORTED,
    errno.EIO: Status.IO,
    errno.ETIMEDOUT: Status.TIMEOUT,
    errno.ENOTCONN: Status.DISCONNECTED,
}


def fs_error(error: OSError, detail: str = "") -> FsError:
    """The contract's error for a failed system call; whatever the table lacks is IO."""
    return FsError(STATUS_OF_ERRNO.get(error.errno or 0, Status.IO), detail)
