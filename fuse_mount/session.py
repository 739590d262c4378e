"""One libfuse session: made, mounted, served by threads of ours, and given back.

The threads are Python's own, for two reasons: a thread that libfuse started would get a new interpreter state
for every callback, and which request it is that libfuse works on is something that only its reader can
know. There are few threads as long as answers come from memory, and more while calls wait for the server,
so that what is remembered is still answered then.
"""

from __future__ import annotations

import ctypes
import errno
import logging
import os
import threading
from collections import deque
from collections.abc import Callable
from typing import Any, Final

from quicfs.fuse_mount.library import FuseArgs, FuseLibrary
from quicfs.fuse_mount.options import MAX_IO, MountError, MountOptions

_log = logging.getLogger("quicfs.fuse_mount")

CAP_ASYNC_READ: Final = 1 << 0  # fuse_common.h
CAP_SPLICE_WRITE: Final = 1 << 7
CAP_SPLICE_MOVE: Final = 1 << 8
CAP_SPLICE_READ: Final = 1 << 9
CAP_READDIRPLUS_AUTO: Final = 1 << 14
CAP_WRITEBACK_CACHE: Final = 1 << 16
CAP_PARALLEL_DIROPS: Final = 1 << 18

_WANTED: Final = CAP_ASYNC_READ | CAP_PARALLEL_DIROPS
# Data ends in Python's memory, so a pipe in between is a detour. The kernel's write-back cache would not
# notice that a file grew on the server.
_UNWANTED: Final = CAP_SPLICE_WRITE | CAP_SPLICE_MOVE | CAP_SPLICE_READ | CAP_WRITEBACK_CACHE


class FuseSession:
    """`on_end` is called once, in the last thread, when the mount is gone."""

    def __init__(
        self, library: FuseLibrary, operations: Any, options: MountOptions, on_end: Callable[[], None]
    ) -> None:
        self._library = library
        self._options = options
        self._on_end = on_end
        self._threads: list[threading.Thread] = []
        self._this_thread = threading.local()
        self._running = 0
        self._ended = False
        self._lock = threading.Lock()
        self._operations = operations  # libfuse copies the table; the callbacks must stay
        library.set_log_func(ctypes.cast(_note, ctypes.c_void_p))
        words = [b"quicfs", b"-o", ",".join(_mount_words(options)).encode()]
        argv = (ctypes.c_char_p * (len(words) + 1))(*words, None)
        arguments = FuseArgs(len(words), argv, 0)
        self._fuse: int | None = library.new(
            ctypes.byref(arguments), ctypes.byref(operations), ctypes.sizeof(operations), None
        )
        if self._fuse is None:
            raise MountError(f"libfuse refuses the mount options ({_reason()}): correct them.")
        self._session = library.get_session(self._fuse)

    def configure(self, connection: Any, config: Any) -> None:
        """In the init callback: `struct fuse_conn_info` and `struct fuse_config` to fill in."""
        options = self._options
        connection.want = (connection.want | _WANTED & connection.capable) & ~_UNWANTED
        connection.max_write = MAX_IO
        connection.max_read = 0  # no limit but the kernel's, which is max_write's
        connection.max_readahead = MAX_IO
        connection.max_background = 64  # requests that nobody waits for: the kernel's read-ahead
        connection.congestion_threshold = 48
        connection.time_gran = 1
        config.attr_timeout = options.attr_timeout
        config.entry_timeout = options.entry_timeout
        config.negative_timeout = options.negative_timeout
        config.use_ino = 1
        config.nullpath_ok = 1  # open files are addressed by their handles
        config.hard_remove = 0  # names.py tells why
        config.auto_cache = config.kernel_cache = 0  # files.py decides at each open

    def mount(self, mountpoint: str) -> None:
        """Raises MountError. Nothing is answered before `start`."""
        if self._library.mount(self._fuse, os.fsencode(mountpoint)) != 0:
            reason = _reason()
            self.destroy()
            raise MountError(
                f"{mountpoint} cannot be mounted ({reason}): check that you own it, or use root."
            )

    def start(self) -> None:
        for _ in range(self._options.min_threads):
            self._start_thread()

    def threads_wait(self, count: int) -> None:
        """`count` threads wait for the server: keep one that answers."""
        if count >= self._running:
            self._start_thread()

    def _start_thread(self) -> None:
        with self._lock:
            if self._ended or self._running >= self._options.max_threads:
                return
            self._running += 1
            thread = threading.Thread(target=self._serve, name=f"fuse-{self._running}", daemon=True)
            self._threads.append(thread)
        thread.start()

    def opcode(self) -> int:
        """In a callback: of the kernel's request that libfuse works on (`struct fuse_in_header`)."""
        return int(ctypes.c_uint32.from_address(self._this_thread.buffer.mem + 4).value)

    def _serve(self) -> None:
        buffer = self._this_thread.buffer = self._library.fuse_buf()
        receive, process = self._library.receive, self._library.process
        session, reference = self._session, ctypes.byref(buffer)
        while (received := receive(session, reference)) > 0 or received == -errno.EINTR:
            if received > 0:
                process(session, reference)
        if received < 0:
            _log.warning("a FUSE thread ended: %s", os.strerror(-received))
        self._library.free(buffer.mem)
        with self._lock:
            self._ended = True
            self._running -= 1
            last = self._running == 0
        if last:
            self._on_end()

    def destroy(self) -> None:
        """After `on_end`, or if the mount failed."""
        if self._fuse is None:
            return
        for thread in self._threads:
            thread.join()
        self._library.unmount(self._fuse)
        self._library.destroy(self._fuse)
        self._fuse = None


_vsnprintf = ctypes.CDLL(None).vsnprintf
_vsnprintf.argtypes = (ctypes.c_char_p, ctypes.c_size_t, ctypes.c_char_p, ctypes.c_void_p)


_messages: deque[str] = deque(maxlen=8)


def _take_note(level: int, form: bytes, arguments: int) -> None:
    """libfuse has something to say: enum fuse_log_level is syslog's. One function for the whole process."""
    buffer = ctypes.create_string_buffer(1024)
    _vsnprintf(buffer, len(buffer), form, arguments)
    text = buffer.value.decode(errors="replace").strip()
    _messages.append(text)
    _log.log(logging.WARNING if level <= 4 else logging.DEBUG, "libfuse: %s", text)


_note = ctypes.CFUNCTYPE(None, ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p)(_take_note)


def _reason() -> str:
    text = _messages[-1] if _messages else "no reason given"
    return text.removeprefix("fuse: ").strip()


def _mount_words(options: MountOptions) -> list[str]:
    source = options.fsname.replace("\\", "\\\\").replace(",", "\\,")
    checks = options.allow_other if options.default_permissions is None else options.default_permissions
    words = [f"fsname={source}", "subtype=quicfs"]
    words += ["ro"] if options.read_only else []
    words += ["allow_other"] if options.allow_other else []
    words += ["default_permissions"] if checks else []
    return words
