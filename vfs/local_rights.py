"""In whose name the kernel checks what a call does: this process's, or another user's.

A server that runs as root takes on the user's effective IDs and groups for one stretch of code, so that the kernel
decides (mode bits, ACLs, sticky and set-group-ID directories, quotas) as if the user's own program had called. These
identities belong to a thread, and the system calls here change the calling thread only (libc's functions would
change all of them).

The rule that keeps an identity from leaking: `with rights:` encloses system calls on the local disk and nothing
else. No `await` (another task would go on in the user's name), no thread started (it would keep the identity),
no node resolved (who holds a handle need not be able to walk there).
"""

from __future__ import annotations

import ctypes
import functools
import logging
import os
import platform
from collections.abc import Callable
from typing import Any, Final, TypeVar

from quicfs.vfs import syscalls
from quicfs.vfs.api import Caller
from quicfs.vfs.status import FsError, Status

T = TypeVar("T")

_log = logging.getLogger(__name__)

_KEEP: Final = 0xFFFFFFFF  # as an ID it means "leave it", which here would be root
_NGROUPS_MAX: Final = 65536
_PR_GET_SECUREBITS: Final = 27
_SECBIT_NO_SETUID_FIXUP: Final = 1 << 2

_MUST_SWITCH: Final = (
    "to serve other users, run as root with CAP_SETUID and CAP_SETGID, or as a user who is not root"
)

_GENERIC: Final = (147, 149, 159)
_NUMBERS: Final = {  # setresuid, setresgid, setgroups, those with IDs of 32 bits
    "x86_64": (117, 119, 116),
    "i686": (208, 210, 206),
    "i386": (208, 210, 206),
    "armv7l": (208, 210, 206),
    "armv6l": (208, 210, 206),
    "s390x": (208, 210, 206),
    "ppc64le": (164, 169, 81),
    "aarch64": _GENERIC,
    "riscv64": _GENERIC,
    "loongarch64": _GENERIC,
}


class Rights:
    """Those of this process: nothing to take on."""

    __slots__ = ()

    def __enter__(self) -> None:
        return None

    def __exit__(self, *_: object) -> None:
        return None

    def bound(self, call: Callable[..., T]) -> Callable[..., T]:
        """`call` with these rights, for a thread of the pool."""
        return call

    def for_content(self) -> Rights:
        """What is left to check when an open file is written: cheaper to take on."""
        return self


OWN: Final = Rights()


class _Own:
    """Who this process is."""

    __slots__ = ("address", "count", "gid", "groups", "uid")

    def __init__(self) -> None:
        groups = os.getgroups()
        self.uid = os.geteuid()
        self.gid = os.getegid()
        self.count = len(groups)
        self.groups = (ctypes.c_uint32 * self.count)(*groups)
        self.address = ctypes.addressof(self.groups)


class ContentRights(Rights):
    """Another user's for writing to what is open already: the user alone, without the groups. It is the lack of root's
    capabilities that counts then: set-ID bits fall, quotas and the blocks reserved for root hold."""

    __slots__ = ("_own", "_uid")

    def __init__(self, uid: int, own: _Own) -> None:
        self._uid = uid
        self._own = own

    def __enter__(self) -> None:
        # The user comes last: with root's ID go the capabilities. (setresuid(2) takes all effective ones with it;
        # setfsuid(2) would leave CAP_SYS_RESOURCE, which is above quotas, and does not tell when it fails.)
        try:
            if self._take_on():
                error = syscalls.last_error()
                raise FsError(Status.ACCESS, f"acting as user {self._uid}: {error.strerror}")
        except BaseException:  # KeyboardInterrupt can come between any two steps
            self.__exit__()
            raise

    def __exit__(self, *_: object) -> None:
        try:
            failed = self._give_back()
        except BaseException:
            failed = self._give_back()
            raise
        finally:
            if failed:
                _log.critical("the identity of user %d stays: %s", self._uid, syscalls.last_error())
                os.abort()  # nothing may go on in this thread

    def bound(self, call: Callable[..., T]) -> Callable[..., T]:
        return functools.partial(self._as_caller, call)

    def _as_caller(self, call: Callable[..., T], *args: Any) -> T:
        with self:
            return call(*args)

    def _take_on(self) -> bool:
        """Whether it failed."""
        return bool(_syscall(_SETRESUID, _KEEP, self._uid, _KEEP))

    def _give_back(self) -> bool:
        return bool(_syscall(_SETRESUID, _KEEP, self._own.uid, _KEEP))


class CallerRights(ContentRights):
    """Those of `caller`, in the thread that enters. Not to be nested. Threads may share one.

    ACCESS if the kernel refuses the identity (a user who is not mapped in this user namespace, a capability
    that is lacking).
    """

    __slots__ = ("_address", "_content", "_count", "_gid", "_groups")

    def __init__(self, caller: Caller, own: _Own) -> None:
        super().__init__(caller.uid, own)
        self._gid = caller.gid
        self._count = len(caller.groups)
        self._groups = (ctypes.c_uint32 * self._count)(*caller.groups)
        self._address = ctypes.addressof(self._groups)
        self._content = ContentRights(caller.uid, own)
        with self:  # refused now rather than in the middle
            pass

    def for_content(self) -> Rights:
        return self._content

    def _take_on(self) -> bool:
        return bool(
            _syscall(_SETGROUPS, self._count, self._address, 0)
            or _syscall(_SETRESGID, _KEEP, self._gid, _KEEP)
            or _syscall(_SETRESUID, _KEEP, self._uid, _KEEP)
        )

    def _give_back(self) -> bool:
        own = self._own
        return bool(
            _syscall(_SETRESUID, _KEEP, own.uid, _KEEP)
            or _syscall(_SETRESGID, _KEEP, own.gid, _KEEP)
            or _syscall(_SETGROUPS, own.count, own.address, 0)
        )


_SETRESUID, _SETRESGID, _SETGROUPS = _NUMBERS.get(platform.machine(), (0, 0, 0))
# These calls do not block: the interpreter's lock is kept, other threads do not come in between.
_libc = ctypes.PyDLL(None, use_errno=True)
_syscall = _libc.syscall
_syscall.restype = ctypes.c_long
_syscall.argtypes = (ctypes.c_long, ctypes.c_ulong, ctypes.c_ulong, ctypes.c_ulong)


def rights_of(caller: Caller) -> Rights:
    """The rights of `caller`. Those of this process if it is not root (it cannot be anybody else), or if the caller
    is who it is.

    INVALID for numbers that are none; NOT_PERMITTED where root may not take on other identities.
    """
    ids = (caller.uid, caller.gid, *caller.groups)
    if min(ids) < 0 or max(ids) >= _KEEP or len(caller.groups) > _NGROUPS_MAX:
        raise FsError(Status.INVALID, "user and group numbers")
    own = _Own()
    if own.uid != 0 or (caller.uid, caller.gid) == (own.uid, own.gid):
        return OWN
    if (
        not _SETRESUID
        or os.getresuid() != (0, 0, 0)
        or _libc.prctl(_PR_GET_SECUREBITS, 0, 0, 0, 0) & _SECBIT_NO_SETUID_FIXUP
    ):
        raise FsError(Status.NOT_PERMITTED, _MUST_SWITCH)
    try:
        return CallerRights(caller, own)
    except FsError as error:
        raise FsError(error.status, f"{error.detail}; {_MUST_SWITCH}") from None
