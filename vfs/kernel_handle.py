"""File handles of the kernel: name_to_handle_at(2) and open_by_handle_at(2).

Such a handle names an inode and its generation on one file system: it survives renames and reboots, and never
comes to mean a later inode with the same number. Opening by handle needs CAP_DAC_READ_SEARCH and may lead
anywhere on that file system; whoever uses it checks where the object is.
"""

from __future__ import annotations

import ctypes
import errno
import os
import struct
from typing import Final

from quicfs.vfs import syscalls

_libc = ctypes.CDLL(None, use_errno=True)
_name_to_handle_at = _libc.name_to_handle_at
_name_to_handle_at.restype = ctypes.c_int
_name_to_handle_at.argtypes = (
    ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p, ctypes.POINTER(ctypes.c_int), ctypes.c_int,
)  # fmt: skip
_open_by_handle_at = _libc.open_by_handle_at
_open_by_handle_at.restype = ctypes.c_int
_open_by_handle_at.argtypes = (ctypes.c_int, ctypes.c_char_p, ctypes.c_int)

_HEAD: Final = struct.Struct("=Ii")  # struct file_handle: handle_bytes, handle_type
_MAX_HANDLE_SZ: Final = 128


class KernelHandles:
    """Handles on the file system of one directory, given as an O_PATH descriptor that stays the caller's."""

    def __init__(self, root_fd: int) -> None:
        self._root_fd = root_fd
        self._mount_fd = -1
        self._device = -1
        self._tried = False

    @property
    def usable(self) -> bool:
        """Whether handles can be made and opened here: the right to do it is there, and the file system can."""
        if not self._tried:
            self._tried = True
            self._try()
        return self._mount_fd >= 0

    def name(self, fd: int) -> bytes | None:
        """One byte of type and the handle of what `fd` names; None on another file system than the root's, or for
        a type that does not fit the byte."""
        if not self.usable or os.fstat(fd).st_dev != self._device:
            return None
        return _name(fd)

    def open(self, handle: bytes) -> int:
        """An O_PATH descriptor. OSError: ESTALE for what is gone or makes no sense."""
        if not self.usable or len(handle) < 2:
            raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))
        raw = _HEAD.pack(len(handle) - 1, handle[0]) + handle[1:]
        fd = _open_by_handle_at(self._mount_fd, raw, os.O_PATH | os.O_CLOEXEC)
        if fd < 0:
            raise syscalls.last_error()
        return int(fd)

    def close(self) -> None:
        if self._mount_fd >= 0:
            os.close(self._mount_fd)
            self._mount_fd = -1

    def _try(self) -> None:
        try:
            # An O_PATH descriptor cannot stand for the mount.
            mount_fd = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=self._root_fd)
        except OSError:
            return  # a folder that may be searched but not read
        self._mount_fd = mount_fd
        try:
            own = _name(self._root_fd)
            if own is not None:
                os.close(self.open(own))
                self._device = os.fstat(self._root_fd).st_dev
                return
        except OSError:
            pass  # EPERM without the right, EOPNOTSUPP where the file system has no handles
        self.close()


def _name(fd: int) -> bytes | None:
    buffer = ctypes.create_string_buffer(_HEAD.pack(_MAX_HANDLE_SZ, 0), _HEAD.size + _MAX_HANDLE_SZ)
    mount = ctypes.c_int()
    if _name_to_handle_at(fd, b"", buffer, ctypes.byref(mount), syscalls.AT_EMPTY_PATH):
        raise syscalls.last_error()
    length, kind = _HEAD.unpack_from(buffer)
    if not 0 <= kind <= 0xFF:
        return None
    return bytes((kind,)) + buffer.raw[_HEAD.size : _HEAD.size + length]
