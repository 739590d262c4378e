"""ECHO ([MS-SMB2] §3.3.5.17) and OPLOCK_BREAK acknowledgments (§3.3.5.22)."""

from __future__ import annotations

from quicfs.smb.errors import SmbError
from quicfs.smb.messages.simple import EMPTY_BODY, check_empty
from quicfs.smb.ntstatus import NtStatus
from quicfs.smb.server.request import Reply, Request

__all__ = ["handle_echo", "handle_oplock_break"]


async def handle_echo(request: Request) -> Reply:
    check_empty(request.message)
    return Reply(EMPTY_BODY)


async def handle_oplock_break(request: Request) -> Reply:
    # No oplock is ever granted, so there is none to break.
    raise SmbError(NtStatus.INVALID_OPLOCK_PROTOCOL)
