"""System calls that Python's `os` does not offer, through ctypes. Each raises OSError."""

from __future__ import annotations

import ctypes
import fcntl
import os
import struct
from typing import Final

_libc = ctypes.CDLL(None, use_errno=True)

AT_FDCWD: Final = -100
AT_SYMLINK_NOFOLLOW: Final = 0x100
AT_NO_AUTOMOUNT: Final = 0x800
AT_EMPTY_PATH: Final = 0x1000
AT_EACCESS: Final = 0x200
RENAME_NOREPLACE: Final = 1
FALLOC_FL_KEEP_SIZE: Final = 1
FALLOC_FL_PUNCH_HOLE: Final = 2
UTIME_NOW: Final = (1 << 30) - 1
UTIME_OMIT: Final = (1 << 30) - 2

_SYS_FACCESSAT2: Final = 439
_SYS_OPENAT2: Final = 437  # the same number on every architecture
# _IOW(0x94, 13, struct file_clone_range); three architectures have the direction bits elsewhere
_FICLONERANGE: Final = 0x8020940D if os.uname().machine.startswith(("ppc", "mips", "sparc")) else 0x4020940D
_CLONE_RANGE: Final = struct.Struct("=qQQQ")  # struct file_clone_range
_OPEN_HOW: Final = struct.Struct("=QQQ")  # struct open_how: flags, mode, resolve

_syscall = _libc.syscall
_syscall.restype = ctypes.c_long
_syscall.argtypes = (ctypes.c_long, ctypes.c_long, ctypes.c_char_p, ctypes.c_char_p, ctypes.c_size_t)

_faccessat2 = ctypes.CFUNCTYPE(
    ctypes.c_long, ctypes.c_long, ctypes.c_long, ctypes.c_char_p, ctypes.c_long, ctypes.c_long, use_errno=True
)(("syscall", _libc))

_statx = _libc.statx
_statx.restype = ctypes.c_int
_statx.argtypes = (ctypes.c_int, ctypes.c_char_p, ctypes.c_int, ctypes.c_uint, ctypes.c_void_p)

_renameat2 = _libc.renameat2
_renameat2.restype = ctypes.c_int
_renameat2.argtypes = (ctypes.c_int, ctypes.c_char_p, ctypes.c_int, ctypes.c_char_p, ctypes.c_uint)

_fallocate = _libc.fallocate
_fallocate.restype = ctypes.c_int
_fallocate.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64)

_utimensat = _libc.utimensat
_utimensat.restype = ctypes.c_int
_utimensat.argtypes = (ctypes.c_int, ctypes.c_char_p, ctypes.c_char_p, ctypes.c_int)
_TIMESPECS: Final = struct.Struct("@llll")

_fchownat = _libc.fchownat
_fchownat.restype = ctypes.c_int
_fchownat.argtypes = (ctypes.c_int, ctypes.c_char_p, ctypes.c_uint, ctypes.c_uint, ctypes.c_int)

_inotify_add_watch = _libc.inotify_add_watch
_inotify_add_watch.restype = ctypes.c_int
_inotify_add_watch.argtypes = (ctypes.c_int, ctypes.c_char_p, ctypes.c_uint32)


def last_error() -> OSError:
    """The error that the last call of this thread left."""
    number = ctypes.get_errno()
    return OSError(number, os.strerror(number))


def openat2(dir_fd: int, path: bytes, flags: int, mode: int, resolve: int) -> int:
    """openat2(2); returns a descriptor."""
    fd: int = _syscall(_SYS_OPENAT2, dir_fd, path, _OPEN_HOW.pack(flags, mode, resolve), _OPEN_HOW.size)
    if fd < 0:
        raise last_error()
    return fd


def faccess(fd: int, mode: int) -> None:
    """faccessat2(2) for the effective IDs of this thread on what `fd` names (O_PATH too)."""
    if _faccessat2(_SYS_FACCESSAT2, fd, b"", mode, AT_EACCESS | AT_EMPTY_PATH):
        raise last_error()


def clone_range(target_fd: int, source_fd: int, offset: int, length: int, target_offset: int) -> None:
    """ioctl_ficlonerange(2)."""
    fcntl.ioctl(target_fd, _FICLONERANGE, _CLONE_RANGE.pack(source_fd, offset, length, target_offset))


def statx(dir_fd: int, path: bytes, flags: int, mask: int, address: int) -> None:
    """statx(2) into the 256 bytes at `address`."""
    if _statx(dir_fd, path, flags, mask, address):
        raise last_error()


def rename_noreplace(src_fd: int, src: bytes, dst_fd: int, dst: bytes) -> None:
    """renameat2(2) with RENAME_NOREPLACE."""
    if _renameat2(src_fd, src, dst_fd, dst, RENAME_NOREPLACE):
        raise last_error()


def fallocate(fd: int, mode: int, offset: int, length: int) -> None:
    """fallocate(2)."""
    if _fallocate(fd, mode, offset, length):
        raise last_error()


def utimens(fd: int, atime: tuple[int, int], mtime: tuple[int, int]) -> None:
    """utimensat(2) on what `fd` names (O_PATH too); each time is (seconds, nanoseconds or UTIME_*)."""
    if _utimensat(fd, b"", _TIMESPECS.pack(*atime, *mtime), AT_EMPTY_PATH):
        raise last_error()


def chown(fd: int, uid: int, gid: int) -> None:
    """fchownat(2) on what `fd` names (O_PATH too); 0xffffffff leaves one as it is."""
    if _fchownat(fd, b"", uid, gid, AT_EMPTY_PATH):
        raise last_error()


def inotify_init() -> int:
    """inotify_init1(2), non-blocking."""
    fd: int = _libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
    if fd < 0:
        raise last_error()
    return fd


def inotify_add_watch(fd: int, path: bytes, mask: int) -> int:
    """inotify_add_watch(2); returns the watch descriptor."""
    watch: int = _inotify_add_watch(fd, path, mask)
    if watch < 0:
        raise last_error()
    return watch


def inotify_rm_watch(fd: int, watch: int) -> None:
    """inotify_rm_watch(2)."""
    if _libc.inotify_rm_watch(fd, watch):
        raise last_error()


_STATFS_SIZE: Final = 256  # larger than struct statfs anywhere


def statfs_type(fd: int) -> int:
    """f_type of fstatfs(2)."""
    buffer = ctypes.create_string_buffer(_STATFS_SIZE)
    if _libc.fstatfs(fd, buffer):
        raise last_error()
    return ctypes.c_ulong.from_buffer(buffer).value & 0xFFFFFFFF


def syncfs(fd: int) -> None:
    """syncfs(2): everything of the file system that `fd` is on."""
    if _libc.syncfs(fd):
        raise last_error()
