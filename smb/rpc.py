"""The `srvsvc` pipe: the list of shares, over DCE/RPC ([C706] chapter 12, [MS-RPCE] §2.2.2, [MS-SRVS]).

NDR is impacket's. Here are the PDUs around it, their fragments, and the few calls that clients make.
"""

from __future__ import annotations

import enum
import logging
import struct
import uuid
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from impacket.dcerpc.v5 import srvs
from impacket.dcerpc.v5.dtypes import NULL

from quicfs.smb.errors import SmbError
from quicfs.smb.ntstatus import NtStatus

__all__ = [
    "NDR",
    "SRVSVC",
    "Pdu",
    "PduType",
    "ShareEntry",
    "SrvsvcPipe",
    "bind_request",
    "pack_pdu",
    "parse_pdu",
]

# impacket logs the bytes that it cannot read. They are a stranger's; what is wrong is said by our callers.
logging.getLogger("impacket").addFilter(lambda record: False)

MAX_REQUEST: Final = 65536
"""Bytes of one call, all fragments together."""
MAX_CONTEXTS: Final = 16
_FRAGMENT: Final = 4280  # what every implementation takes ([MS-RPCE] §3.3.1.5.6)

SRVSVC: Final = uuid.UUID("4b324fc8-1670-01d3-1278-5a47bf6ee188").bytes_le + struct.pack("<HH", 3, 0)
NDR: Final = uuid.UUID("8a885d04-1ceb-11c9-9fe8-08002b104860").bytes_le + struct.pack("<I", 2)
_SECONDARY: Final = b"\\PIPE\\srvsvc\0"


class PduType(enum.IntEnum):
    REQUEST = 0
    RESPONSE = 2
    FAULT = 3
    BIND = 11
    BIND_ACK = 12
    BIND_NAK = 13
    ALTER_CONTEXT = 14
    ALTER_CONTEXT_RESP = 15


FIRST: Final = 0x01
LAST: Final = 0x02
_OBJECT: Final = 0x80

_HEADER = struct.Struct("<BBBBIHHI")
_LITTLE_ENDIAN: Final = 0x10
_BIND = struct.Struct("<HHIBxxx")
_CONTEXT = struct.Struct("<HBx20s")
_RESULT = struct.Struct("<HH20s")
_REQUEST = struct.Struct("<IHH")
_RESPONSE = struct.Struct("<IHBx")
_FAULT = struct.Struct("<IHBxII")
_SYNTAX_SIZE: Final = 20

# [C706] appendix E
_OP_RANGE: Final = 0x1C010002
_UNKNOWN_INTERFACE: Final = 0x1C010003
_BAD_STUB: Final = 0x000006F7  # RPC_X_BAD_STUB_DATA

# [MS-ERREF] §2.2
_ACCESS_DENIED: Final = 5
_INVALID_LEVEL: Final = 124
_NO_SUCH_SHARE: Final = 2310


@dataclass(frozen=True, slots=True)
class ShareEntry:
    """What a listing says about one share. `kind` is that of [MS-SRVS] §2.2.2.4."""

    name: str
    kind: int = 0
    remark: str = ""

    DISK = 0
    IPC = 3
    SPECIAL = 0x80000000  # flag: administrative


@dataclass(frozen=True, slots=True)
class Pdu:
    kind: int
    flags: int
    call_id: int
    body: bytes  # after the 16 bytes that all have


def _broken(why: str) -> SmbError:
    return SmbError(NtStatus.PIPE_DISCONNECTED, f"DCE/RPC: {why}")


def pack_pdu(kind: int, call_id: int, body: bytes, flags: int = FIRST | LAST) -> bytes:
    size = _HEADER.size + len(body)
    return _HEADER.pack(5, 0, kind, flags, _LITTLE_ENDIAN, size, 0, call_id) + body


def parse_pdu(data: bytes | bytearray) -> tuple[Pdu, int] | None:
    """The first PDU in `data` and its size; None while it is not complete. SmbError when it is none."""
    if len(data) < _HEADER.size:
        return None
    major, minor, kind, flags, order, size, auth, call_id = _HEADER.unpack_from(data)
    if major != 5 or minor > 1 or order & 0xFF != _LITTLE_ENDIAN or size < _HEADER.size:
        raise _broken("a PDU of another protocol")
    if len(data) < size:
        return None
    end = size - (auth + 8 if auth else 0)
    if end < _HEADER.size:
        raise _broken("a PDU whose signature is larger than itself")
    return Pdu(kind, flags, call_id, bytes(data[_HEADER.size : end])), size


def bind_request(call_id: int) -> bytes:
    """BIND to srvsvc with NDR, as a client sends it."""
    body = _BIND.pack(_FRAGMENT, _FRAGMENT, 0, 1) + _CONTEXT.pack(0, 1, SRVSVC) + NDR
    return pack_pdu(PduType.BIND, call_id, body)


class SrvsvcPipe:
    """One open of the pipe, for the server. Bytes in by `write`, messages out by `read`.

    SmbError (PIPE_DISCONNECTED) for what is no DCE/RPC; the pipe is of no use then.
    """

    def __init__(self, shares: Sequence[ShareEntry], server_name: str, comment: str = "") -> None:
        self._shares = shares
        self._server_name = server_name
        self._comment = comment
        self._input = bytearray()
        self._output: deque[bytes] = deque()
        self._contexts: set[int] = set()
        self._fragment = _FRAGMENT
        self._call: bytearray | None = None  # fragments so far

    @property
    def readable(self) -> int:
        """Bytes of the message that `read` gives next; 0 when there is none."""
        return len(self._output[0]) if self._output else 0

    def write(self, data: bytes) -> None:
        self._input += data
        while (parsed := parse_pdu(self._input)) is not None:
            pdu, size = parsed
            del self._input[:size]
            self._handle(pdu)
        if len(self._input) > MAX_REQUEST:
            raise _broken("a PDU without an end")

    def read(self, limit: int) -> bytes:
        """At most `limit` bytes of one message; what is left of it comes next time."""
        if not self._output:
            return b""
        message = self._output[0]
        if len(message) <= limit:
            return self._output.popleft()
        self._output[0] = message[limit:]
        return message[:limit]

    def transact(self, data: bytes, limit: int = MAX_REQUEST) -> bytes:
        """FSCTL_PIPE_TRANSCEIVE: write, then read."""
        self.write(data)
        return self.read(limit)

    def close(self) -> None:
        self._input.clear()
        self._output.clear()

    # PDUs

    def _handle(self, pdu: Pdu) -> None:
        match pdu.kind:
            case PduType.BIND | PduType.ALTER_CONTEXT:
                self._bind(pdu)
            case PduType.REQUEST:
                self._request(pdu)
            case _:
                raise _broken(f"a PDU of type {pdu.kind} to a server")

    def _bind(self, pdu: Pdu) -> None:
        """[C706] §12.6.4.3: an answer for each proposed context."""
        if len(pdu.body) < _BIND.size:
            raise _broken("a BIND that is too short")
        _, receive, group, count = _BIND.unpack_from(pdu.body)
        if not 0 < count <= MAX_CONTEXTS:
            raise _broken(f"{count} contexts in a BIND")
        self._fragment = min(_FRAGMENT, max(receive, 1024))
        results = b""
        at = _BIND.size
        for _ in range(count):
            if at + _CONTEXT.size > len(pdu.body):
                raise _broken("a BIND that ends in a context")
            context, syntaxes, interface = _CONTEXT.unpack_from(pdu.body, at)
            at += _CONTEXT.size
            end = at + syntaxes * _SYNTAX_SIZE
            offered = [
                pdu.body[i : i + _SYNTAX_SIZE] for i in range(at, min(end, len(pdu.body)), _SYNTAX_SIZE)
            ]
            at = end
            results += self._bind_one(context, interface, offered)
        secondary = _SECONDARY if pdu.kind == PduType.BIND else b""
        head = struct.pack("<HHIH", self._fragment, self._fragment, group or 1, len(secondary)) + secondary
        head += bytes(-(_HEADER.size + len(head)) % 4)
        kind = PduType.BIND_ACK if pdu.kind == PduType.BIND else PduType.ALTER_CONTEXT_RESP
        self._output.append(pack_pdu(kind, pdu.call_id, head + struct.pack("<Bxxx", count) + results))

    def _bind_one(self, context: int, interface: bytes, offered: Sequence[bytes]) -> bytes:
        if interface != SRVSVC:
            return _RESULT.pack(2, 1, bytes(20))  # provider rejection: abstract syntax not supported
        if NDR not in offered:
            return _RESULT.pack(2, 2, bytes(20))  # transfer syntaxes not supported
        self._contexts.add(context)
        return _RESULT.pack(0, 0, NDR)

    def _request(self, pdu: Pdu) -> None:
        if len(pdu.body) < _REQUEST.size:
            raise _broken("a request that is too short")
        _, context, operation = _REQUEST.unpack_from(pdu.body)
        stub = pdu.body[_REQUEST.size + (16 if pdu.flags & _OBJECT else 0) :]
        if pdu.flags & FIRST:
            self._call = bytearray()
        if self._call is None:
            raise _broken("a fragment without a first one")
        self._call += stub
        if len(self._call) > MAX_REQUEST:
            raise _broken(f"a call of more than {MAX_REQUEST} bytes")
        if not pdu.flags & LAST:
            return
        stub, self._call = bytes(self._call), None
        if context not in self._contexts:
            self._fault(pdu.call_id, context, _UNKNOWN_INTERFACE)
            return
        handler = _OPERATIONS.get(operation)
        if handler is None:
            self._fault(pdu.call_id, context, _OP_RANGE)
            return
        request_class, method = handler
        try:
            request = request_class(stub)
        except Exception:  # impacket raises whatever comes up, Exception itself included
            self._fault(pdu.call_id, context, _BAD_STUB)
            return
        self._respond(pdu.call_id, context, method(self, request).getData())

    def _fault(self, call_id: int, context: int, status: int) -> None:
        self._output.append(pack_pdu(PduType.FAULT, call_id, _FAULT.pack(0, context, 0, status, 0)))

    def _respond(self, call_id: int, context: int, stub: bytes) -> None:
        room = (self._fragment - _HEADER.size - _RESPONSE.size) & ~7
        for at in range(0, len(stub) or 1, room):
            piece = stub[at : at + room]
            flags = (FIRST if at == 0 else 0) | (LAST if at + room >= len(stub) else 0)
            body = _RESPONSE.pack(len(stub) - at, context, 0) + piece
            self._output.append(pack_pdu(PduType.RESPONSE, call_id, body, flags))

    # Calls, [MS-SRVS] §3.1.4

    def share_enum(self, request: Any) -> Any:
        """NetrShareEnum, §3.1.4.8. Levels 0 and 1; the others are for administrators or do not exist."""
        level = int(request["InfoStruct"]["Level"])
        answer = srvs.NetrShareEnumResponse()
        info = answer["InfoStruct"]
        shown = level if level in _SHARE_LEVELS and level != 2 else 1
        info["Level"] = shown
        info["ShareInfo"]["tag"] = shown
        container = info["ShareInfo"][f"Level{shown}"]
        container["EntriesRead"] = 0
        answer["TotalEntries"] = 0
        answer["ResumeHandle"] = NULL
        if shown != level or not self._shares:
            container["Buffer"] = NULL
        if shown != level:
            answer["ErrorCode"] = _ACCESS_DENIED if level in (2, 502, 503) else _INVALID_LEVEL
            return answer
        for share in self._shares:
            container["Buffer"].append(self._share_info(share, level))
        container["EntriesRead"] = len(self._shares)
        answer["TotalEntries"] = len(self._shares)
        answer["ErrorCode"] = 0
        return answer

    def share_get_info(self, request: Any) -> Any:
        """NetrShareGetInfo, §3.1.4.10."""
        name, level = str(request["NetName"]).rstrip("\0"), int(request["Level"])
        answer = srvs.NetrShareGetInfoResponse()
        share = next((one for one in self._shares if one.name.upper() == name.upper()), None)
        known = level if level in _SHARE_LEVELS else 1
        answer["InfoStruct"]["tag"] = known
        if share is None or known != level:
            answer["InfoStruct"][f"ShareInfo{known}"] = NULL
            refused = _ACCESS_DENIED if level in (502, 503) else _INVALID_LEVEL
            answer["ErrorCode"] = _NO_SUCH_SHARE if share is None else refused
            return answer
        answer["InfoStruct"][f"ShareInfo{level}"] = self._share_info(share, level)
        answer["ErrorCode"] = 0
        return answer

    def _share_info(self, share: ShareEntry, level: int) -> Any:
        info = _SHARE_LEVELS[level]()
        prefix = f"shi{level}_"
        info[f"{prefix}netname"] = f"{share.name}\0"
        if level:
            info[f"{prefix}type"] = share.kind
            info[f"{prefix}remark"] = f"{share.remark}\0"
        if level == 2:
            info[f"{prefix}permissions"] = 0
            info[f"{prefix}max_uses"] = 0xFFFFFFFF
            info[f"{prefix}current_uses"] = 1
            info[f"{prefix}path"] = "\0"  # where the folder is on the server is nobody's business
            info[f"{prefix}passwd"] = NULL
        return info

    def server_get_info(self, request: Any) -> Any:
        """NetrServerGetInfo, §3.1.4.17. Level 101."""
        answer = srvs.NetrServerGetInfoResponse()
        answer["InfoStruct"]["tag"] = 101
        if int(request["Level"]) != 101:
            answer["InfoStruct"]["ServerInfo101"] = NULL
            answer["ErrorCode"] = _INVALID_LEVEL
            return answer
        info = answer["InfoStruct"]["ServerInfo101"]
        info["sv101_platform_id"] = 500  # NT
        info["sv101_name"] = f"{self._server_name}\0"
        info["sv101_version_major"] = 10
        info["sv101_version_minor"] = 0
        info["sv101_type"] = 0x00009003  # workstation, server, NT, server NT
        info["sv101_comment"] = f"{self._comment}\0"
        answer["ErrorCode"] = 0
        return answer


_SHARE_LEVELS: Final = {0: srvs.SHARE_INFO_0, 1: srvs.SHARE_INFO_1, 2: srvs.SHARE_INFO_2}
_OPERATIONS: Final[dict[int, tuple[Callable[[bytes], Any], Callable[[SrvsvcPipe, Any], Any]]]] = {
    srvs.NetrShareEnum.opnum: (srvs.NetrShareEnum, SrvsvcPipe.share_enum),
    srvs.NetrShareGetInfo.opnum: (srvs.NetrShareGetInfo, SrvsvcPipe.share_get_info),
    srvs.NetrServerGetInfo.opnum: (srvs.NetrServerGetInfo, SrvsvcPipe.server_get_info),
}
