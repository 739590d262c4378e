"""How connecting fails, in sentences for the person who asked for it."""

from __future__ import annotations

import enum

from quicfs.smb.client.operation import Answer
from quicfs.smb.errors import SmbError
from quicfs.smb.ntstatus import NtStatus

__all__ = ["ConnectError", "ConnectProblem", "RequestFailed", "SessionLost", "known_status"]


def known_status(status: int) -> NtStatus | int:
    """With its name where it has one."""
    try:
        return NtStatus(status)
    except ValueError:
        return status


class RequestFailed(SmbError):
    """The server refused one request; `answer` is its ERROR response."""

    def __init__(self, answer: Answer) -> None:
        super().__init__(known_status(answer.status))
        self.answer = answer


class ConnectProblem(enum.Enum):
    UNREACHABLE = "unreachable"  # the network, or no server there; may pass
    LOGON = "logon"  # user or password
    SHARE = "share"  # no such share
    ACCESS = "access"  # the user may not use the share
    PROTOCOL = "protocol"  # something there that is no server of ours


class ConnectError(SmbError):
    """No session came about. `str()` is one sentence with the remedy; `problem` says which kind."""

    def __init__(self, problem: ConnectProblem, sentence: str, status: int = 0) -> None:
        super().__init__(status, sentence)
        self.problem = problem

    def __str__(self) -> str:
        return self.detail


class SessionLost(Exception):
    """The connection went away under a call. `sent`: the server may have seen and done it.

    `violation`: we ended it, because the server broke the protocol.
    """

    def __init__(self, reason: str, *, sent: bool, violation: bool = False) -> None:
        super().__init__(reason)
        self.sent = sent
        self.violation = violation
