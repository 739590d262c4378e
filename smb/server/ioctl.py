"""IOCTL at the server ([MS-SMB2] §3.3.5.15): the table of controls, and those that are short."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final

from quicfs.smb.errors import SmbError, SmbProtocolError
from quicfs.smb.fscc import reparse
from quicfs.smb.messages.ioctl import IOCTL_IS_FSCTL, Fsctl, IoctlRequest, IoctlResponse
from quicfs.smb.messages.negotiate import Dialect
from quicfs.smb.messages.validate import ValidateNegotiateRequest, ValidateNegotiateResponse
from quicfs.smb.ntstatus import NtStatus
from quicfs.smb.server import copy_chunk, pipes, reparse_points, sparse
from quicfs.smb.server.opens import PipeOpen
from quicfs.smb.server.request import Reply, Request

__all__ = ["handle_ioctl"]


async def handle_ioctl(request: Request) -> Reply:
    asked = IoctlRequest.parse(request.message)
    if asked.flags != IOCTL_IS_FSCTL:
        raise SmbError(NtStatus.NOT_SUPPORTED)
    request.pay(max(len(asked.input), asked.max_input_response + asked.max_output_response))
    run = _CONTROLS.get(asked.control_code)
    if run is None:
        raise SmbError(NtStatus.INVALID_DEVICE_REQUEST)
    return await run(request, asked)


def _reply(asked: IoctlRequest, output: bytes | memoryview, status: NtStatus = NtStatus.SUCCESS) -> Reply:
    return Reply(IoctlResponse(asked.control_code, asked.file_id, output).pack(), status=status)


async def _validate_negotiate(request: Request, asked: IoctlRequest) -> Reply:
    """§3.3.5.15.12: what was said in NEGOTIATE is said again, under signature."""
    connection = request.connection
    settled = connection.negotiation
    # 3.1.1 has the preauth integrity hash for it, and ends the connection.
    if settled.dialect == Dialect.SMB_3_1_1:
        raise SmbError(NtStatus.INVALID_PARAMETER)
    said = ValidateNegotiateRequest.parse(memoryview(asked.input))
    same = (
        said.capabilities == settled.client_capabilities
        and said.guid == settled.client_guid
        and said.security_mode == settled.client_security_mode
        and tuple(said.dialects) == tuple(settled.client_dialects)
    )
    if not same:
        await connection.abort("NEGOTIATE was changed on the way")
        raise SmbError(NtStatus.ACCESS_DENIED)
    answer = ValidateNegotiateResponse(
        settled.capabilities, connection.server.guid, settled.security_mode, settled.dialect
    )
    return _reply(asked, answer.pack())


async def _pipe_transceive(request: Request, asked: IoctlRequest) -> Reply:
    open_ = request.open(asked.file_id)
    if not isinstance(open_, PipeOpen):
        raise SmbError(NtStatus.NOT_SUPPORTED)
    pipes.write(open_.pipe, memoryview(asked.input))
    data, status = pipes.read(open_.pipe, asked.max_output_response)
    return _reply(asked, data, status)


async def _pipe_wait(request: Request, asked: IoctlRequest) -> Reply:
    return _reply(asked, b"")  # pipes are always ready


async def _no_referrals(request: Request, asked: IoctlRequest) -> Reply:
    raise SmbError(NtStatus.NOT_FOUND)  # §3.3.5.15.2: no DFS here


async def _get_reparse_point(request: Request, asked: IoctlRequest) -> Reply:
    data = await reparse_points.get(request.file(asked.file_id))
    if len(data) > asked.max_output_response:
        raise SmbError(NtStatus.BUFFER_TOO_SMALL)
    return _reply(asked, data)


async def _set_reparse_point(request: Request, asked: IoctlRequest) -> Reply:
    try:
        target = reparse.parse_symlink(memoryview(asked.input))
    except SmbProtocolError:
        raise SmbError(NtStatus.IO_REPARSE_DATA_INVALID) from None
    if target is None:
        raise SmbError(NtStatus.IO_REPARSE_TAG_INVALID)
    await reparse_points.set_symlink(request.file(asked.file_id), target)
    return _reply(asked, b"")


async def _resume_key(request: Request, asked: IoctlRequest) -> Reply:
    return _reply(asked, copy_chunk.resume_key(request.file(asked.file_id)))


async def _copy_chunk(request: Request, asked: IoctlRequest) -> Reply:
    target = request.file(asked.file_id)
    read_too = asked.control_code == Fsctl.SRV_COPYCHUNK
    status, answer = await copy_chunk.copy(target, memoryview(asked.input), read_too=read_too)
    return _reply(asked, answer, status)


async def _set_sparse(request: Request, asked: IoctlRequest) -> Reply:
    sparse.set_sparse(request.file(asked.file_id))
    return _reply(asked, b"")


async def _set_zero_data(request: Request, asked: IoctlRequest) -> Reply:
    await sparse.set_zero_data(request.file(asked.file_id), memoryview(asked.input))
    return _reply(asked, b"")


async def _allocated_ranges(request: Request, asked: IoctlRequest) -> Reply:
    open_ = request.file(asked.file_id)
    data, all_ = await sparse.allocated_ranges(open_, memoryview(asked.input), asked.max_output_response)
    return _reply(asked, data, NtStatus.SUCCESS if all_ else NtStatus.BUFFER_OVERFLOW)


_CONTROLS: Final[dict[int, Callable[[Request, IoctlRequest], Awaitable[Reply]]]] = {
    Fsctl.VALIDATE_NEGOTIATE_INFO: _validate_negotiate,
    Fsctl.PIPE_TRANSCEIVE: _pipe_transceive,
    Fsctl.PIPE_WAIT: _pipe_wait,
    Fsctl.DFS_GET_REFERRALS: _no_referrals,
    Fsctl.DFS_GET_REFERRALS_EX: _no_referrals,
    Fsctl.GET_REPARSE_POINT: _get_reparse_point,
    Fsctl.SET_REPARSE_POINT: _set_reparse_point,
    Fsctl.SRV_REQUEST_RESUME_KEY: _resume_key,
    Fsctl.SRV_COPYCHUNK: _copy_chunk,
    Fsctl.SRV_COPYCHUNK_WRITE: _copy_chunk,
    Fsctl.SET_SPARSE: _set_sparse,
    Fsctl.SET_ZERO_DATA: _set_zero_data,
    Fsctl.QUERY_ALLOCATED_RANGES: _allocated_ranges,
}
