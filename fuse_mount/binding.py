"""libfuse's table of operations, filled with our methods: C arguments in, C results and -errno out.

The structures are mfusepy's. Its callback layer is not used: it drops what we need (rename's flags, the file
handle of truncate and utimens, attributes in readdir) and costs more than the work behind it. Pointers
arrive as plain integers and are read in place.
"""

from __future__ import annotations

import ctypes
import errno
import functools
import logging
from collections.abc import Callable
from typing import Any, Final

from quicfs.fuse_mount.attributes import SERVED_XATTRS, Attributes
from quicfs.fuse_mount.context import Context
from quicfs.fuse_mount.crossing import CallAbandoned
from quicfs.fuse_mount.directories import Directories
from quicfs.fuse_mount.errno_table import ERRNO_OF_STATUS
from quicfs.fuse_mount.files import Files
from quicfs.fuse_mount.library import FuseLibrary
from quicfs.fuse_mount.locks import Locks
from quicfs.fuse_mount.names import Names
from quicfs.vfs import Attr, FsError

_log = logging.getLogger("quicfs.fuse_mount")

F_GETLK, F_SETLKW, F_UNLCK = 5, 7, 2  # fcntl(2)
O_DIRECT: Final = 0o40000
ST_RDONLY: Final = 1  # statvfs(3)

FUSE_READDIR_PLUS: Final = 1  # fuse.h
FUSE_FILL_DIR_PLUS: Final = 2

_NO_ID: Final = 0xFFFF_FFFF  # chown(2): leave it

_path, _pointer, _int, _uint = ctypes.c_char_p, ctypes.c_void_p, ctypes.c_int, ctypes.c_uint
_size, _offset, _ssize = ctypes.c_size_t, ctypes.c_longlong, ctypes.c_ssize_t

_SIGNATURES: Final[dict[str, tuple[Any, ...]]] = {
    # result, then the arguments of `struct fuse_operations` in fuse.h
    "init": (_pointer, _pointer, _pointer),
    "getattr": (_int, _path, _pointer, _pointer),
    "readlink": (_int, _path, _pointer, _size),
    "mknod": (_int, _path, _uint, ctypes.c_ulonglong),
    "mkdir": (_int, _path, _uint),
    "unlink": (_int, _path),
    "rmdir": (_int, _path),
    "symlink": (_int, _path, _path),
    "rename": (_int, _path, _path, _uint),
    "link": (_int, _path, _path),
    "chmod": (_int, _path, _uint, _pointer),
    "chown": (_int, _path, _uint, _uint, _pointer),
    "truncate": (_int, _path, _offset, _pointer),
    "utimens": (_int, _path, _pointer, _pointer),
    "open": (_int, _path, _pointer),
    "create": (_int, _path, _uint, _pointer),
    "read": (_int, _path, _pointer, _size, _offset, _pointer),
    "write": (_int, _path, _pointer, _size, _offset, _pointer),
    "statfs": (_int, _path, _pointer),
    "flush": (_int, _path, _pointer),
    "release": (_int, _path, _pointer),
    "fsync": (_int, _path, _int, _pointer),
    "setxattr": (_int, _path, _path, _pointer, _size, _int),
    "getxattr": (_int, _path, _path, _pointer, _size),
    "listxattr": (_int, _path, _pointer, _size),
    "removexattr": (_int, _path, _path),
    "opendir": (_int, _path, _pointer),
    "readdir": (_int, _path, _pointer, _pointer, _offset, _pointer, _int),
    "releasedir": (_int, _path, _pointer),
    "fsyncdir": (_int, _path, _int, _pointer),
    "lock": (_int, _path, _pointer, _int, _pointer),
    "flock": (_int, _path, _pointer, _int),
    "fallocate": (_int, _path, _int, _offset, _offset, _pointer),
    "copy_file_range": (_ssize, _path, _pointer, _offset, _path, _pointer, _offset, _size, _int),
    "lseek": (_offset, _path, _offset, _int, _pointer),
}

_Filler = ctypes.PYFUNCTYPE(_int, _pointer, _path, _path, _offset, _int)
"""fuse_fill_dir_t. It neither blocks nor calls us, so the interpreter lock is kept. `struct stat` comes packed."""


class Binding:
    """Keeps the callbacks alive as long as libfuse may call them: as long as the session."""

    def __init__(
        self,
        library: FuseLibrary,
        context: Context,
        locks: Locks,
        on_init: Callable[[Any, Any], None],
    ) -> None:
        self._context = context
        self._attributes = Attributes(context)
        self._names = Names(context)
        self._files = Files(context)
        self._directories = Directories(context)
        self._locks = locks
        self._library = library
        self._on_init = on_init
        self._file_info = library.fuse_file_info
        self._fh_offset = library.fuse_file_info.fh.offset
        self._stat_size = context.layout.size
        self.operations = library.new_operations()
        self._callbacks = []
        for name, (result, *arguments) in _SIGNATURES.items():
            callback = ctypes.CFUNCTYPE(result, *arguments)(_guarded(name, getattr(self, f"_{name}")))
            self._callbacks.append(callback)
            setattr(self.operations, name, ctypes.cast(callback, ctypes.c_void_p))

    def leave_out(self, *names: str) -> None:
        """Before the session is made: libfuse answers ENOSYS for these, and the kernel stops asking."""
        for name in names:
            setattr(self.operations, name, None)

    def _fh(self, fi: int) -> int:
        value: int = ctypes.c_uint64.from_address(fi + self._fh_offset).value
        return value

    def _optional_fh(self, fi: int | None) -> int | None:
        return None if fi is None else self._fh(fi)

    def _init(self, connection: int, config: int) -> int | None:
        self._on_init(
            self._library.fuse_conn_info.from_address(connection),
            self._library.fuse_config.from_address(config),
        )
        return None

    # Attributes

    def _getattr(self, path: bytes | None, stat: int, fi: int | None) -> int:
        ctypes.memmove(stat, self._attributes.stat(path, self._optional_fh(fi)), self._stat_size)
        return 0

    def _readlink(self, path: bytes, buffer: int, size: int) -> int:
        target = self._attributes.readlink(path)[: size - 1] + b"\0"
        ctypes.memmove(buffer, target, len(target))
        return 0

    def _chmod(self, path: bytes | None, mode: int, fi: int | None) -> None:
        self._attributes.chmod(path, mode, self._optional_fh(fi))

    def _chown(self, path: bytes | None, uid: int, gid: int, fi: int | None) -> None:
        self._attributes.chown(
            path, None if uid == _NO_ID else uid, None if gid == _NO_ID else gid, self._optional_fh(fi)
        )

    def _truncate(self, path: bytes | None, size: int, fi: int | None) -> None:
        self._attributes.truncate(path, size, self._optional_fh(fi))

    def _utimens(self, path: bytes | None, times: int, fi: int | None) -> None:
        atime, atime_ns, mtime, mtime_ns = (ctypes.c_long * 4).from_address(times)
        self._attributes.utimens(path, (atime, atime_ns), (mtime, mtime_ns), self._optional_fh(fi))

    def _statfs(self, path: bytes, buffer: int) -> None:
        figures = self._attributes.statfs()
        out = self._library.c_statvfs.from_address(buffer)
        out.f_bsize = out.f_frsize = figures.block_size
        out.f_blocks = figures.blocks
        out.f_bfree = figures.blocks_free
        out.f_bavail = figures.blocks_available
        out.f_files = figures.files
        out.f_ffree = out.f_favail = figures.files_free
        out.f_namemax = figures.name_max
        out.f_flag = ST_RDONLY if figures.read_only else 0

    def _setxattr(self, path: bytes, name: bytes, value: int, size: int, flags: int) -> None:
        self._attributes.setxattr(path, name, ctypes.string_at(value, size) if size else b"", flags)

    def _getxattr(self, path: bytes, name: bytes, buffer: int | None, size: int) -> int:
        if not name.startswith(SERVED_XATTRS):
            return -errno.ENODATA  # the kernel asks for security.capability before every write
        return _give(self._attributes.getxattr(path, name), buffer, size)

    def _listxattr(self, path: bytes, buffer: int | None, size: int) -> int:
        return _give(self._attributes.listxattr(path), buffer, size)

    def _removexattr(self, path: bytes, name: bytes) -> None:
        self._attributes.removexattr(path, name)

    # Names

    def _mknod(self, path: bytes, mode: int, device: int) -> None:
        self._names.mknod(path, mode, device)

    def _mkdir(self, path: bytes, mode: int) -> None:
        self._names.mkdir(path, mode)

    def _unlink(self, path: bytes) -> None:
        self._names.unlink(path)

    def _rmdir(self, path: bytes) -> None:
        self._names.rmdir(path)

    def _symlink(self, target: bytes, path: bytes) -> None:
        self._names.symlink(target, path)

    def _rename(self, old: bytes, new: bytes, flags: int) -> None:
        self._names.rename(old, new, flags)

    def _link(self, source: bytes, path: bytes) -> None:
        self._names.link(source, path)

    # Open files

    def _open(self, path: bytes, fi: int) -> None:
        info = self._file_info.from_address(fi)
        flags = info.flags
        info.fh, unchanged = self._files.open(path, flags)
        if flags & O_DIRECT:
            info.direct_io = 1
        elif unchanged:
            info.keep_cache = 1

    def _create(self, path: bytes, mode: int, fi: int) -> None:
        info = self._file_info.from_address(fi)
        flags = info.flags
        info.fh = self._files.create(path, flags, mode)
        if flags & O_DIRECT:
            info.direct_io = 1

    def _read(self, path: None, buffer: int, size: int, offset: int, fi: int) -> int:
        data = self._files.read(self._fh(fi), size, offset)
        length = len(data)
        if length > size:
            _log.error("the file system gave %d bytes where %d were asked for", length, size)
            return -errno.EIO
        if isinstance(data, bytes):
            ctypes.memmove(buffer, data, length)
        else:
            memoryview(_bytes_at(length).from_address(buffer)).cast("B")[:] = data.cast("B")
        return length

    def _write(self, path: None, buffer: int, size: int, offset: int, fi: int) -> int:
        return self._files.write(self._fh(fi), ctypes.string_at(buffer, size), offset)

    def _flush(self, path: None, fi: int) -> None:
        self._files.flush(self._fh(fi))

    def _release(self, path: None, fi: int) -> None:
        fh = self._fh(fi)
        self._locks.released(self._context.handles.get(fh))
        self._files.release(fh)

    def _fsync(self, path: None, data_only: int, fi: int) -> None:
        self._files.fsync(self._fh(fi), bool(data_only))

    def _fallocate(self, path: None, mode: int, offset: int, length: int, fi: int) -> None:
        self._files.fallocate(self._fh(fi), mode, offset, length)

    def _lseek(self, path: None, offset: int, whence: int, fi: int) -> int:
        return self._files.lseek(self._fh(fi), offset, whence)

    def _copy_file_range(
        self,
        source_path: None,
        source: int,
        offset: int,
        target_path: None,
        target: int,
        target_offset: int,
        length: int,
        flags: int,
    ) -> int:
        return self._files.copy_file_range(self._fh(source), offset, self._fh(target), target_offset, length)

    def _lock(self, path: None, fi: int, command: int, flock: int) -> None:
        info = self._file_info.from_address(fi)
        lock = self._library.c_flock_t.from_address(flock)
        if command == F_GETLK:
            if self._locks.test(info.fh, info.lock_owner, lock.l_type, lock.l_start, lock.l_len):
                lock.l_type = F_UNLCK
            return
        self._locks.fcntl(
            info.fh, info.lock_owner, lock.l_type, lock.l_start, lock.l_len, wait=command == F_SETLKW
        )

    def _flock(self, path: None, fi: int, operation: int) -> None:
        info = self._file_info.from_address(fi)
        self._locks.flock(info.fh, info.lock_owner, operation)

    # Directories

    def _opendir(self, path: bytes, fi: int) -> None:
        self._file_info.from_address(fi).fh = self._directories.opendir(path)

    def _releasedir(self, path: None, fi: int) -> None:
        self._directories.releasedir(self._fh(fi))

    def _fsyncdir(self, path: None, data_only: int, fi: int) -> None:
        self._directories.fsyncdir(self._fh(fi))

    def _readdir(self, path: None, buffer: int, filler: int, offset: int, fi: int, flags: int) -> None:
        add = _Filler(filler)
        pack = self._context.layout.pack
        plus = FUSE_FILL_DIR_PLUS if flags & FUSE_READDIR_PLUS else 0

        def fill(name: str, attr: Attr | None, next_offset: int) -> bool:
            encoded = name.encode("utf-8", "surrogateescape")
            if attr is None:
                return not add(buffer, encoded, None, next_offset, 0)
            return not add(buffer, encoded, pack(attr), next_offset, plus)

        self._directories.readdir(self._fh(fi), offset, fill)

    async def close(self) -> None:
        """In the loop, after the last callback: give back what is still open."""
        await self._files.close_all()


def _guarded(name: str, method: Callable[..., int | None]) -> Callable[..., int | None]:
    """What every callback does with its result and its failures. Nothing may be raised into libfuse."""

    @functools.wraps(method)
    def callback(*args: Any) -> int | None:
        try:
            return method(*args) or 0
        except FsError as error:
            return -ERRNO_OF_STATUS[error.status]
        except CallAbandoned:
            return -errno.EINTR
        except OSError as error:
            return -(error.errno or errno.EIO)
        except Exception:
            _log.exception("the FUSE operation %s failed", name)
            return -errno.EIO

    return callback


@functools.lru_cache(maxsize=64)
def _bytes_at(length: int) -> Any:
    return ctypes.c_ubyte * length


def _give(value: bytes, buffer: int | None, size: int) -> int:
    """getxattr(2): with size 0 only the length is wanted."""
    if size:
        if len(value) > size:
            return -errno.ERANGE
        ctypes.memmove(buffer or 0, value, len(value))
    return len(value)
