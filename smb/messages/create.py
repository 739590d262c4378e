"""CREATE ([MS-SMB2] §2.2.13 and §2.2.14). A FileId is its 16 bytes, opaque to everyone but the server."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass, field

from quicfs.smb.errors import SmbProtocolError
from quicfs.smb.messages.create_contexts import pack_contexts, parse_contexts
from quicfs.smb.messages.wire import HEADER_SIZE, align8, body, encode_utf16, name_at, take

__all__ = ["RELATED_FILE_ID", "CreateRequest", "CreateResponse"]

RELATED_FILE_ID = b"\xff" * 16  # the FileId of the request before, in a related compound

_REQUEST = struct.Struct("<HBBIQQIIIIIHHII")
_RESPONSE = struct.Struct("<HBBIQQQQQQII16sII")


@dataclass(slots=True)
class CreateRequest:
    name: str  # relative to the share, backslashes between components
    desired_access: int
    share_access: int
    disposition: int
    options: int = 0
    file_attributes: int = 0
    impersonation_level: int = 2
    oplock_level: int = 0
    contexts: Mapping[bytes, bytes | memoryview] = field(default_factory=dict)

    @classmethod
    def parse(cls, message: memoryview) -> CreateRequest:
        (
            _,
            _,
            oplock,
            impersonation,
            _,
            _,
            access,
            attributes,
            share,
            disposition,
            options,
            name_at_,
            name_length,
            contexts_at,
            contexts_length,
        ) = body(_REQUEST, message, 57, "CREATE request")
        name = name_at(message, name_at_, name_length, "CREATE request: name")
        if contexts_length and contexts_at % 8:
            raise SmbProtocolError("CREATE request: contexts are not aligned")
        tail = take(message, contexts_at, contexts_length, "CREATE request: contexts", least=HEADER_SIZE)
        contexts = parse_contexts(tail) if contexts_length else {}
        return cls(name, access, share, disposition, options, attributes, impersonation, oplock, contexts)

    def pack(self) -> bytes:
        name = encode_utf16(self.name)
        at = HEADER_SIZE + _REQUEST.size
        contexts = pack_contexts(self.contexts)
        contexts_at = align8(at + len(name)) if contexts else 0
        fixed = _REQUEST.pack(
            57,
            0,
            self.oplock_level,
            self.impersonation_level,
            0,
            0,
            self.desired_access,
            self.file_attributes,
            self.share_access,
            self.disposition,
            self.options,
            at,
            len(name),
            contexts_at,
            len(contexts),
        )
        # §2.2.13: the buffer has at least one byte, also for the root's empty name.
        padding = bytes(contexts_at - at - len(name)) if contexts else b"" if name else b"\0"
        return b"".join((fixed, name, padding, contexts))


@dataclass(slots=True)
class CreateResponse:
    file_id: bytes
    create_action: int
    creation_time: int  # FILETIMEs
    last_access_time: int
    last_write_time: int
    change_time: int
    allocation_size: int
    end_of_file: int
    file_attributes: int
    oplock_level: int = 0
    flags: int = 0  # 1: the name is a reparse point
    contexts: Mapping[bytes, bytes | memoryview] = field(default_factory=dict)

    @classmethod
    def parse(cls, message: memoryview) -> CreateResponse:
        _, oplock, flags, action, c, a, w, ch, allocation, end, attributes, _, file_id, at, length = body(
            _RESPONSE, message, 89, "CREATE response"
        )
        tail = take(message, at, length, "CREATE response: contexts", least=HEADER_SIZE)
        contexts = parse_contexts(tail) if length else {}
        return cls(file_id, action, c, a, w, ch, allocation, end, attributes, oplock, flags, contexts)

    def pack(self) -> bytes:
        contexts = pack_contexts(self.contexts) if self.contexts else b""
        return (
            _RESPONSE.pack(
                89,
                self.oplock_level,
                self.flags,
                self.create_action,
                self.creation_time,
                self.last_access_time,
                self.last_write_time,
                self.change_time,
                self.allocation_size,
                self.end_of_file,
                self.file_attributes,
                0,
                self.file_id,
                HEADER_SIZE + _RESPONSE.size if contexts else 0,
                len(contexts),
            )
            + contexts
        )
