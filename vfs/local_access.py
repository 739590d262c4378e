"""access(2) for whoever the calling thread is now, by descriptor."""

from __future__ import annotations

import errno
import os
from typing import Final

from quicfs.vfs import syscalls
from quicfs.vfs.api import Access

_MODES: Final = {Access.READ: os.R_OK, Access.WRITE: os.W_OK, Access.EXECUTE: os.X_OK}
_NO: Final = frozenset((errno.EACCES, errno.EPERM, errno.EROFS, errno.ETXTBSY))


_QUESTIONS: Final = {
    wanted.value: tuple((bit, mode) for bit, mode in _MODES.items() if bit in wanted)
    for wanted in map(Access, range(1 << len(_MODES)))
}
"""What each set is made of. (Arithmetic with flags costs more than the system call.)"""


def allowed(fd: int, wanted: Access) -> Access:
    """Those of `wanted` that the kernel would allow; `fd` may be an O_PATH descriptor. OSError."""
    questions = _QUESTIONS[wanted.value]
    together = 0
    for _, mode in questions:
        together |= mode
    if not together or _may(fd, together):
        return wanted
    found = Access.NONE
    if len(questions) > 1:
        for bit, mode in questions:
            if _may(fd, mode):
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
