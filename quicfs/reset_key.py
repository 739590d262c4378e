"""The secret with which a server that was restarted resets the connections that it has forgotten (RFC 9000 §10.3.2).

Without it their clients would wait for a timeout; with it they hear at once and connect again.
"""

from __future__ import annotations

import logging
import os
import secrets
from pathlib import Path
from typing import Final

__all__ = ["kept_reset_key"]

_SIZE: Final = 32
_log = logging.getLogger("quicfs")


def kept_reset_key(directory: Path) -> bytes | None:
    """What is kept in the file reset.key of `directory`, which is made when it is missing.

    None, and a line in the log, where nothing can be kept: then a restart has clients wait.
    """
    path = directory / "reset.key"
    try:
        return _read(path) or _make(path)
    except OSError as error:
        _log.info("connections will not be reset after a restart: %s: %s", path, error.strerror)
        return None


def _read(path: Path) -> bytes | None:
    try:
        key = path.read_bytes()
    except FileNotFoundError:
        return None
    return key if len(key) == _SIZE else None


def _make(path: Path) -> bytes:
    """Whole or not at all, and for nobody else to read."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    key = secrets.token_bytes(_SIZE)
    fresh = path.with_name(f"{path.name}.{os.getpid()}")
    descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(key)
        fresh.replace(path)
    except BaseException:
        fresh.unlink(missing_ok=True)
        raise
    return key
