"""What is checked before mounting, so that each failure is one sentence with its remedy."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path
from typing import Final

from quicfs.fuse_mount.library import load_library
from quicfs.fuse_mount.mounts import find_mount
from quicfs.fuse_mount.options import MountError, MountOptions

DEVICE: Final = "/dev/fuse"
_CONF: Final = "/etc/fuse.conf"


def check_mount(mountpoint: str, options: MountOptions) -> None:
    """Raises MountError when FUSE or the mount point is not fit."""
    load_library()
    _check_device()
    _check_mountpoint(mountpoint, options)
    if options.allow_other and os.geteuid() != 0 and not _others_allowed():
        raise MountError(
            f"{_CONF} does not let users mount with allow_other: "
            f"add a line 'user_allow_other' to it, or leave the option out."
        )


def _check_device() -> None:
    try:
        descriptor = os.open(DEVICE, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        raise MountError(
            f"{DEVICE} is not there: load the kernel module (modprobe fuse), "
            f"or give the container the device (--device {DEVICE})."
        ) from None
    except OSError as error:
        raise MountError(
            f"{DEVICE} cannot be opened ({os.strerror(error.errno or 0)}): "
            f"run as a user who may, or as root; in a container, allow the device."
        ) from None
    os.close(descriptor)


def _check_mountpoint(mountpoint: str, options: MountOptions) -> None:
    existing = find_mount(mountpoint)
    if existing is not None and existing.kind.startswith("fuse"):
        raise MountError(
            f"{mountpoint} already has {existing.source} mounted: run 'quicfs umount {mountpoint}' first."
        )
    try:
        mode = os.stat(mountpoint).st_mode
    except FileNotFoundError:
        raise MountError(f"mount point {mountpoint} does not exist: create it with mkdir -p.") from None
    except OSError as error:
        if error.errno == errno.ENOTCONN:
            raise MountError(
                f"{mountpoint} is a dead mount: run 'quicfs umount {mountpoint}' first."
            ) from None
        raise MountError(
            f"mount point {mountpoint} cannot be used ({os.strerror(error.errno or 0)}): choose another."
        ) from None
    if not stat.S_ISDIR(mode):
        raise MountError(f"mount point {mountpoint} is not a directory: choose a directory.")
    try:
        with os.scandir(mountpoint) as entries:
            empty = options.nonempty or next(entries, None) is None
    except PermissionError:
        empty = True  # who may not read it may still mount over it; the kernel decides
    if not empty:
        raise MountError(
            f"mount point {mountpoint} is not empty: choose an empty directory, or add -o nonempty."
        )


def _others_allowed() -> bool:
    try:
        lines = Path(_CONF).read_text().splitlines()
    except OSError:
        return False
    return any(line.strip() == "user_allow_other" for line in lines)
