"""Owners as NFSv4 writes them (RFC 8881 §5.9): numbers, as Linux does with AUTH_SYS, and names of a domain."""

from __future__ import annotations

import grp
import pwd
from collections.abc import Callable
from typing import Final

from quicfs.nfs.limits import MAX_OWNERS
from quicfs.nfs.v4.const import Nfs4Error, Stat

__all__ = ["Owners"]

_ID_MAX: Final = 0xFFFFFFFE  # the one above means "leave it" to chown(2)


class Owners:
    """Translates both ways. Without a `domain` owners are told as numbers; with one, users and groups that this machine
    knows are told as NAME@DOMAIN. Both are understood."""

    def __init__(self, domain: str | None = None) -> None:
        self._domain = domain
        self._users: dict[int, bytes] = {}
        self._groups: dict[int, bytes] = {}

    def user(self, uid: int) -> bytes:
        """The owner as it travels: length, text and padding."""
        packed = self._users.get(uid)
        return packed if packed is not None else _keep(self._users, uid, self._text(uid, _user_name))

    def group(self, gid: int) -> bytes:
        packed = self._groups.get(gid)
        return packed if packed is not None else _keep(self._groups, gid, self._text(gid, _group_name))

    def uid(self, owner: str) -> int:
        """BADOWNER for whom this machine does not know."""
        return self._number(owner, lambda name: pwd.getpwnam(name).pw_uid)

    def gid(self, group: str) -> int:
        return self._number(group, lambda name: grp.getgrnam(name).gr_gid)

    def _text(self, number: int, find: Callable[[int], str]) -> str:
        if self._domain is not None:
            try:
                return f"{find(number)}@{self._domain}"
            except KeyError:
                pass
        return str(number)

    def _number(self, text: str, find: Callable[[str], int]) -> int:
        if text.isascii() and text.isdigit() and len(text) <= 10:
            number = int(text)
            if number > _ID_MAX:
                raise Nfs4Error(Stat.BADOWNER)
            return number
        name, _, domain = text.partition("@")
        if self._domain is None or domain.lower() != self._domain.lower() or "\0" in name:
            raise Nfs4Error(Stat.BADOWNER)
        try:
            return find(name)
        except (KeyError, UnicodeEncodeError):
            raise Nfs4Error(Stat.BADOWNER) from None


def _user_name(uid: int) -> str:
    return pwd.getpwuid(uid).pw_name


def _group_name(gid: int) -> str:
    return grp.getgrgid(gid).gr_name


def _keep(known: dict[int, bytes], number: int, text: str) -> bytes:
    raw = text.encode(errors="surrogateescape")
    packed = len(raw).to_bytes(4, "big") + raw + bytes(-len(raw) & 3)
    if len(known) >= MAX_OWNERS:
        del known[next(iter(known))]
    known[number] = packed
    return packed
