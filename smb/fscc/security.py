"""Self-relative security descriptors with owner, group and DACL ([MS-DTYP] §2.4.4 to §2.4.6)."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from quicfs.smb.errors import SmbProtocolError
from quicfs.smb.fscc.sid import EVERYONE, Sid, gid_sid, mode_sid, uid_sid, unix_id
from quicfs.smb.messages.access import Access
from quicfs.smb.messages.wire import unpack

__all__ = ["Ace", "SecurityDescriptor", "descriptor_of_mode"]

_DESCRIPTOR = struct.Struct("<BBHIIII")
_ACL = struct.Struct("<BBHHH")
_ACE = struct.Struct("<BBHI")
_SELF_RELATIVE: Final = 0x8000
_DACL_PRESENT: Final = 0x0004
_MAX_ACES: Final = 1024

ACCESS_ALLOWED: Final = 0
ACCESS_DENIED: Final = 1


@dataclass(frozen=True, slots=True)
class Ace:
    kind: int
    mask: int
    sid: Sid
    flags: int = 0

    def pack(self) -> bytes:
        sid = self.sid.pack()
        return _ACE.pack(self.kind, self.flags, _ACE.size + len(sid), self.mask) + sid


@dataclass(frozen=True, slots=True)
class SecurityDescriptor:
    owner: Sid | None = None
    group: Sid | None = None
    dacl: Sequence[Ace] | None = None  # None: there is none; empty: nobody may do anything

    @property
    def mode(self) -> int | None:
        """The Unix mode that an S-1-5-88-3 entry carries."""
        for ace in self.dacl or ():
            found = unix_id(ace.sid)
            if found and found[0] == "mode":
                return found[1] & 0o7777
        return None

    @property
    def uid(self) -> int | None:
        return self._unix(self.owner, "uid")

    @property
    def gid(self) -> int | None:
        return self._unix(self.group, "gid")

    @staticmethod
    def _unix(sid: Sid | None, kind: str) -> int | None:
        found = unix_id(sid) if sid else None
        return found[1] if found and found[0] == kind else None

    @classmethod
    def parse(cls, data: memoryview) -> SecurityDescriptor:
        revision, _, control, owner_at, group_at, _, dacl_at = unpack(
            _DESCRIPTOR, data, 0, "security descriptor"
        )
        if revision != 1 or not control & _SELF_RELATIVE:
            raise SmbProtocolError("security descriptor: not self-relative")
        owner = Sid.parse(data, owner_at)[0] if owner_at else None
        group = Sid.parse(data, group_at)[0] if group_at else None
        dacl = _parse_acl(data, dacl_at) if control & _DACL_PRESENT and dacl_at else None
        return cls(owner, group, dacl)

    def pack(self) -> bytes:
        control = _SELF_RELATIVE
        tail = bytearray()
        at = _DESCRIPTOR.size
        owner_at = group_at = dacl_at = 0
        if self.owner:
            owner_at = at + len(tail)
            tail += self.owner.pack()
        if self.group:
            group_at = at + len(tail)
            tail += self.group.pack()
        if self.dacl is not None:
            control |= _DACL_PRESENT
            dacl_at = at + len(tail)
            aces = b"".join(ace.pack() for ace in self.dacl)
            tail += _ACL.pack(2, 0, _ACL.size + len(aces), len(self.dacl), 0) + aces
        return _DESCRIPTOR.pack(1, 0, control, owner_at, group_at, 0, dacl_at) + tail


def _parse_acl(data: memoryview, at: int) -> list[Ace]:
    _, _, size, count, _ = unpack(_ACL, data, at, "ACL")
    end = at + size
    if end > len(data) or count > _MAX_ACES:
        raise SmbProtocolError("ACL: bad size or count")
    at += _ACL.size
    aces: list[Ace] = []
    for _ in range(count):
        kind, flags, ace_size, mask = unpack(_ACE, data, at, "ACE")
        if ace_size < _ACE.size + 8 or at + ace_size > end:
            raise SmbProtocolError("ACE: bad size")
        if kind in (ACCESS_ALLOWED, ACCESS_DENIED):
            sid, _ = Sid.parse(data[: at + ace_size], at + _ACE.size)
            aces.append(Ace(kind, mask, sid, flags))
        at += ace_size
    return aces


# What the three bits of a class of users allow. A directory's w includes deleting what is in it.
_READ: Final = Access.FILE_GENERIC_READ
_WRITE: Final = Access.FILE_GENERIC_WRITE | Access.FILE_DELETE_CHILD
_EXECUTE: Final = Access.FILE_GENERIC_EXECUTE
_OWNER_ALWAYS: Final = Access.WRITE_DAC | Access.WRITE_OWNER | Access.DELETE | Access.FILE_WRITE_ATTRIBUTES


def _mask(bits: int) -> int:
    mask = int(Access.SYNCHRONIZE | Access.READ_CONTROL | Access.FILE_READ_ATTRIBUTES)
    for bit, access in ((4, _READ), (2, _WRITE), (1, _EXECUTE)):
        if bits & bit:
            mask |= access
    return mask


def descriptor_of_mode(mode: int, uid: int, gid: int) -> SecurityDescriptor:
    """Owner, group and mode of a Unix file; the mode itself stands first, for clients that look for it."""
    owner, group = uid_sid(uid), gid_sid(gid)
    dacl = (
        Ace(ACCESS_DENIED, 0, mode_sid(mode)),
        Ace(ACCESS_ALLOWED, _mask(mode >> 6 & 7) | _OWNER_ALWAYS, owner),
        Ace(ACCESS_ALLOWED, _mask(mode >> 3 & 7), group),
        Ace(ACCESS_ALLOWED, _mask(mode & 7), EVERYONE),
    )
    return SecurityDescriptor(owner, group, dacl)
