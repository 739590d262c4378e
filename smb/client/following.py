"""Symbolic links on the way: where a path leads after one of them."""

from __future__ import annotations

import posixpath
from collections.abc import Sequence

from quicfs.smb.client.errors import RequestFailed
from quicfs.smb.errors import SmbProtocolError
from quicfs.smb.messages.error import ErrorResponse, SymlinkError
from quicfs.vfs.status import FsError, Status

__all__ = ["joined", "redirected", "shown"]


def shown(names: Sequence[str]) -> str:
    return "/" + "/".join(names)


def redirected(names: Sequence[str], wire: str, stopped: RequestFailed) -> list[str]:
    """Where the path leads after the symbolic link that it ran into ([MS-SMB2] §2.2.2.2.1.1)."""
    try:
        error = SymlinkError.parse(memoryview(ErrorResponse.parse(stopped.answer.message).data))
    except SmbProtocolError as broken:
        raise FsError(Status.IO, f"{shown(names)}: {broken}") from broken
    rest = error.unparsed_length // 2
    head = wire[: len(wire) - rest]
    tail = wire[len(wire) - rest :]
    target = error.substitute_name.replace("\\", "/")
    if not error.relative:
        raise FsError(Status.CROSS_DEVICE, f"{shown(names)} leads out of the share")
    where = head.replace("\\", "/").strip("/").split("/")[:-1]
    return joined(names, where, target, [name for name in tail.replace("\\", "/").split("/") if name])


def joined(names: Sequence[str], where: Sequence[str], target: str, rest: Sequence[str]) -> list[str]:
    """The names of `target` as seen from the directory `where`, and `rest` after them."""
    path = posixpath.normpath("/".join((*where, target, *rest)))
    if target.startswith("/") or path == ".." or path.startswith("../"):
        raise FsError(Status.CROSS_DEVICE, f"{shown(names)} leads out of the share")
    return [] if path == "." else path.split("/")
