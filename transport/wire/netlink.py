"""The messages of the generic netlink family `handshake`, byte for byte those of Linux.

`build` makes one netlink message of one of the dataclasses below, `parse` is its inverse. They differ by
command and direction: an ACCEPT with NLM_F_REQUEST is the agent's question, without it the kernel's
answer. Attributes are written in the order in which Linux writes them; unknown ones are skipped when read.

pyroute2 makes and reads them (`nlmsg`). From one handshake to the next they differ in the sequence number and the
descriptor's number only, so the rest is remembered, and these two are put into their places.
"""

from __future__ import annotations

import functools
import importlib
import struct
from dataclasses import dataclass, replace
from typing import Final

from quicfs.transport.uapi import AuthMode, HandlerClass, HandshakeCmd, MessageType

FAMILY_NAME: Final = "handshake"
FAMILY_VERSION: Final = 1
MULTICAST_GROUP: Final = "tlshd"
MODEL_FAMILY: Final = 0x1C
"""Message type on the model's bus, where there is nobody to resolve the family's name."""

MAX_MESSAGE: Final = 4096  # bytes; ours stay far below
MAX_PEER_IDENTITIES: Final = 64
MAX_PEERNAME: Final = 255  # octets of a host name (RFC 1035 §2.3.4)

KEY_SERIAL_NONE: Final = 0
"""Key serial that stands for no key (keyrings(7))."""

HEADER: Final = struct.Struct("=IHHII")  # length, type, flags, sequence number, port id

_REMEMBERED: Final = 64
"""Messages that are kept, but for their numbers."""

_MIN_LENGTH: Final = HEADER.size + 4
_CMD_AT: Final = HEADER.size
_SEQ: Final = struct.Struct("=I")
_SEQ_AT: Final = 8
_NO_SEQ: Final = bytes(_SEQ.size)
_SOCKFD: Final = struct.Struct("=i")
_NO_SOCKFD: Final = bytes(_SOCKFD.size)
_U32_ATTR: Final = struct.Struct("=HH")
_FIRST_ATTR: Final = HEADER.size + 4
_U32_ATTR_LENGTH: Final = 8


@dataclass(frozen=True, slots=True)
class Header:
    type: int  # the family's id
    flags: int = 0
    seq: int = 0
    pid: int = 0
    version: int = FAMILY_VERSION


@dataclass(frozen=True, slots=True)
class Ready:
    """kernel -> agents, multicast: a request waits."""

    handler_class: int = HandlerClass.TLSHD


@dataclass(frozen=True, slots=True)
class Accept:
    """agent -> kernel: give me a request of this class."""

    handler_class: int = HandlerClass.TLSHD


@dataclass(frozen=True, slots=True)
class Certificate:
    """Key serials of a certificate and of its private key."""

    cert: int
    privkey: int


@dataclass(frozen=True, slots=True)
class Request:
    """kernel -> agent, the answer to ACCEPT: do this handshake on descriptor `sockfd`.

    In the model the descriptor itself comes along with SCM_RIGHTS, and `sockfd` is only the name that DONE
    has to repeat. `timeout_ms` 0: the agent's own limit.
    """

    sockfd: int
    message_type: int = MessageType.CLIENTHELLO
    peername: str = ""
    timeout_ms: int = 0
    keyring: int = KEY_SERIAL_NONE
    auth_mode: int = AuthMode.UNAUTH
    peer_identities: tuple[int, ...] = ()
    certificates: tuple[Certificate, ...] = ()


@dataclass(frozen=True, slots=True)
class Done:
    """agent -> kernel: the outcome. `status` is a positive errno, 0 for success."""

    status: int
    sockfd: int
    remote_auth: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Error:
    """kernel -> agent, NLMSG_ERROR: the request with sequence number `seq` failed. `errno` is positive."""

    errno: int
    seq: int


Message = Ready | Accept | Request | Done | Error


# Where the descriptor's number stands, and what stands before it: the headers of attributes of four bytes.
_REQUEST_SOCKFD: Final = _FIRST_ATTR + _U32_ATTR.size
_DONE_SOCKFD: Final = _REQUEST_SOCKFD + _U32_ATTR_LENGTH
_ATTR_1: Final = _U32_ATTR.pack(_U32_ATTR_LENGTH, 1)  # ACCEPT_SOCKFD, DONE_STATUS
_ATTR_2: Final = _U32_ATTR.pack(_U32_ATTR_LENGTH, 2)  # DONE_SOCKFD


def prepare() -> None:
    """Load pyroute2 now: the first message takes no longer than others then."""
    importlib.import_module("quicfs.transport.wire.nlmsg")


def build(
    message: Message, *, family: int = MODEL_FAMILY, seq: int = 0, pid: int = 0, version: int = FAMILY_VERSION
) -> bytes:
    """One netlink message, header included. ValueError for a value that its attribute cannot hold."""
    if not isinstance(message, Request | Done):
        data = bytearray(_encoded(message, family, pid, version))
    else:
        data = bytearray(_encoded(replace(message, sockfd=0), family, pid, version))
        at = _REQUEST_SOCKFD if isinstance(message, Request) else _DONE_SOCKFD
        try:
            _SOCKFD.pack_into(data, at, message.sockfd)
        except struct.error as error:
            raise ValueError(f"{message}: {error}") from None
    try:
        _SEQ.pack_into(data, _SEQ_AT, seq)
    except struct.error as error:
        raise ValueError(f"sequence number {seq}: {error}") from None
    return bytes(data)


@functools.lru_cache(maxsize=_REMEMBERED)
def _encoded(message: Message, family: int, pid: int, version: int) -> bytes:
    """With sequence number 0."""
    from quicfs.transport.wire import nlmsg

    return nlmsg.encode(message, family, 0, pid, version)


def parse(data: bytes, *, family: int = MODEL_FAMILY) -> tuple[Header, Message]:
    """Read exactly one netlink message. ValueError, with the reason, for anything else."""
    if len(data) < _MIN_LENGTH or len(data) > MAX_MESSAGE:
        raise ValueError(f"netlink message of {len(data)} bytes")
    length, type_, _, seq, _ = HEADER.unpack_from(data)
    if length != len(data):
        raise ValueError(f"netlink message of {len(data)} bytes claims {length}")
    at = _sockfd_at(data) if type_ == family else 0
    pieces = [data[:_SEQ_AT], _NO_SEQ, data[_SEQ_AT + _SEQ.size :]]
    if at:
        pieces[2:] = [data[_SEQ_AT + _SEQ.size : at], _NO_SOCKFD, data[at + _SOCKFD.size :]]
    header, message = _decoded(b"".join(pieces), family)
    if at and isinstance(message, Request | Done):
        message = replace(message, sockfd=_SOCKFD.unpack_from(data, at)[0])
    return replace(header, seq=seq), message


@functools.lru_cache(maxsize=_REMEMBERED)
def _decoded(data: bytes, family: int) -> tuple[Header, Message]:
    from quicfs.transport.wire import nlmsg

    return nlmsg.decode(data, family)


def _sockfd_at(data: bytes) -> int:
    """Where the descriptor's number stands in a message whose attributes are in Linux's order; 0 in others."""
    if not data.startswith(_ATTR_1, _FIRST_ATTR):
        return 0
    if data[_CMD_AT] == HandshakeCmd.ACCEPT and len(data) >= _REQUEST_SOCKFD + _SOCKFD.size:
        return _REQUEST_SOCKFD
    if (
        data[_CMD_AT] == HandshakeCmd.DONE
        and data.startswith(_ATTR_2, _DONE_SOCKFD - _U32_ATTR.size)
        and len(data) >= _DONE_SOCKFD + _SOCKFD.size
    ):
        return _DONE_SOCKFD
    return 0
