"""The only way in which a path of more than one component is resolved: beneath an open directory.

openat2(2) with RESOLVE_BENEATH refuses every step out of the tree, whether by "..", by an absolute symbolic
link or by a race with somebody who swaps directories; RESOLVE_NO_MAGICLINKS refuses /proc's links.
"""

from __future__ import annotations

import errno
import os
from typing import Final

from quicfs.vfs import syscalls
from quicfs.vfs.errno_table import fs_error
from quicfs.vfs.status import FsError, Status

_RESOLVE_NO_MAGICLINKS: Final = 0x02
_RESOLVE_BENEATH: Final = 0x08
_RESOLVE: Final = _RESOLVE_BENEATH | _RESOLVE_NO_MAGICLINKS

RACE_RETRIES: Final = 32
"""How often a resolution is repeated that raced with a rename somewhere in the system (EAGAIN)."""

_O_PATH_DIR: Final = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC


def open_beneath(dir_fd: int, path: bytes, flags: int, mode: int = 0) -> int:
    """A descriptor for `path` below `dir_fd`. OSError; a step out of the tree is FsError(ACCESS)."""
    for _ in range(RACE_RETRIES):
        try:
            return syscalls.openat2(dir_fd, path, flags | os.O_CLOEXEC, mode, _RESOLVE)
        except OSError as error:
            if error.errno == errno.EXDEV:
                raise FsError(Status.ACCESS, f"{os.fsdecode(path)} leads out of the tree") from None
            if error.errno not in (errno.EAGAIN, errno.EINTR):
                raise
    raise FsError(Status.BUSY, os.fsdecode(path))


def open_root(path: str) -> int:
    """An O_PATH descriptor of the directory that becomes a tree's root; proves that openat2 works here."""
    try:
        root_fd = os.open(path, _O_PATH_DIR)
    except OSError as error:
        raise fs_error(error, path) from None
    except ValueError:
        raise FsError(Status.INVALID, ascii(path)) from None
    try:
        os.close(open_beneath(root_fd, b".", _O_PATH_DIR))
        os.stat(f"/proc/self/fd/{root_fd}")
    except OSError as error:
        os.close(root_fd)
        if error.errno in (errno.ENOSYS, errno.EPERM):
            raise FsError(
                Status.NOT_SUPPORTED,
                f"serving {path} needs openat2: Linux 5.6 or later, "
                "and no container or RestrictSUIDSGID= of systemd that forbids it",
            ) from None
        if error.errno == errno.ENOENT:
            raise FsError(Status.NOT_SUPPORTED, f"serving {path} needs /proc to be mounted") from None
        raise fs_error(error, path) from None
    return root_fd
