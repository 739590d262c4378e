"""Security identifiers ([MS-DTYP] §2.4.2), and those that stand for Unix users, groups and modes."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Final

from quicfs.smb.errors import SmbProtocolError

__all__ = ["EVERYONE", "Sid", "gid_sid", "mode_sid", "uid_sid", "unix_id"]

_MAX_SUB_AUTHORITIES: Final = 15


@dataclass(frozen=True)
class Sid:
    """The same few stand in all entries of a listing, so each keeps its wire form."""

    authority: int  # 48 bits
    sub_authorities: tuple[int, ...]

    @classmethod
    def parse(cls, data: memoryview, at: int) -> tuple[Sid, int]:
        """The SID at `at`, and where it ends."""
        if at < 0 or at + 8 > len(data):
            raise SmbProtocolError("SID: truncated")
        revision, count = data[at], data[at + 1]
        end = at + 8 + 4 * count
        if revision != 1 or count > _MAX_SUB_AUTHORITIES or end > len(data):
            raise SmbProtocolError("SID: bad revision or count")
        authority = int.from_bytes(data[at + 2 : at + 8], "big")
        return cls(authority, struct.unpack_from(f"<{count}I", data, at + 8)), end

    @cached_property
    def packed(self) -> bytes:
        count = len(self.sub_authorities)
        head = bytes((1, count)) + self.authority.to_bytes(6, "big")
        return head + struct.pack(f"<{count}I", *self.sub_authorities)

    def pack(self) -> bytes:
        return self.packed

    def __str__(self) -> str:
        return "-".join(["S-1", str(self.authority), *map(str, self.sub_authorities)])


EVERYONE: Final = Sid(1, (0,))

# What Linux's cifs ("modefromsid", "idsfromsid") and the POSIX extensions use.
_NFS_AUTHORITY: Final = (5, 88)  # S-1-5-88
_SAMBA_AUTHORITY: Final = 22  # S-1-22-1-uid, S-1-22-2-gid
_USER, _GROUP, _MODE = 1, 2, 3


@lru_cache(maxsize=1024)
def uid_sid(uid: int) -> Sid:
    return Sid(5, (88, _USER, uid))


@lru_cache(maxsize=1024)
def gid_sid(gid: int) -> Sid:
    return Sid(5, (88, _GROUP, gid))


def mode_sid(mode: int) -> Sid:
    return Sid(5, (88, _MODE, mode))


def unix_id(sid: Sid) -> tuple[str, int] | None:
    """("uid", n), ("gid", n) or ("mode", n) if the SID is one of these, in either notation."""
    subs = sid.sub_authorities
    if sid.authority == _NFS_AUTHORITY[0] and len(subs) == 3 and subs[0] == _NFS_AUTHORITY[1]:
        kind = {_USER: "uid", _GROUP: "gid", _MODE: "mode"}.get(subs[1])
        return (kind, subs[2]) if kind else None
    if sid.authority == _SAMBA_AUTHORITY and len(subs) == 2:
        kind = {_USER: "uid", _GROUP: "gid"}.get(subs[0])
        return (kind, subs[1]) if kind else None
    return None
