"""What commands keep of a connection for the next one to the same server: session ticket and address token.

A file for each, in the user's cache directory, for the user only. It is found by everything that a ticket must not
outlive: server, protocol, the certificates trusted and shown, and who does the handshake. It is taken out when it is
used, since a ticket that is used twice tells observers that both connections are of one client (RFC 8446 §C.4).
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import stat
import time
from pathlib import Path
from typing import Final, NamedTuple

from quicfs.options import AgentOptions
from quicfs.transport.limits import MAX_TOKEN
from quicfs.transport.uapi import AuthMode
from quicfs.transport.wire.ticket import MAX_TICKET, SessionTicket
from quicfs.url import Address

__all__ = ["KeptSession", "SessionCache"]

_log = logging.getLogger("quicfs.sessions")

MAX_FILES: Final = 256
MAX_AGE_S: Final = 7 * 86_400.0  # RFC 8446 §4.6.1: no ticket lives longer
_SUFFIX: Final = ".session"


class KeptSession(NamedTuple):
    """Options SESSION_TICKET and TOKEN; empty for none."""

    ticket: bytes = b""
    token: bytes = b""


class SessionCache:
    """Of the commands that have the same `options`. A cache that cannot be used is as good as an empty one."""

    def __init__(self, options: AgentOptions, directory: Path | None = None) -> None:
        self._directory = directory if directory is not None else _default_directory()
        self._identity = _identity(options)

    def take(self, address: Address, alpn: bytes, auth_mode: AuthMode) -> KeptSession:
        """What is kept for a connection, which is not kept any longer."""
        path = self._path(address, alpn, auth_mode)
        if path is None or not path.exists():
            return KeptSession()
        try:
            _check_directory(path.parent)
            content = _read(path)
            path.unlink()
        except OSError as error:
            _log.info("no session is resumed: %s: %s", path, error.strerror)
            return KeptSession()
        size = int.from_bytes(content[:2], "big")
        session = KeptSession(content[2 : 2 + size], content[2 + size :])
        try:
            if session.ticket:
                SessionTicket.unpack(session.ticket)
            if len(session.token) > MAX_TOKEN:
                raise ValueError("the token is too long")
        except ValueError as error:
            _log.info("no session is resumed: %s: %s", path, error)
            return KeptSession()
        return session

    def put(self, address: Address, alpn: bytes, auth_mode: AuthMode, session: KeptSession) -> None:
        path = self._path(address, alpn, auth_mode)
        if path is None or not any(session):
            return
        draft = path.with_name(f"{path.stem}.{os.getpid()}")
        try:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            _check_directory(path.parent)
            _prune(path.parent)
            descriptor = os.open(
                draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600
            )
            with os.fdopen(descriptor, "wb") as out:
                out.write(len(session.ticket).to_bytes(2, "big") + session.ticket + session.token)
            draft.replace(path)
        except OSError as error:
            _log.info("the session is not kept: %s: %s", path.parent, error.strerror)
            with contextlib.suppress(OSError):
                draft.unlink()

    def _path(self, address: Address, alpn: bytes, auth_mode: AuthMode) -> Path | None:
        if self._directory is None or self._identity is None:
            return None
        name = _digest(self._identity, str(address).lower().encode(), alpn, bytes((auth_mode,)))
        return self._directory / (name.hex()[:40] + _SUFFIX)


def _default_directory() -> Path | None:
    base = os.environ.get("XDG_CACHE_HOME")
    try:
        return (Path(base) if base else Path.home() / ".cache") / "quicfs" / "sessions"
    except RuntimeError:  # nobody knows where home is
        return None


def _identity(options: AgentOptions) -> bytes | None:
    """Of the certificates in force, not of the names of their files; None if one cannot be read: the agent says so."""
    try:
        files = [b"" if path is None else path.read_bytes() for path in (options.ca, options.cert)]
    except OSError:
        return None
    return _digest(*files, os.fsencode(options.socket or ""))


def _digest(*parts: bytes) -> bytes:
    return hashlib.sha256(b"".join(len(part).to_bytes(4, "big") + part for part in parts)).digest()


def _check_directory(directory: Path) -> None:
    """OSError unless it is ours alone."""
    status = directory.lstat()
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.geteuid() or status.st_mode & 0o077:
        raise PermissionError(0, "others may read it, or it is of somebody else: run chmod 700 on it")


def _read(path: Path) -> bytes:
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    with os.fdopen(descriptor, "rb") as file:
        return file.read(2 + MAX_TICKET + MAX_TOKEN + 1)


def _prune(directory: Path) -> None:
    """Old files go, and the oldest ones when there are too many."""
    found: list[tuple[float, str]] = []
    for entry in os.scandir(directory):
        with contextlib.suppress(FileNotFoundError):  # another command took it
            found.append((entry.stat(follow_symlinks=False).st_mtime, entry.path))
    found.sort(reverse=True)
    limit = time.time() - MAX_AGE_S
    for number, (modified, path) in enumerate(found):
        if number >= MAX_FILES - 1 or modified < limit:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path)
