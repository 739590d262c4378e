"""A secret that a server makes once and keeps in a file between its runs."""

from __future__ import annotations

import os
import secrets
from pathlib import Path
from typing import Final

__all__ = ["SECRET_SIZE", "kept_secret"]

SECRET_SIZE: Final = 32


def kept_secret(path: Path) -> bytes:
    """The `SECRET_SIZE` bytes in the file `path`, which is made when it is missing or damaged. OSError."""
    return _read(path) or _make(path)


def _read(path: Path) -> bytes | None:
    try:
        secret = path.read_bytes()
    except FileNotFoundError:
        return None
    return secret if len(secret) == SECRET_SIZE else None


def _make(path: Path) -> bytes:
    """Whole or not at all, and for nobody else to read."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    secret = secrets.token_bytes(SECRET_SIZE)
    fresh = path.with_name(f"{path.name}.{os.getpid()}")
    descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(secret)
        fresh.replace(path)
    except BaseException:
        fresh.unlink(missing_ok=True)
        raise
    return secret
