"""How connecting fails, in sentences for the person who asked for it; and how a call fails on its way."""

from __future__ import annotations

import enum
from collections.abc import Sequence

from quicfs.nfs.v4.compound import Result
from quicfs.nfs.v4.const import Nfs4Error, Stat

__all__ = ["CompoundFailed", "ConnectError", "ConnectProblem", "NfsProtocolError", "SessionGone"]


class ConnectProblem(enum.Enum):
    UNREACHABLE = "unreachable"  # the network, or no server there; may pass
    ACCESS = "access"  # the server does not want us
    EXPORT = "export"  # no such directory there
    PROTOCOL = "protocol"  # something there that is no server of ours


class ConnectError(Exception):
    """No session came about. `str()` is one sentence with the remedy; `problem` says which kind."""

    def __init__(self, problem: ConnectProblem, sentence: str) -> None:
        super().__init__(sentence)
        self.problem = problem


class NfsProtocolError(Exception):
    """The server sent what makes no sense."""


class SessionGone(Exception):
    """The session ended under a call. `sent`: the server may have carried it out."""

    def __init__(self, reason: str, *, sent: bool) -> None:
        super().__init__(reason)
        self.sent = sent


class CompoundFailed(Nfs4Error):
    """An operation of a COMPOUND failed; `results` are those of the operations before it and its own."""

    def __init__(self, status: Stat, results: Sequence[Result], what: str) -> None:
        super().__init__(status, what, results[-1].value if results else None)
        self.results = results
        self.what = what

    @property
    def index(self) -> int:
        """Of the operation that failed, among those asked for."""
        return len(self.results) - 1
