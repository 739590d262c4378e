"""inotify(7): codec of its events and one descriptor with its watches."""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from quicfs.vfs import syscalls

IN_MODIFY: Final = 0x2
IN_ATTRIB: Final = 0x4
IN_CLOSE_WRITE: Final = 0x8
IN_MOVED_FROM: Final = 0x40
IN_MOVED_TO: Final = 0x80
IN_CREATE: Final = 0x100
IN_DELETE: Final = 0x200
IN_MOVE_SELF: Final = 0x800
IN_Q_OVERFLOW: Final = 0x4000
IN_IGNORED: Final = 0x8000
IN_ONLYDIR: Final = 0x01000000
IN_ISDIR: Final = 0x40000000

_EVENT: Final = struct.Struct("=iIII")  # struct inotify_event: wd, mask, cookie, len; then the name
_READ_SIZE: Final = 64 * 1024


@dataclass(frozen=True, slots=True)
class Event:
    watch: int
    mask: int
    cookie: int  # the same in both halves of a rename, else 0
    name: bytes


class Inotify:
    """One inotify descriptor, non-blocking."""

    def __init__(self) -> None:
        self.fd = syscalls.inotify_init()

    def add(self, dir_fd: int, mask: int) -> int:
        """Watch the directory behind any descriptor; the same directory twice gives the same number."""
        return syscalls.inotify_add_watch(self.fd, b"/proc/self/fd/%d" % dir_fd, mask | IN_ONLYDIR)

    def remove(self, watch: int) -> None:
        """Watches of deleted directories go by themselves."""
        try:
            syscalls.inotify_rm_watch(self.fd, watch)
        except OSError:
            pass  # EINVAL: it went by itself a moment ago

    def read(self) -> Iterator[Event]:
        """The events of one read(2); none when nothing is pending."""
        try:
            data = os.read(self.fd, _READ_SIZE)
        except BlockingIOError:
            return
        position = 0
        while position < len(data):
            watch, mask, cookie, length = _EVENT.unpack_from(data, position)
            position += _EVENT.size
            name = data[position : position + length].rstrip(b"\0")
            position += length
            yield Event(watch, mask, cookie, name)

    def close(self) -> None:
        os.close(self.fd)
