"""Mounts as the kernel lists them, and giving them back."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from quicfs.fuse_mount.options import MountError


@dataclass(frozen=True, slots=True)
class MountEntry:
    """One line of /proc/self/mountinfo, proc(5)."""

    device: str  # major:minor
    path: str
    kind: str  # file system type
    source: str


def _unescape(text: str) -> str:
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), text)


def list_mounts() -> list[MountEntry]:
    mounts = []
    for line in Path("/proc/self/mountinfo").read_text(errors="surrogateescape").splitlines():
        left, _, right = line.partition(" - ")
        fields, tail = left.split(" "), right.split(" ")
        mounts.append(MountEntry(fields[2], _unescape(fields[4]), tail[0], _unescape(tail[1])))
    return mounts


def find_mount(mountpoint: str) -> MountEntry | None:
    """The topmost mount at exactly this path. Looks at no file below it, so a dead mount does not matter."""
    absolute = os.path.abspath(mountpoint)
    path = os.path.join(os.path.realpath(os.path.dirname(absolute)), os.path.basename(absolute))
    return next((mount for mount in reversed(list_mounts()) if mount.path in (path, absolute)), None)


def unmount_path(mountpoint: str, *, lazy: bool = False) -> None:
    """Give a FUSE mount back, with fusermount3. `lazy`: also while it is in use; it vanishes now and ends
    when its last user goes. Raises MountError."""
    mount = find_mount(mountpoint)
    if mount is None:
        raise MountError(
            f"{mountpoint} is not a mount point: see 'findmnt -t fuse.quicfs' for those there are."
        )
    if not mount.kind.startswith("fuse"):
        raise MountError(f"{mountpoint} is a mount of type {mount.kind}, not of quicfs: use umount(8).")
    program = shutil.which("fusermount3")
    if program is None:
        raise MountError("fusermount3 is not there: apt install fuse3 (Debian, Ubuntu) or dnf install fuse3.")
    command = [program, "-u", *(["-z"] if lazy else []), "--", mount.path]
    done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
    if done.returncode == 0 or find_mount(mountpoint) is None:
        return
    if "busy" in done.stderr:
        raise MountError(
            f"{mountpoint} is in use: close what uses it (fuser -vm {mountpoint} tells), "
            f"or unmount with --lazy."
        )
    reason = done.stderr.strip().rpartition(": ")[2] or f"exit status {done.returncode}"
    raise MountError(
        f"{mountpoint} cannot be unmounted ({reason}): try as the user who mounted it, or as root."
    )
