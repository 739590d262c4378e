"""As much of libnfs as the tests need, through ctypes. Its three programs only list and copy."""

from __future__ import annotations

import ctypes
import ctypes.util
from typing import Any

__all__ = ["LibNfs", "installed"]

_FLAGS = {"r": 0, "w": 0o1101, "r+": 2}  # O_RDONLY; O_WRONLY, O_CREAT and O_TRUNC; O_RDWR


def installed() -> bool:
    return ctypes.util.find_library("nfs") is not None


class Failed(Exception):
    pass


class LibNfs:
    """One mounted export. Paths begin with a slash. Failed for everything that libnfs reports."""

    def __init__(self, url: str) -> None:
        name = ctypes.util.find_library("nfs")
        assert name is not None
        self._lib = ctypes.CDLL(name)
        self._lib.nfs_init_context.restype = ctypes.c_void_p
        self._lib.nfs_get_error.restype = ctypes.c_char_p
        self._lib.nfs_parse_url_dir.restype = ctypes.POINTER(_Url)
        self._context = ctypes.c_void_p(self._lib.nfs_init_context())
        parsed = self._lib.nfs_parse_url_dir(self._context, url.encode())
        if not parsed:
            raise Failed(self._error())
        self._call("nfs_mount", parsed.contents.server, parsed.contents.path)
        self._lib.nfs_destroy_url(parsed)

    def close(self) -> None:
        self._lib.nfs_destroy_context(self._context)

    def write(self, path: str, data: bytes, offset: int = 0, mode: str = "w") -> None:
        file = self._open(path, mode)
        try:
            done = self._call("nfs_pwrite", file, ctypes.c_uint64(offset), ctypes.c_uint64(len(data)), data)
            assert done == len(data)
            self._call("nfs_fsync", file)
        finally:
            self._call("nfs_close", file)

    def read(self, path: str, size: int, offset: int = 0) -> bytes:
        file = self._open(path, "r")
        buffer = ctypes.create_string_buffer(size)
        try:
            count = self._call("nfs_pread", file, ctypes.c_uint64(offset), ctypes.c_uint64(size), buffer)
        finally:
            self._call("nfs_close", file)
        return buffer.raw[:count]

    def readlink(self, path: str) -> str:
        buffer = ctypes.create_string_buffer(4096)
        self._call("nfs_readlink", path.encode(), buffer, 4096)
        return buffer.value.decode()

    def __getattr__(self, name: str) -> Any:
        """mkdir, rename, unlink and so on: strings and integers as in C."""

        def call(*arguments: str | int) -> int:
            return self._call(
                f"nfs_{name}", *(one.encode() if isinstance(one, str) else one for one in arguments)
            )

        return call

    def _open(self, path: str, mode: str) -> ctypes.c_void_p:
        file = ctypes.c_void_p()
        self._call("nfs_open", path.encode(), _FLAGS[mode], ctypes.byref(file))
        return file

    def _call(self, name: str, *arguments: Any) -> int:
        result = int(getattr(self._lib, name)(self._context, *arguments))
        if result < 0:
            raise Failed(f"{name}: {self._error()}")
        return result

    def _error(self) -> str:
        return (self._lib.nfs_get_error(self._context) or b"").decode(errors="replace")


class _Url(ctypes.Structure):
    _fields_ = (("server", ctypes.c_char_p), ("path", ctypes.c_char_p), ("file", ctypes.c_char_p))
