"""The messages of `netlink`, made and read by pyroute2's classes: the slow and certain way, which `netlink` remembers.

Apart, because pyroute2 takes longer to import than everything that a command does before its first handshake.
"""

from __future__ import annotations

import struct
from typing import Any, Final

from pyroute2.netlink import NLM_F_REQUEST, NLMSG_ERROR, genlmsg, nla, nlmsg

from quicfs.transport.uapi import AuthMode, HandshakeCmd
from quicfs.transport.wire.netlink import (
    HEADER,
    KEY_SERIAL_NONE,
    MAX_PEER_IDENTITIES,
    MAX_PEERNAME,
    Accept,
    Certificate,
    Done,
    Error,
    Header,
    Message,
    Ready,
    Request,
)

_GENL_LEN: Final = 4


class _AcceptMsg(genlmsg):  # type: ignore[misc]
    prefix = "HANDSHAKE_A_ACCEPT_"
    nla_map = (
        (1, "HANDSHAKE_A_ACCEPT_SOCKFD", "int32"),
        (2, "HANDSHAKE_A_ACCEPT_HANDLER_CLASS", "uint32"),
        (3, "HANDSHAKE_A_ACCEPT_MESSAGE_TYPE", "uint32"),
        (4, "HANDSHAKE_A_ACCEPT_TIMEOUT", "uint32"),
        (5, "HANDSHAKE_A_ACCEPT_AUTH_MODE", "uint32"),
        (6, "HANDSHAKE_A_ACCEPT_PEER_IDENTITY", "uint32"),
        (7, "HANDSHAKE_A_ACCEPT_CERTIFICATE", "certificate"),
        (8, "HANDSHAKE_A_ACCEPT_PEERNAME", "asciiz"),
        (9, "HANDSHAKE_A_ACCEPT_KEYRING", "uint32"),
    )

    class certificate(nla):  # type: ignore[misc]
        prefix = "HANDSHAKE_A_X509_"
        nla_map = (
            (1, "HANDSHAKE_A_X509_CERT", "int32"),
            (2, "HANDSHAKE_A_X509_PRIVKEY", "int32"),
        )


class _DoneMsg(genlmsg):  # type: ignore[misc]
    prefix = "HANDSHAKE_A_DONE_"
    nla_map = (
        (1, "HANDSHAKE_A_DONE_STATUS", "uint32"),
        (2, "HANDSHAKE_A_DONE_SOCKFD", "int32"),
        (3, "HANDSHAKE_A_DONE_REMOTE_AUTH", "uint32"),
    )


class _ErrorMsg(nlmsg):  # type: ignore[misc]
    """struct nlmsgerr: a negative errno and the header of the message that it is about."""

    fields = (
        ("error", "i"),
        ("msg_length", "I"),
        ("msg_type", "H"),
        ("msg_flags", "H"),
        ("msg_seq", "I"),
        ("msg_pid", "I"),
    )


Attrs = list[tuple[str, Any]]


def _request_attrs(request: Request) -> Attrs:
    attrs: Attrs = [
        ("HANDSHAKE_A_ACCEPT_SOCKFD", request.sockfd),
        ("HANDSHAKE_A_ACCEPT_MESSAGE_TYPE", request.message_type),
    ]
    if request.peername:
        attrs.append(("HANDSHAKE_A_ACCEPT_PEERNAME", request.peername))
    if request.timeout_ms:
        attrs.append(("HANDSHAKE_A_ACCEPT_TIMEOUT", request.timeout_ms))
    if request.keyring:
        attrs.append(("HANDSHAKE_A_ACCEPT_KEYRING", request.keyring))
    attrs.append(("HANDSHAKE_A_ACCEPT_AUTH_MODE", request.auth_mode))
    attrs += [("HANDSHAKE_A_ACCEPT_PEER_IDENTITY", serial) for serial in request.peer_identities]
    attrs += [
        (
            "HANDSHAKE_A_ACCEPT_CERTIFICATE",
            {
                "attrs": [
                    ("HANDSHAKE_A_X509_CERT", certificate.cert),
                    ("HANDSHAKE_A_X509_PRIVKEY", certificate.privkey),
                ]
            },
        )
        for certificate in request.certificates
    ]
    return attrs


def _done_attrs(done: Done) -> Attrs:
    attrs: Attrs = [("HANDSHAKE_A_DONE_STATUS", done.status), ("HANDSHAKE_A_DONE_SOCKFD", done.sockfd)]
    attrs += [("HANDSHAKE_A_DONE_REMOTE_AUTH", serial) for serial in done.remote_auth]
    return attrs


def encode(message: Message, family: int, seq: int, pid: int, version: int) -> bytes:
    """One netlink message, header included. ValueError for a value that its attribute cannot hold."""
    flags = 0
    cmd = HandshakeCmd.ACCEPT
    msg: Any
    match message:
        case Error():
            msg = _ErrorMsg()
            msg["error"], msg["msg_seq"] = -message.errno, message.seq
            msg["msg_length"], msg["msg_type"], msg["msg_pid"] = HEADER.size + _GENL_LEN, family, pid
            family = NLMSG_ERROR
        case Done():
            msg, cmd, flags = _DoneMsg(), HandshakeCmd.DONE, NLM_F_REQUEST
            msg["attrs"] = _done_attrs(message)
        case Request():
            msg = _AcceptMsg()
            msg["attrs"] = _request_attrs(message)
        case Ready() | Accept():
            msg = _AcceptMsg()
            msg["attrs"] = [("HANDSHAKE_A_ACCEPT_HANDLER_CLASS", message.handler_class)]
            if isinstance(message, Ready):
                cmd = HandshakeCmd.READY
            else:
                flags = NLM_F_REQUEST
    if not isinstance(message, Error):
        msg["cmd"], msg["version"] = int(cmd), version
    header = msg["header"]
    header["type"], header["flags"] = family, flags
    header["sequence_number"], header["pid"] = seq, pid
    try:
        msg.encode()
    except (struct.error, UnicodeEncodeError) as error:
        raise ValueError(f"{message}: {error}") from None
    return bytes(msg.data)


def _first(msg: Any, name: str, default: int | None = None) -> int:
    value = msg.get_attr(name, default)
    if value is None:
        raise ValueError(f"{name} is missing")
    return int(value)


def _parse_request(msg: Any) -> Request:
    identities = tuple(msg.get_attrs("HANDSHAKE_A_ACCEPT_PEER_IDENTITY"))
    certificates = msg.get_attrs("HANDSHAKE_A_ACCEPT_CERTIFICATE")
    peername = msg.get_attr("HANDSHAKE_A_ACCEPT_PEERNAME") or ""
    if len(identities) > MAX_PEER_IDENTITIES or len(certificates) > MAX_PEER_IDENTITIES:
        raise ValueError("too many peer identities or certificates")
    if len(peername) > MAX_PEERNAME:
        raise ValueError("the peer's name is too long")
    return Request(
        sockfd=_first(msg, "HANDSHAKE_A_ACCEPT_SOCKFD"),
        message_type=_first(msg, "HANDSHAKE_A_ACCEPT_MESSAGE_TYPE"),
        peername=peername,
        timeout_ms=_first(msg, "HANDSHAKE_A_ACCEPT_TIMEOUT", 0),
        keyring=_first(msg, "HANDSHAKE_A_ACCEPT_KEYRING", KEY_SERIAL_NONE),
        auth_mode=_first(msg, "HANDSHAKE_A_ACCEPT_AUTH_MODE", AuthMode.UNAUTH),
        peer_identities=identities,
        certificates=tuple(
            Certificate(_first(c, "HANDSHAKE_A_X509_CERT"), _first(c, "HANDSHAKE_A_X509_PRIVKEY"))
            for c in certificates
        ),
    )


def _parse_done(msg: Any) -> Done:
    serials = tuple(msg.get_attrs("HANDSHAKE_A_DONE_REMOTE_AUTH"))
    if len(serials) > MAX_PEER_IDENTITIES:
        raise ValueError("too many peer identities")
    return Done(_first(msg, "HANDSHAKE_A_DONE_STATUS"), _first(msg, "HANDSHAKE_A_DONE_SOCKFD"), serials)


def decode(data: bytes, family: int) -> tuple[Header, Message]:
    """Read one netlink message of the length that it claims. ValueError, with the reason, for anything else."""
    _, type_, flags, seq, pid = HEADER.unpack_from(data)
    if type_ == NLMSG_ERROR:
        msg = _decode(_ErrorMsg, data)
        return Header(type_, flags, seq, pid), Error(-msg["error"], msg["msg_seq"])
    if type_ != family:
        raise ValueError(f"netlink message type {type_} is not the handshake family")
    header = Header(type_, flags, seq, pid, version=data[HEADER.size + 1])
    match data[HEADER.size]:
        case HandshakeCmd.READY:
            msg = _decode(_AcceptMsg, data)
            return header, Ready(_first(msg, "HANDSHAKE_A_ACCEPT_HANDLER_CLASS"))
        case HandshakeCmd.ACCEPT if flags & NLM_F_REQUEST:
            msg = _decode(_AcceptMsg, data)
            return header, Accept(_first(msg, "HANDSHAKE_A_ACCEPT_HANDLER_CLASS"))
        case HandshakeCmd.ACCEPT:
            return header, _parse_request(_decode(_AcceptMsg, data))
        case HandshakeCmd.DONE:
            return header, _parse_done(_decode(_DoneMsg, data))
        case cmd:
            raise ValueError(f"handshake command {cmd} is not known")


def _decode(cls: type, data: bytes) -> Any:
    msg = cls(data)
    try:
        msg.decode()
        # Attributes are decoded when they are first looked at.
        for name, value in msg.get("attrs", ()):
            _ = name, value
    except Exception as error:
        # pyroute2 lets errors of several unrelated types out for malformed attributes.
        raise ValueError(f"malformed netlink message: {error}") from None
    return msg
