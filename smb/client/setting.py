"""`SetAttr` as SET_INFO requests."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from quicfs.smb.client.operation import Operation, set_info
from quicfs.smb.client.requests import ATTRIBUTES
from quicfs.smb.filetime import filetime_from_ns
from quicfs.smb.fscc.classes import FileInfoClass
from quicfs.smb.fscc.file_info import BasicInfo, pack_u64
from quicfs.smb.fscc.security import Ace, SecurityDescriptor
from quicfs.smb.fscc.sid import gid_sid, mode_sid, uid_sid
from quicfs.smb.messages.access import Access, FileAttribute
from quicfs.smb.messages.info import InfoType, SecurityInformation
from quicfs.vfs.api import NOW, SetAttr

__all__ = ["Changes", "changes_of"]

_ALLOWED: Final = 0
_NORMAL: Final = int(FileAttribute.NORMAL)
_READONLY: Final = int(FileAttribute.READONLY)


@dataclass(frozen=True, slots=True)
class _Setting:
    info_class: int
    data: bytes
    kind: InfoType = InfoType.FILE
    additional: int = 0


@dataclass(frozen=True, slots=True)
class Changes:
    settings: Sequence[_Setting]
    access: int  # what the open needs

    def operations(self, file_id: bytes) -> list[Operation]:
        return [
            set_info(one.info_class, one.data, file_id, kind=one.kind, additional=one.additional)
            for one in self.settings
        ]


def changes_of(changes: SetAttr, clock_offset_ns: int, *, posix: bool) -> Changes:
    """`clock_offset_ns` makes our clock the server's, for `NOW`, which SMB has no word for."""
    settings: list[_Setting] = []
    access = ATTRIBUTES
    if changes.size is not None:
        settings.append(_Setting(FileInfoClass.END_OF_FILE, pack_u64(changes.size)))
        access |= Access.FILE_WRITE_DATA
    security = _security(changes, posix=posix)
    if security is not None:
        settings.append(security)
        if security.additional & SecurityInformation.DACL:
            access |= Access.WRITE_DAC
        if security.additional & (SecurityInformation.OWNER | SecurityInformation.GROUP):
            access |= Access.WRITE_OWNER
    basic = _basic(changes, clock_offset_ns, posix=posix)
    if basic is not None:
        settings.append(_Setting(FileInfoClass.BASIC, basic.pack()))
        access |= Access.FILE_WRITE_ATTRIBUTES
    return Changes(settings, int(access))


def _security(changes: SetAttr, *, posix: bool) -> _Setting | None:
    """Owner, group and mode as the identifiers S-1-5-88-1 to -3, as Linux's own client sends them."""
    if not posix or (changes.mode is None and changes.uid is None and changes.gid is None):
        return None
    which = SecurityInformation(0)
    if changes.uid is not None:
        which |= SecurityInformation.OWNER
    if changes.gid is not None:
        which |= SecurityInformation.GROUP
    dacl = None
    if changes.mode is not None:
        which |= SecurityInformation.DACL
        dacl = (Ace(_ALLOWED, 0, mode_sid(changes.mode & 0o7777)),)
    descriptor = SecurityDescriptor(
        uid_sid(changes.uid) if changes.uid is not None else None,
        gid_sid(changes.gid) if changes.gid is not None else None,
        dacl,
    )
    return _Setting(0, descriptor.pack(), InfoType.SECURITY, int(which))


def _basic(changes: SetAttr, clock_offset_ns: int, *, posix: bool) -> BasicInfo | None:
    attributes = 0
    if not posix and changes.mode is not None:
        attributes = _NORMAL if changes.mode & 0o222 else _READONLY
    given = (changes.btime_ns, changes.atime_ns, changes.mtime_ns)
    if not attributes and given == (None, None, None):
        return None
    now = time.time_ns() + clock_offset_ns
    birth, access, write = (0 if ns is None else filetime_from_ns(now if ns == NOW else ns) for ns in given)
    return BasicInfo(birth, access, write, 0, attributes)
