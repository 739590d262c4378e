"""What is served: directories of file systems, each under a path below the server's root."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final

from quicfs.nfs.rpc.identity import Squash
from quicfs.vfs.api import Caller, FileSystem
from quicfs.vfs.names import NAME_MAX

__all__ = ["EXPORT_ID_SIZE", "Export", "check_exports"]

EXPORT_ID_SIZE: Final = 7
"""Bytes that name an export in file handles."""


@dataclass(eq=False)
class Export:
    """The whole of `file_system`, seen by clients as the directory `path` ("/" alone is the root itself).

    What tells one export from another, also after a restart, is its path. ValueError for a path that no client could
    ask for.
    """

    path: str
    file_system: FileSystem
    read_only: bool = False
    squash: Squash = field(default_factory=Squash)
    names: tuple[str, ...] = field(init=False)
    id: bytes = field(init=False)
    fsid: tuple[int, int] = field(init=False)

    def __post_init__(self) -> None:
        if not self.path.startswith("/"):
            raise ValueError(f"the export {self.path!r} needs a path that begins with a slash")
        self.names = tuple(self.path.split("/")[1:]) if self.path != "/" else ()
        for name in self.names:
            if (
                name in ("", ".", "..")
                or "\0" in name
                or len(name.encode(errors="surrogateescape")) > NAME_MAX
            ):
                raise ValueError(f"the export {self.path!r} has {name!r} in its path")
        digest = hashlib.blake2b(
            self.path.encode(errors="surrogateescape"), digest_size=16, person=b"quicfs export"
        )
        self.id = digest.digest()[:EXPORT_ID_SIZE]
        # The pseudo file system is (0, 0). NFSv3 has room for the first number only.
        self.fsid = int.from_bytes(digest.digest()[8:], "big") | 1, 0

    def view(self, caller: Caller) -> FileSystem:
        """The file system with the rights of `caller`, who is squashed already."""
        return self.file_system.as_caller(caller)


def check_exports(exports: Iterable[Export]) -> list[Export]:
    """ValueError unless every export can be reached: no two at one path, none inside another."""
    listed = sorted(exports, key=lambda export: export.names)
    for one, other in itertools.pairwise(listed):
        if one.names == other.names[: len(one.names)]:
            raise ValueError(
                f"the export {other.path!r} would be hidden by {one.path!r}; give it another path"
            )
    if len({export.id for export in listed}) != len(listed):
        raise ValueError("two exports have the same number; change the path of one of them")
    return listed
