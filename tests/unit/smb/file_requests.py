"""What tests ask of open files, each a call with what comes back."""

from __future__ import annotations

from quicfs.smb.messages import create_contexts
from quicfs.smb.messages.header import Command
from quicfs.smb.messages.info import InfoType, QueryInfoRequest, SetInfoRequest
from quicfs.smb.messages.ioctl import IoctlRequest, IoctlResponse
from quicfs.smb.messages.read import ReadRequest, parse_read_response
from quicfs.smb.messages.write import WriteRequest, parse_write_response
from tests.unit.smb.raw_client import Answer, RawClient

POSIX = {create_contexts.POSIX: create_contexts.pack_posix_mode(0o640)}


async def write(client: RawClient, file_id: bytes, offset: int, data: bytes) -> int:
    body = WriteRequest(file_id, offset, data).pack_head() + data
    answer = await client.ask(Command.WRITE, body)
    return answer.status or parse_write_response(answer.message)


async def read(client: RawClient, file_id: bytes, offset: int, length: int) -> bytes | int:
    answer = await client.ask(Command.READ, ReadRequest(file_id, offset, length).pack())
    return answer.status or bytes(parse_read_response(answer.message))


async def query(
    client: RawClient, file_id: bytes, info_class: int, kind: int = InfoType.FILE, **how: int
) -> Answer:
    return await client.ask(Command.QUERY_INFO, QueryInfoRequest(file_id, kind, info_class, **how).pack())


async def set_info(
    client: RawClient,
    file_id: bytes,
    info_class: int,
    data: bytes,
    kind: int = InfoType.FILE,
    additional: int = 0,
) -> int:
    body = SetInfoRequest(file_id, kind, info_class, data, additional).pack()
    return (await client.ask(Command.SET_INFO, body)).status


async def ioctl(client: RawClient, code: int, file_id: bytes, data: bytes = b"") -> tuple[int, bytes]:
    answer = await client.ask(Command.IOCTL, IoctlRequest(code, file_id, data).pack())
    if answer.message[64:66] == b"\x09\0":
        return answer.status, b""
    return answer.status, bytes(IoctlResponse.parse(answer.message).output)
