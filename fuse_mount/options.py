"""What a user may choose about a mount, and the bounds of everything that a mount keeps."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import Final

MAX_IO: Final = 1 << 20
"""Bytes in one read or write of the contract, and the most that FUSE carries in one request (256 pages)."""


class MountError(Exception):
    """The mount cannot be made, or cannot be given back: one sentence naming the thing and the remedy."""


@dataclass(frozen=True, slots=True)
class MountOptions:
    """Durations are seconds, sizes bytes."""

    fsname: str = "quicfs"  # the first column of /proc/mounts: the URL, usually
    read_only: bool = False
    nonempty: bool = False  # mount over a directory that has entries
    allow_other: bool = False  # users other than the one who mounts may enter
    default_permissions: bool | None = None  # the kernel checks modes; None: when others may enter
    uid: int | None = None  # show every object as owned by this user
    gid: int | None = None  # and this group

    attr_timeout: float = 1.0  # how long attributes are believed, here and in the kernel
    entry_timeout: float = 1.0  # how long the kernel believes that a name is there
    negative_timeout: float = 1.0  # how long it is believed that a name is not there
    deadline: float = 30.0  # the longest that one call of the file system may take
    retry_deadline: float = 5.0  # the same while the server is known to be silent

    max_attrs: int = 65_536  # remembered attributes
    max_listing: int = 65_536  # entries of all remembered directories together
    readahead: int = 8 * MAX_IO  # fetched ahead of one sequential reader; 0: nothing
    writeback: int = 8 * MAX_IO  # on the way to the server for one open file; 0: write through
    total_buffers: int = 64 * MAX_IO  # both, for the whole mount

    min_threads: int = 2
    max_threads: int = 32


def _seconds(text: str) -> float:
    value = float(text)
    if not 0 <= value <= 86_400:
        raise ValueError
    return value


def _natural(text: str) -> int:
    value = int(text)
    if not 0 <= value < 1 << 32:
        raise ValueError
    return value


_SECONDS: Final = ("attr_timeout", "entry_timeout", "negative_timeout", "deadline", "retry_deadline")
_NUMBERS: Final = ("uid", "gid", "max_attrs", "max_listing", "readahead", "writeback", "total_buffers")
_FLAGS: Final[dict[str, tuple[str, bool]]] = {
    "ro": ("read_only", True),
    "rw": ("read_only", False),
    "nonempty": ("nonempty", True),
    "allow_other": ("allow_other", True),
    "default_permissions": ("default_permissions", True),
    "no_default_permissions": ("default_permissions", False),
}
_VALUES: Final[dict[str, Callable[[str], float]]] = {
    **dict.fromkeys(_SECONDS, _seconds),
    **dict.fromkeys(_NUMBERS, _natural),
}
_IGNORED: Final = frozenset({"defaults", "auto", "noauto", "user", "users", "_netdev", "nofail"})
"""Words of fstab(5) that are for mount(8) and systemd."""


def parse_options(text: str, base: MountOptions | None = None) -> MountOptions:
    """`ro,attr_timeout=5,uid=1000` as in mount(8)'s -o. Raises MountError naming the word not understood."""
    options = base if base is not None else MountOptions()
    changes: dict[str, object] = {}
    for word in filter(None, (w.strip() for w in text.split(","))):
        name, equals, value = word.partition("=")
        if not equals and name in _FLAGS:
            field, setting = _FLAGS[name]
            changes[field] = setting
        elif equals and name in _VALUES:
            try:
                changes[name] = _VALUES[name](value)
            except ValueError:
                raise MountError(f"mount option {name}: {value!r} is not a number in range.") from None
        elif name not in _IGNORED and not name.startswith("x-"):
            known = ", ".join([*_FLAGS, *(f"{n}=" for n in _VALUES)])
            raise MountError(f"mount option {word!r} is not known; there are: {known}.")
    assert {f.name for f in fields(options)} >= changes.keys()
    return replace(options, **changes)  # type: ignore[arg-type]
