"""libfuse 3, found through mfusepy: the structures are mfusepy's, the calls that we make are declared here."""

from __future__ import annotations

import ctypes
import functools
import os
from typing import Any, Final

from quicfs.fuse_mount.options import MountError

_NEEDED: Final = "libfuse 3 is not installed: apt install fuse3 (Debian, Ubuntu) or dnf install fuse3."


class FuseArgs(ctypes.Structure):
    """`struct fuse_args` of fuse_opt.h."""

    _fields_ = (
        ("argc", ctypes.c_int),
        ("argv", ctypes.POINTER(ctypes.c_char_p)),
        ("allocated", ctypes.c_int),
    )


class FuseLibrary:
    """`fuse_new`, `fuse_mount` ... of libfuse, and mfusepy's structures for the installed version."""

    def __init__(self, mfusepy: Any, c: ctypes.CDLL) -> None:
        self.c_stat: type[ctypes.Structure] = mfusepy.c_stat
        self.c_statvfs: Any = mfusepy.c_statvfs
        self.c_flock_t: Any = mfusepy.c_flock_t
        self.fuse_file_info: Any = mfusepy.fuse_file_info
        self.fuse_conn_info: Any = mfusepy.fuse_conn_info
        self.fuse_config: Any = mfusepy.fuse_config
        self.fuse_buf: Any = mfusepy.fuse_buf
        self.fuse_context: Any = mfusepy.fuse_context
        self._operations = type(
            "Operations",
            (ctypes.Structure,),
            {"_fields_": [(field[0], ctypes.c_void_p) for field in mfusepy.fuse_operations._fields_]},
        )
        pointer = ctypes.c_void_p
        self.new = _declare(c, "fuse_new", pointer, pointer, pointer, ctypes.c_size_t, pointer)
        self.mount = _declare(c, "fuse_mount", ctypes.c_int, pointer, ctypes.c_char_p)
        self.unmount = _declare(c, "fuse_unmount", None, pointer)
        self.destroy = _declare(c, "fuse_destroy", None, pointer)
        self.get_session = _declare(c, "fuse_get_session", pointer, pointer)
        self.receive = _declare(c, "fuse_session_receive_buf", ctypes.c_int, pointer, pointer)
        self.process = _declare(c, "fuse_session_process_buf", None, pointer, pointer)
        self.free = _declare(ctypes.CDLL(None), "free", None, pointer)
        self.get_context = _declare(c, "fuse_get_context", pointer)
        self.interrupted = _declare(c, "fuse_interrupted", ctypes.c_int)
        self.set_log_func = _declare(c, "fuse_set_log_func", None, pointer)

    def new_operations(self) -> Any:
        """An empty `struct fuse_operations`, its members plain pointers."""
        return self._operations()

    def caller(self) -> int:
        """The thread id of the program that the current callback answers; 0 when it cannot be seen."""
        context = self.get_context()
        return int(self.fuse_context.from_address(context).pid) if context else 0


def _declare(c: ctypes.CDLL, name: str, result: Any, *arguments: Any) -> Any:
    function = getattr(c, name)
    function.restype = result
    function.argtypes = arguments
    return function


@functools.cache
def load_library() -> FuseLibrary:
    """Raises MountError when there is no libfuse 3."""
    from ctypes.util import find_library

    os.environ.setdefault("FUSE_LIBRARY_NAME", "fuse3")  # mfusepy would take libfuse 2 if it is there, too
    path = os.environ.get("FUSE_LIBRARY_PATH") or find_library("fuse3")
    if path is None:
        raise MountError(_NEEDED)
    try:
        import mfusepy
    except (OSError, AttributeError):
        raise MountError(_NEEDED) from None
    if mfusepy.fuse_version_major != 3:
        raise MountError(_NEEDED)
    return FuseLibrary(mfusepy, ctypes.CDLL(path))
