"""The file of users: a line `name:NT hash` for each, `#` for remarks.

The hash (MD4 of the password in UTF-16) is as good as the password for NTLM, so nobody but the owner and
the group may read the file. Names are compared as Windows does, without regard to case.
"""

from __future__ import annotations

import fcntl
import logging
import os
import re
import stat
import tempfile
from pathlib import Path
from typing import Final

from impacket import ntlm

__all__ = ["MAX_FILE", "UserDb", "UserDbError", "check_name", "nt_hash"]

_log = logging.getLogger("quicfs.smb")

MAX_FILE: Final = 16 << 20  # bytes
_HASH: Final = re.compile(r"[0-9a-fA-F]{32}")
# [MS-SAMR] §3.1.1.6: what no account name may hold; ":" is one of them. Neither may a name begin a remark.
_BAD_NAME: Final = re.compile(r'["/\\\[\]:;|=,+*?<>\x00-\x1f]|^[#\s]|\s$|^$')
MAX_NAME: Final = 104
"""Characters of a name; the limit of a user principal name's first half in Windows is near it."""


class UserDbError(Exception):
    """The file of users cannot be used. The text is a sentence with the remedy."""


def nt_hash(password: str) -> bytes:
    """NTOWFv1 of [MS-NLMP] §3.3.1, 16 bytes."""
    digest: bytes = ntlm.compute_nthash(password)
    return digest


def _key(name: str) -> str:
    return name.upper()


class UserDb:
    """Users and their NT hashes. `find` rereads the file when it was changed."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._users: dict[str, tuple[str, bytes]] = {}
        self._stamp: tuple[int, int, int, int] | None = None

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> UserDb:
        """Read the file at `path`. UserDbError when it is missing, unsafe or malformed."""
        db = cls(Path(path))
        db._read()
        return db

    @property
    def path(self) -> Path:
        return self._path

    def names(self) -> list[str]:
        return sorted(name for name, _ in self._users.values())

    def find(self, name: str) -> bytes | None:
        """The NT hash of `name`, or None. A file that has become unusable lets nobody in."""
        try:
            status = os.stat(self._path)
            changed = self._stamp_of(status) != self._stamp
        except OSError:
            changed = True
        if changed:
            try:
                self._read()
            except UserDbError as error:
                if self._users or self._stamp is not None:
                    _log.error("nobody can log in: %s", error)
                self._users, self._stamp = {}, None
        found = self._users.get(_key(name))
        return found[1] if found else None

    def add(self, name: str, password: str) -> None:
        """Add `name`, or give it a new password. The file is made (0600) if it is not there."""
        check_name(name)
        self._update(name, nt_hash(password))

    def remove(self, name: str) -> bool:
        """Whether there was such a user."""
        known = _key(name) in self._users
        self._update(name, None)
        return known

    # The file

    @staticmethod
    def _stamp_of(status: os.stat_result) -> tuple[int, int, int, int]:
        return status.st_ino, status.st_mtime_ns, status.st_size, status.st_mode

    def _read(self) -> None:
        try:
            with open(self._path, "rb") as file:
                status = os.fstat(file.fileno())
                self._check(status)
                text = file.read(MAX_FILE + 1)
        except FileNotFoundError:
            raise UserDbError(
                f"there is no file of users at {self._path}: make one with `quicfs user add NAME`"
            ) from None
        except OSError as error:
            raise UserDbError(f"the file of users {self._path} cannot be read: {error.strerror}") from error
        self._users = self._parse(text)
        self._stamp = self._stamp_of(status)

    def _check(self, status: os.stat_result) -> None:
        if not stat.S_ISREG(status.st_mode):
            raise UserDbError(f"{self._path} is not a regular file, so it cannot be the file of users")
        if status.st_mode & 0o027:
            raise UserDbError(
                f"the file of users {self._path} is open to others, who could log in with what it holds: "
                f"close it with `chmod 600 {self._path}`"
            )
        if status.st_size > MAX_FILE:
            raise UserDbError(f"the file of users {self._path} is larger than {MAX_FILE} bytes")

    def _parse(self, text: bytes) -> dict[str, tuple[str, bytes]]:
        users: dict[str, tuple[str, bytes]] = {}
        try:
            lines = text.decode().splitlines()
        except UnicodeDecodeError:
            raise UserDbError(f"the file of users {self._path} is not UTF-8 text") from None
        for number, line in enumerate(lines, 1):
            if not line.strip() or line.startswith("#"):
                continue
            name, _, digest = line.partition(":")
            digest = digest.strip()
            if _BAD_NAME.search(name) or not _HASH.fullmatch(digest):
                raise UserDbError(
                    f"line {number} of {self._path} is not `name:NT hash`: "
                    f"remove it, and add the user with `quicfs user add NAME`"
                )
            users[_key(name)] = (name, bytes.fromhex(digest))
        return users

    def _update(self, name: str, digest: bytes | None) -> None:
        """Change one line under a lock, and replace the file in one step."""
        directory = self._path.parent
        try:
            lock = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
        except OSError as error:
            raise UserDbError(f"the folder {directory} cannot be used: {error.strerror}") from error
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if self._path.exists():
                self._read()
            users = dict(self._users)
            users.pop(_key(name), None)
            if digest is not None:
                users[_key(name)] = (name, digest)
            self._write(users)
            os.fsync(lock)
            self._read()
        except OSError as error:
            raise UserDbError(
                f"the file of users {self._path} cannot be written: {error.strerror}"
            ) from error
        finally:
            os.close(lock)

    def _write(self, users: dict[str, tuple[str, bytes]]) -> None:
        text = "".join(f"{name}:{digest.hex()}\n" for name, digest in users.values())
        handle, temporary = tempfile.mkstemp(prefix=f".{self._path.name}.", dir=self._path.parent)
        try:
            with os.fdopen(handle, "w", encoding="utf-8") as file:  # mkstemp made it 0600
                file.write("# Users of quicfs. Change it with `quicfs user add` and `quicfs user remove`.\n")
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, self._path)
        except BaseException:
            os.unlink(temporary)
            raise


def check_name(name: str) -> None:
    """UserDbError when `name` cannot be an account's name."""
    if _BAD_NAME.search(name) or len(name) > MAX_NAME:
        raise UserDbError(
            f"{name!r} cannot be a user's name: it must have 1 to {MAX_NAME} characters, none of them "
            'one of "/\\[]:;|=,+*?<>, and must not begin with # or a space'
        )
