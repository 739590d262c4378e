"""The list of a server's shares: NetrShareEnum over the pipe srvsvc in IPC$ ([MS-SRVS] §3.1.4.8)."""

from __future__ import annotations

import struct
from typing import Any, Final

from impacket.dcerpc.v5 import srvs
from impacket.dcerpc.v5.dtypes import NULL

from quicfs.smb.client.errors import ConnectError, ConnectProblem, SessionLost
from quicfs.smb.client.link import Connect, Link
from quicfs.smb.client.login import SessionSettings
from quicfs.smb.client.operation import Operation, close, ioctl
from quicfs.smb.client.session import Session
from quicfs.smb.errors import SmbError, SmbProtocolError
from quicfs.smb.messages.access import Access, CreateDisposition, ShareAccess
from quicfs.smb.messages.create import CreateRequest, CreateResponse
from quicfs.smb.messages.header import Command
from quicfs.smb.messages.ioctl import Fsctl, IoctlResponse
from quicfs.smb.messages.read import ReadRequest, parse_read_response
from quicfs.smb.ntlm import Credentials
from quicfs.smb.ntstatus import NtStatus
from quicfs.smb.rpc import LAST, Pdu, PduType, ShareEntry, bind_request, pack_pdu, parse_pdu

__all__ = ["list_shares"]

_BUFFER: Final = 65536
MAX_ANSWER: Final = 4 << 20
"""Bytes of the list, all fragments together."""
_ACCESS: Final = int(Access.FILE_READ_DATA | Access.FILE_WRITE_DATA)


async def list_shares(
    connect: Connect, host: str, credentials: Credentials | None = None, *, timeout: float = 30.0
) -> list[ShareEntry]:
    """The shares of `host`, as it tells this user. ConnectError with a sentence when it does not."""
    settings = SessionSettings(host, "IPC$", credentials or Credentials(), timeout)
    link = Link(connect, settings)
    try:
        session = await link.open()
        try:
            return await _ask(session, host)
        except (SmbError, SmbProtocolError, SessionLost, TimeoutError) as error:
            sentence = f"{host} does not tell its shares: {error}"
            raise ConnectError(ConnectProblem.ACCESS, sentence) from error
    finally:
        await link.aclose()


async def _ask(session: Session, host: str) -> list[ShareEntry]:
    request = CreateRequest("srvsvc", _ACCESS, ShareAccess.ALL, CreateDisposition.OPEN)
    answer = await session.call(Operation(Command.CREATE, (request.pack(),)))
    handle = CreateResponse.parse(answer.message).file_id
    bound = await _call(session, handle, bind_request(1))
    if bound.kind != PduType.BIND_ACK:
        raise SmbProtocolError("the server's srvsvc pipe does not bind")
    stub = (await _call(session, handle, _request(host))).body
    session.post((close(handle),))
    return _parse(stub)


async def _call(session: Session, handle: bytes, data: bytes) -> Pdu:
    """One call by FSCTL_PIPE_TRANSCEIVE, and READs for what did not fit."""
    operation = ioctl(Fsctl.PIPE_TRANSCEIVE, data, handle, output=_BUFFER)
    answer = (await session.exchange((operation,)))[0]
    if answer.status != NtStatus.BUFFER_OVERFLOW:
        session.check(answer)
    received = bytearray(IoctlResponse.parse(answer.message).output)
    body = b""
    while True:
        parsed = parse_pdu(received)
        if parsed is None:
            received += await _read(session, handle)
        else:
            pdu, size = parsed
            del received[:size]
            if pdu.kind == PduType.FAULT:
                status = struct.unpack_from("<I", pdu.body.ljust(12, b"\0"), 8)[0]
                raise SmbProtocolError(f"the server's srvsvc pipe failed with 0x{status:08x}")
            body += pdu.body[8:] if pdu.kind == PduType.RESPONSE else pdu.body
            if pdu.flags & LAST:
                return Pdu(pdu.kind, pdu.flags, pdu.call_id, body)
        if len(received) + len(body) > MAX_ANSWER:
            raise SmbProtocolError("a list of shares without an end")


async def _read(session: Session, handle: bytes) -> bytes:
    body = ReadRequest(handle, 0, _BUFFER).pack()
    answer = (await session.exchange((Operation(Command.READ, (body,), _BUFFER),)))[0]
    if answer.status != NtStatus.BUFFER_OVERFLOW:
        session.check(answer)
    return bytes(parse_read_response(answer.message))


def _request(host: str) -> bytes:
    request = srvs.NetrShareEnum()
    request["ServerName"] = f"\\\\{host}\0"
    request["InfoStruct"]["Level"] = 1
    request["InfoStruct"]["ShareInfo"]["tag"] = 1
    request["InfoStruct"]["ShareInfo"]["Level1"]["Buffer"] = NULL
    request["PreferedMaximumLength"] = 0xFFFFFFFF
    request["ResumeHandle"] = NULL
    stub = request.getData()
    head = struct.pack("<IHH", len(stub), 0, srvs.NetrShareEnum.opnum)
    return pack_pdu(PduType.REQUEST, 2, head + stub)


def _parse(stub: bytes) -> list[ShareEntry]:
    try:
        answer: Any = srvs.NetrShareEnumResponse(stub)
        if answer["ErrorCode"]:
            raise SmbProtocolError(f"the server answers with error {answer['ErrorCode']}")
        found = answer["InfoStruct"]["ShareInfo"]["Level1"]["Buffer"]
        return [
            ShareEntry(
                str(share["shi1_netname"]).rstrip("\0"),
                int(share["shi1_type"]),
                str(share["shi1_remark"]).rstrip("\0"),
            )
            for share in found
        ]
    except SmbProtocolError:
        raise
    except Exception as error:  # impacket raises whatever comes up, Exception itself included
        raise SmbProtocolError("a list of shares that cannot be read") from error
