"""The SMB2 packet header, sync and async ([MS-SMB2] §2.2.1), and the transports' framing (§2.1)."""

from __future__ import annotations

import enum
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from quicfs.smb.errors import SmbProtocolError
from quicfs.smb.messages.wire import HEADER_SIZE

__all__ = [
    "ASYNC_COMMAND",
    "DFS_OPERATIONS",
    "DIRECT_TCP_HEADER",
    "DIRECT_TCP_MAX",
    "HEADER_SIZE",
    "RELATED_OPERATIONS",
    "SERVER_TO_REDIR",
    "SIGNATURE_OFFSET",
    "SIGNED",
    "SMB1_MAGIC",
    "SMB2_MAGIC",
    "TRANSFORM_MAGIC",
    "UNSOLICITED_MESSAGE_ID",
    "Command",
    "Header",
    "split_compound",
]

# §2.1: Direct TCP, and SMB over QUIC likewise: one zero byte, then the length in 24 bits.
DIRECT_TCP_HEADER: Final = struct.Struct(">I")
DIRECT_TCP_MAX: Final = (1 << 24) - 1

SMB1_MAGIC: Final = b"\xffSMB"
SMB2_MAGIC: Final = b"\xfeSMB"
TRANSFORM_MAGIC: Final = b"\xfdSMB"

# Flags. Plain integers: they are tested for every message.
SERVER_TO_REDIR: Final = 0x00000001
ASYNC_COMMAND: Final = 0x00000002
RELATED_OPERATIONS: Final = 0x00000004
SIGNED: Final = 0x00000008
DFS_OPERATIONS: Final = 0x10000000

SIGNATURE_OFFSET: Final = 48
UNSOLICITED_MESSAGE_ID: Final = 0xFFFFFFFFFFFFFFFF  # oplock and lease break notifications


class Command(enum.IntEnum):
    NEGOTIATE = 0
    SESSION_SETUP = 1
    LOGOFF = 2
    TREE_CONNECT = 3
    TREE_DISCONNECT = 4
    CREATE = 5
    CLOSE = 6
    FLUSH = 7
    READ = 8
    WRITE = 9
    LOCK = 10
    IOCTL = 11
    CANCEL = 12
    ECHO = 13
    QUERY_DIRECTORY = 14
    CHANGE_NOTIFY = 15
    QUERY_INFO = 16
    SET_INFO = 17
    OPLOCK_BREAK = 18


_SYNC = struct.Struct("<4sHHIHHIIQIIQ16s")
_ASYNC = struct.Struct("<4sHHIHHIIQQQ16s")
_NO_SIGNATURE = bytes(16)


@dataclass(slots=True)
class Header:
    command: int
    message_id: int
    session_id: int = 0
    tree_id: int = 0  # sync form only
    async_id: int = 0  # async form only: flags has ASYNC_COMMAND
    status: int = 0  # in a request: ChannelSequence
    flags: int = 0
    credit_charge: int = 0
    credits: int = 0  # asked for in a request, granted in a response
    next_command: int = 0
    signature: bytes = _NO_SIGNATURE

    @classmethod
    def parse(cls, message: memoryview) -> Header:
        if len(message) < HEADER_SIZE:
            raise SmbProtocolError("SMB2 header: truncated")
        (magic, size, charge, status, command, credits_, flags, next_, mid, reserved, tree, session, sig) = (
            _SYNC.unpack_from(message)
        )
        if magic != SMB2_MAGIC:
            raise SmbProtocolError("SMB2 header: no 0xFE 'SMB'")
        if size != HEADER_SIZE:
            raise SmbProtocolError(f"SMB2 header: StructureSize {size}, not 64")
        if flags & ASYNC_COMMAND:
            async_id = reserved | tree << 32
            return cls(command, mid, session, 0, async_id, status, flags, charge, credits_, next_, sig)
        return cls(command, mid, session, tree, 0, status, flags, charge, credits_, next_, sig)

    def pack(self) -> bytes:
        if self.flags & ASYNC_COMMAND:
            return _ASYNC.pack(
                SMB2_MAGIC,
                HEADER_SIZE,
                self.credit_charge,
                self.status,
                self.command,
                self.credits,
                self.flags,
                self.next_command,
                self.message_id,
                self.async_id,
                self.session_id,
                self.signature,
            )
        return _SYNC.pack(
            SMB2_MAGIC,
            HEADER_SIZE,
            self.credit_charge,
            self.status,
            self.command,
            self.credits,
            self.flags,
            self.next_command,
            self.message_id,
            0,
            self.tree_id,
            self.session_id,
            self.signature,
        )


def split_compound(packet: memoryview, limit: int) -> Iterator[tuple[Header, memoryview]]:
    """The messages of one packet in order (§3.2.4.1.4, §3.3.5.2.7); at most `limit`."""
    start = 0
    for _ in range(limit):
        rest = packet[start:]
        header = Header.parse(rest)
        if header.next_command == 0:
            yield header, rest
            return
        # §2.2.1: NextCommand counts from this header and keeps 8-byte alignment.
        if header.next_command % 8 or header.next_command < HEADER_SIZE:
            raise SmbProtocolError("SMB2 header: NextCommand is not aligned")
        if header.next_command + HEADER_SIZE > len(rest):
            raise SmbProtocolError("SMB2 header: NextCommand points outside the packet")
        yield header, rest[: header.next_command]
        start += header.next_command
    raise SmbProtocolError(f"a compound of more than {limit} messages")
