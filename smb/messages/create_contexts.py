"""Create contexts ([MS-SMB2] §2.2.13.2 and §2.2.14.2; POSIX: the SMB 3.1.1 POSIX extensions).

A list of contexts is a mapping from the context's name to its data, in the order of the wire.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from quicfs.smb.errors import SmbProtocolError
from quicfs.smb.fscc.sid import Sid
from quicfs.smb.messages.negotiate_contexts import POSIX_GUID
from quicfs.smb.messages.wire import take, unpack

__all__ = [
    "ALLOCATION_SIZE",
    "DURABLE_HANDLE_REQUEST",
    "DURABLE_HANDLE_REQUEST_V2",
    "EXTENDED_ATTRIBUTES",
    "POSIX",
    "QUERY_MAXIMAL_ACCESS",
    "QUERY_ON_DISK_ID",
    "REQUEST_LEASE",
    "SECURITY_DESCRIPTOR",
    "TIMEWARP",
    "MaximalAccess",
    "PosixCreateResponse",
    "pack_contexts",
    "pack_on_disk_id",
    "pack_posix_mode",
    "parse_allocation_size",
    "parse_contexts",
    "parse_on_disk_id",
    "parse_posix_mode",
]

EXTENDED_ATTRIBUTES: Final = b"ExtA"
SECURITY_DESCRIPTOR: Final = b"SecD"
DURABLE_HANDLE_REQUEST: Final = b"DHnQ"
DURABLE_HANDLE_REQUEST_V2: Final = b"DH2Q"
ALLOCATION_SIZE: Final = b"AlSi"
QUERY_MAXIMAL_ACCESS: Final = b"MxAc"
TIMEWARP: Final = b"TWrp"
QUERY_ON_DISK_ID: Final = b"QFid"
REQUEST_LEASE: Final = b"RqLs"
POSIX: Final = POSIX_GUID

_CONTEXT = struct.Struct("<IHHHHI")  # Next, NameOffset, NameLength, Reserved, DataOffset, DataLength
_MAX_CONTEXTS = 32


def parse_contexts(data: memoryview) -> dict[bytes, memoryview]:
    found: dict[bytes, memoryview] = {}
    at = 0
    for _ in range(_MAX_CONTEXTS):
        next_, name_at, name_length, _, data_at, data_length = unpack(_CONTEXT, data, at, "create context")
        end = len(data)
        if next_:
            # §2.2.13.2: Next keeps 8-byte alignment and must stay inside.
            if next_ % 8 or next_ < _CONTEXT.size or at + next_ >= end:
                raise SmbProtocolError("create context: bad Next")
            end = at + next_
        one = data[at:end]
        name = bytes(take(one, name_at, name_length, "create context: name", least=_CONTEXT.size))
        found[name] = take(one, data_at, data_length, "create context: data", least=_CONTEXT.size)
        if not next_:
            return found
        at += next_
    raise SmbProtocolError(f"more than {_MAX_CONTEXTS} create contexts")


def pack_contexts(contexts: Mapping[bytes, bytes | memoryview]) -> bytes:
    packed = bytearray()
    last = len(contexts) - 1
    for index, (name, data) in enumerate(contexts.items()):
        data_at = _CONTEXT.size + len(name) + (-len(name) % 8)
        size = data_at + len(data)
        padded = size + (-size % 8)
        packed += _CONTEXT.pack(
            0 if index == last else padded,
            _CONTEXT.size,
            len(name),
            0,
            data_at if data else 0,
            len(data),
        )
        packed += name + bytes(-len(name) % 8) + data
        if index != last:
            packed += bytes(padded - size)
    return bytes(packed)


_ALLOCATION = struct.Struct("<Q")
_MODE = struct.Struct("<I")
_MAXIMAL = struct.Struct("<II")
_ON_DISK = struct.Struct("<QQ16x")
_POSIX_RESPONSE = struct.Struct("<III")


def parse_allocation_size(data: memoryview) -> int:
    size: int = unpack(_ALLOCATION, data, 0, "AlSi context")[0]
    return size


def parse_posix_mode(data: memoryview) -> int:
    mode: int = unpack(_MODE, data, 0, "POSIX create context")[0]
    return mode


def pack_posix_mode(mode: int) -> bytes:
    return _MODE.pack(mode)


def parse_on_disk_id(data: memoryview) -> tuple[int, int]:
    """DiskFileId and VolumeId (§2.2.14.2.9)."""
    file_id, volume_id = unpack(_ON_DISK, data, 0, "QFid context")
    return file_id, volume_id


def pack_on_disk_id(file_id: int, volume_id: int) -> bytes:
    return _ON_DISK.pack(file_id, volume_id)


@dataclass(slots=True)
class MaximalAccess:
    """§2.2.14.2.5."""

    query_status: int
    access: int

    @classmethod
    def parse(cls, data: memoryview) -> MaximalAccess:
        return cls(*unpack(_MAXIMAL, data, 0, "MxAc context"))

    def pack(self) -> bytes:
        return _MAXIMAL.pack(self.query_status, self.access)


@dataclass(slots=True)
class PosixCreateResponse:
    nlink: int
    reparse_tag: int
    mode: int  # permission bits; the type of file above them, as `fscc.posix` says
    owner: Sid
    group: Sid

    @classmethod
    def parse(cls, data: memoryview) -> PosixCreateResponse:
        nlink, tag, mode = unpack(_POSIX_RESPONSE, data, 0, "POSIX create context")
        owner, at = Sid.parse(data, _POSIX_RESPONSE.size)
        group, _ = Sid.parse(data, at)
        return cls(nlink, tag, mode, owner, group)

    def pack(self) -> bytes:
        fixed = _POSIX_RESPONSE.pack(self.nlink, self.reparse_tag, self.mode)
        return fixed + self.owner.pack() + self.group.pack()
