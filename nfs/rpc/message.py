"""Calls and replies (RFC 5531 §9), and the credentials that they carry (§8, appendix A)."""

from __future__ import annotations

import enum
import functools
import os
import struct
from dataclasses import dataclass
from typing import Final

from quicfs.nfs import limits
from quicfs.nfs.xdr import Packer, Unpacker, XdrError

RPC_VERSION: Final = 2

_WORDS_8: Final = struct.Struct(">8I")
_WORDS_2: Final = struct.Struct(">2I")
_WORDS_3: Final = struct.Struct(">3I")
_CALL: Final = struct.Struct(">6I")
_ACCEPTED: Final = struct.Struct(">6I")
_NO_AUTH: Final = bytes(8)


class Direction(enum.IntEnum):
    """`msg_type`."""

    CALL = 0
    REPLY = 1


class Flavor(enum.IntEnum):
    """`auth_flavor` (§8.2; RFC 9289 §4.1)."""

    NONE = 0
    SYS = 1
    SHORT = 2
    GSS = 6
    TLS = 7


class ReplyStat(enum.IntEnum):
    ACCEPTED = 0
    DENIED = 1


class AcceptStat(enum.IntEnum):
    SUCCESS = 0
    PROG_UNAVAIL = 1
    PROG_MISMATCH = 2
    PROC_UNAVAIL = 3
    GARBAGE_ARGS = 4
    SYSTEM_ERR = 5


class RejectStat(enum.IntEnum):
    RPC_MISMATCH = 0
    AUTH_ERROR = 1


class AuthStat(enum.IntEnum):
    OK = 0
    BADCRED = 1
    REJECTEDCRED = 2
    BADVERF = 3
    REJECTEDVERF = 4
    TOOWEAK = 5
    INVALIDRESP = 6
    FAILED = 7


class RpcFault(Exception):
    """A call that is answered with something else than results. `low` and `high` are the versions of a mismatch."""

    def __init__(self, stat: AcceptStat | AuthStat | RejectStat, low: int = 0, high: int = 0) -> None:
        super().__init__(stat.name)
        self.stat = stat
        self.low = low
        self.high = high


class DropCall(Exception):
    """A call that gets no reply: its stream is closed, so that the client knows (RFC 8881 §2.10.6.2)."""


@dataclass(frozen=True, slots=True)
class AuthNone:
    """Nobody in particular."""


@dataclass(frozen=True, slots=True)
class AuthSys:
    """Who the client says that it calls for; numbers that nobody has checked."""

    stamp: int
    machine: str
    uid: int
    gid: int
    gids: tuple[int, ...] = ()


Credential = AuthSys | AuthNone


@dataclass(slots=True)
class Call:
    """One call as it came. `args` stands at its arguments."""

    xid: int
    program: int
    version: int
    procedure: int
    credential: Credential
    args: Unpacker


@dataclass(slots=True)
class Reply:
    """`fault` None: success, and `results` stands at the results."""

    xid: int
    fault: RpcFault | None
    results: Unpacker


# --- credentials


@functools.lru_cache(maxsize=limits.MAX_KNOWN_CREDENTIALS)
def pack_credential(credential: Credential) -> bytes:
    """Flavor, body and an empty verifier. XdrError for more than fits (RFC 5531 appendix A)."""
    if isinstance(credential, AuthNone):
        return _NO_AUTH + _NO_AUTH
    machine = os.fsencode(credential.machine)
    if len(machine) > limits.MAX_MACHINE_NAME or len(credential.gids) > limits.MAX_GIDS:
        raise XdrError("AUTH_SYS holds a name of 255 bytes and 16 groups")
    body = Packer()
    body.uint32(credential.stamp)
    body.opaque(machine)
    for number in (credential.uid, credential.gid, len(credential.gids), *credential.gids):
        body.uint32(number)
    packed = Packer()
    packed.uint32(Flavor.SYS)
    packed.opaque(body.getvalue())
    return packed.getvalue() + _NO_AUTH


@functools.lru_cache(maxsize=limits.MAX_KNOWN_CREDENTIALS)
def _auth_sys(body: bytes) -> AuthSys:
    """A client sends the same ones again and again: taken apart once."""
    unpacker = Unpacker(body)
    stamp = unpacker.uint32()
    machine = os.fsdecode(unpacker.opaque(limits.MAX_MACHINE_NAME))
    uid, gid, count = unpacker.uint32(), unpacker.uint32(), unpacker.uint32()
    if count > limits.MAX_GIDS:
        raise XdrError(f"{count} groups, {limits.MAX_GIDS} are allowed")
    gids = tuple(unpacker.uint32() for _ in range(count))
    unpacker.done()
    return AuthSys(stamp, machine, uid, gid, gids)


def _unpack_credential(flavor: int, body: memoryview) -> Credential:
    """RpcFault for one that is not taken."""
    match flavor:
        case Flavor.NONE:
            return AuthNone()
        case Flavor.SYS:
            try:
                return _auth_sys(bytes(body))
            except XdrError:
                raise RpcFault(AuthStat.BADCRED) from None
        case _:
            # RFC 9289 §4.1: that is also what a server without STARTTLS says to a probe with AUTH_TLS, and on QUIC
            # nobody has it (draft-cel-nfsv4-rpc-over-quicv1-06 §3.2.1). RPCSEC_GSS clients see it, too.
            raise RpcFault(AuthStat.BADCRED)


# --- messages


def peek(message: memoryview) -> tuple[int, int]:
    """`(xid, direction)`. XdrError if not even those are there."""
    try:
        xid, direction = _WORDS_2.unpack_from(message)
    except struct.error:
        raise XdrError("a message without an XID and a direction") from None
    return xid, direction


def unpack_call(message: memoryview) -> Call:
    """XdrError when it is no call at all, RpcFault when it is one that is denied."""
    try:
        xid, _, rpc_version, program, version, procedure, flavor, size = _WORDS_8.unpack_from(message)
    except struct.error:
        raise XdrError("the header of a call ends too early") from None
    if rpc_version != RPC_VERSION:
        raise RpcFault(RejectStat.RPC_MISMATCH, RPC_VERSION, RPC_VERSION)
    unpacker = Unpacker(message, _WORDS_8.size)
    if size > limits.MAX_AUTH:
        raise RpcFault(AuthStat.BADCRED)
    body = unpacker.take(size)
    unpacker.uint32()  # what a verifier of NONE or SYS holds does not matter
    if (verifier := unpacker.uint32()) > limits.MAX_AUTH:
        raise RpcFault(AuthStat.BADVERF)
    unpacker.take(verifier)
    return Call(xid, program, version, procedure, _unpack_credential(flavor, body), unpacker)


def call_header(xid: int, program: int, version: int, procedure: int, credential: Credential) -> bytes:
    """What stands before the arguments."""
    return _CALL.pack(xid, Direction.CALL, RPC_VERSION, program, version, procedure) + pack_credential(
        credential
    )


def accepted_header(xid: int) -> bytes:
    """What stands before the results of a call that succeeded."""
    return _ACCEPTED.pack(xid, Direction.REPLY, ReplyStat.ACCEPTED, Flavor.NONE, 0, AcceptStat.SUCCESS)


def fault_reply(xid: int, fault: RpcFault) -> bytes:
    match fault.stat:
        case AcceptStat():
            reply = _ACCEPTED.pack(xid, Direction.REPLY, ReplyStat.ACCEPTED, Flavor.NONE, 0, fault.stat)
            mismatch = fault.stat is AcceptStat.PROG_MISMATCH
        case RejectStat():
            reply = _WORDS_2.pack(xid, Direction.REPLY) + _WORDS_2.pack(ReplyStat.DENIED, fault.stat)
            mismatch = fault.stat is RejectStat.RPC_MISMATCH
        case AuthStat():
            reply = _WORDS_2.pack(xid, Direction.REPLY)
            reply += _WORDS_3.pack(ReplyStat.DENIED, RejectStat.AUTH_ERROR, fault.stat)
            mismatch = False
    return reply + _WORDS_2.pack(fault.low, fault.high) if mismatch else reply


def unpack_reply(message: memoryview) -> Reply:
    """XdrError when it is no reply that can be understood."""
    unpacker = Unpacker(message)
    xid, _ = unpacker.uint32(), unpacker.uint32()
    fault: RpcFault | None = None
    try:
        if ReplyStat(unpacker.uint32()) is ReplyStat.ACCEPTED:
            unpacker.uint32()  # the verifier of a server that we have not authenticated to says nothing
            unpacker.opaque(limits.MAX_AUTH)
            accept = AcceptStat(unpacker.uint32())
            if accept is AcceptStat.PROG_MISMATCH:
                fault = RpcFault(accept, unpacker.uint32(), unpacker.uint32())
            elif accept is not AcceptStat.SUCCESS:
                fault = RpcFault(accept)
        elif (reject := RejectStat(unpacker.uint32())) is RejectStat.RPC_MISMATCH:
            fault = RpcFault(reject, unpacker.uint32(), unpacker.uint32())
        else:
            fault = RpcFault(AuthStat(unpacker.uint32()))
    except XdrError:
        raise
    except ValueError as error:  # a number outside its enum
        raise XdrError(str(error)) from None
    return Reply(xid, fault, unpacker)
