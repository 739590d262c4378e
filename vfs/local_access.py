"""access(2) for whoever the calling thread is now, by descriptor."""

from __future__ import annotations

import errno
import os
from typing import Final

from quicfs.vfs import syscalls
from quicfs.vfs.api import Access

_MODES: Final = {Access.READ: os.R_OK, Access.WRITE: os.W_OK, Access.EXECUTE: os.X_OK}
_NO: Final = frozenset((errno.EACCES, errno.EPERM, errno.EROFS, errno.ETXTBSY))


def allowed(fd: int, wanted: Access) -> Access:
    """Those of `wanted` that the kernel would allow; `fd` may be an O_PATH descriptor. OSError."""
    together = 0
    for bit in wanted:
        together |= _MODES[bit]
    if not together or _may(fd, together):
        return wanted
    found = Access.NONE
    for bit in wanted:
        if together != _MODES[bit] and _may(fd, _MODES[bit]):
            found |= bit
    return found


def _may(fd: int, mode: int) -> bool:
    try:
        syscalls.faccess(fd, mode)
    except OSError as error:
        if error.errno in _NO:
            return False
        raise
    return True
