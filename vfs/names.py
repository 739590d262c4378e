"""Paths of the contract: one name or several joined by "/", relative, without "." and ".."."""

from __future__ import annotations

import os
from typing import Final

from quicfs.vfs.status import FsError, Status

NAME_MAX: Final = 255  # bytes, as Linux counts
PATH_MAX: Final = 4095  # bytes

_BAD_NAMES: Final = frozenset((b"", b".", b".."))


def encode_path(path: str) -> bytes:
    """The bytes of a checked path; "" passes as it is (it names the directory itself).

    INVALID for NUL, for absolute paths and for empty, "." and ".." components; NAME_TOO_LONG; BAD_NAME for
    surrogates that stand for no byte.
    """
    try:
        raw = os.fsencode(path)
    except UnicodeEncodeError:
        raise FsError(Status.BAD_NAME, ascii(path)) from None
    if not raw:
        return raw
    if b"\0" in raw:
        raise FsError(Status.INVALID, ascii(path))
    if len(raw) > NAME_MAX:
        _check_long(raw, path)
    if b"/" not in raw:
        if raw in _BAD_NAMES:
            raise FsError(Status.INVALID, path)
    elif not _BAD_NAMES.isdisjoint(raw.split(b"/")):
        raise FsError(Status.INVALID, path)
    return raw


def split_path(path: str) -> tuple[bytes, bytes]:
    """The directory part ("" if there is none) and the last name, which must be there."""
    raw = encode_path(path)
    if not raw:
        raise FsError(Status.INVALID, "an empty name")
    parent, _, name = raw.rpartition(b"/")
    return parent, name


def _check_long(raw: bytes, path: str) -> None:
    if len(raw) > PATH_MAX or any(len(name) > NAME_MAX for name in raw.split(b"/")):
        raise FsError(Status.NAME_TOO_LONG, path[:40] + "...")
