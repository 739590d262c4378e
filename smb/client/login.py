"""From a fresh connection to a session with its tree ([MS-SMB2] §3.2.4.2), and how that fails, in sentences."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final

from quicfs.smb.client.connection import ClientConnection, Packet
from quicfs.smb.client.errors import ConnectError, ConnectProblem, SessionLost, known_status
from quicfs.smb.client.logon import Logon, LogonRefused
from quicfs.smb.client.operation import Answer, Operation
from quicfs.smb.errors import SmbError, SmbProtocolError
from quicfs.smb.filetime import ns_from_filetime
from quicfs.smb.limits import MAX_SETUP_ROUNDS
from quicfs.smb.messages.header import Command
from quicfs.smb.messages.session import SessionFlags, SessionSetupRequest, SessionSetupResponse
from quicfs.smb.messages.tree import ShareFlags, ShareType, TreeConnectRequest, TreeConnectResponse
from quicfs.smb.ntlm import Credentials
from quicfs.smb.ntstatus import NtStatus

__all__ = ["Login", "SessionSettings", "connect_error"]

_IPC: Final = "IPC$"
_GUEST: Final = "guest"
_FLAGS: Final = int(SessionFlags.IS_GUEST | SessionFlags.IS_NULL | SessionFlags.ENCRYPT_DATA)

_LOGON_FAILURES: Final = frozenset(
    {
        NtStatus.LOGON_FAILURE,
        NtStatus.NO_SUCH_USER,
        NtStatus.WRONG_PASSWORD,
        NtStatus.ACCESS_DENIED,
        NtStatus.ACCOUNT_RESTRICTION,
    }
)
# By status; {user} and {host} are filled in.
_LOGON_SENTENCES: Final = {
    NtStatus.ACCOUNT_DISABLED: "the account of user {user!r} is disabled at {host}: its administrator can "
    "enable it",
    NtStatus.PASSWORD_EXPIRED: "the password of user {user!r} has expired at {host}: set a new one there",
}


@dataclass(frozen=True, slots=True)
class SessionSettings:
    """`timeout` is in seconds: how long one call may wait for a server that says nothing.

    `previous_session_id` is the session that this one replaces; the server ends it, with its locks.
    """

    host: str
    share: str
    credentials: Credentials
    timeout: float = 30.0
    encrypt: bool = False
    client_guid: bytes = b""
    previous_session_id: int = 0


class Login:
    """`ask` sends a packet and gives the answer to it."""

    def __init__(
        self,
        connection: ClientConnection,
        settings: SessionSettings,
        ask: Callable[[Packet], Awaitable[Answer]],
    ) -> None:
        self._connection = connection
        self._settings = settings
        self._ask = ask
        self.is_guest = False
        self.clock_offset_ns = 0

    async def run(self) -> None:
        """Raises ConnectError, LogonRefused, SmbError, SmbProtocolError and SessionLost."""
        hint = await self._negotiate()
        await self._set_up_session(hint)
        await self._connect_tree()

    async def _negotiate(self) -> bytes:
        connection, host = self._connection, self._settings.host
        answer = await self._ask(connection.negotiate_request())
        if answer.status == NtStatus.NOT_SUPPORTED:
            sentence = f"{host} speaks no SMB 3.1.1: newer settings or a newer server are needed"
            raise ConnectError(ConnectProblem.PROTOCOL, sentence)
        if answer.status:
            raise SmbError(known_status(answer.status), "NEGOTIATE")
        hint = connection.handle_negotiate(answer)
        if connection.server_time:
            self.clock_offset_ns = ns_from_filetime(connection.server_time) - time.time_ns()
        return hint

    async def _set_up_session(self, hint: bytes) -> None:
        connection, settings = self._connection, self._settings
        logon = Logon(settings.credentials, settings.host)
        token = logon.first(hint)
        for _ in range(MAX_SETUP_ROUNDS):
            body = SessionSetupRequest(token, previous_session_id=settings.previous_session_id).pack()
            packet = connection.build((Operation(Command.SESSION_SETUP, (body,)),))
            connection.note_setup_request(packet)
            answer = await self._ask(packet)
            if answer.status == NtStatus.SUCCESS:
                self._finish(logon, answer)
                return
            if answer.status != NtStatus.MORE_PROCESSING_REQUIRED:
                raise self._logon_error(answer.status)
            connection.note_setup_response(answer)
            token = logon.answer(bytes(SessionSetupResponse.parse(answer.message).security_buffer))
        raise SmbProtocolError("a login without an end")

    def _finish(self, logon: Logon, answer: Answer) -> None:
        response = SessionSetupResponse.parse(answer.message)
        flags = SessionFlags(response.session_flags & _FLAGS)
        user = self._settings.credentials.user
        self.is_guest = bool(flags & SessionFlags.IS_GUEST)
        if user.lower() not in ("", _GUEST) and flags & (SessionFlags.IS_GUEST | SessionFlags.IS_NULL):
            # A guest's session has no key, so anybody in between could have made a guest of us.
            raise LogonRefused(
                f"user {user!r} is not known there, and guests have to say that they are guests"
            )
        trusted = bool(user) and not flags & (SessionFlags.IS_GUEST | SessionFlags.IS_NULL)
        if self._settings.encrypt and not trusted:
            raise LogonRefused("encryption was asked for, which takes a user with a password")
        logon.finish(bytes(response.security_buffer), guest=not trusted)
        encrypt = bool(flags & SessionFlags.ENCRYPT_DATA)
        self._connection.establish(answer, logon.session_key, trusted=trusted, encrypt=encrypt)

    def _logon_error(self, status: int) -> ConnectError:
        user, host = self._settings.credentials.user, self._settings.host
        if status in _LOGON_FAILURES and not user:
            sentence = f"{host} lets nobody in without a name and a password: give a user, as in user@{host}"
        elif status in _LOGON_FAILURES:
            sentence = f"user {user!r} was refused by {host}: check the name and the password"
        elif (known := known_status(status)) in _LOGON_SENTENCES and isinstance(known, NtStatus):
            sentence = _LOGON_SENTENCES[known].format(user=user, host=host)
        else:
            sentence = f"{host} refused the login of user {user!r}: {SmbError(known)}"
        return ConnectError(ConnectProblem.LOGON, sentence, status)

    async def _connect_tree(self) -> None:
        connection, host, share = self._connection, self._settings.host, self._settings.share
        body = TreeConnectRequest(f"\\\\{host}\\{share}").pack()
        answer = await self._ask(connection.build((Operation(Command.TREE_CONNECT, (body,)),)))
        if answer.status == NtStatus.BAD_NETWORK_NAME:
            sentence = f"share {share!r} is not on {host}: choose one that the server lists"
            raise ConnectError(ConnectProblem.SHARE, sentence, answer.status)
        if answer.status:
            who = self._settings.credentials.user or "anonymous"
            reason = SmbError(known_status(answer.status))
            sentence = f"{host} does not let user {who!r} use share {share!r}: {reason}"
            raise ConnectError(ConnectProblem.ACCESS, sentence, answer.status)
        response = TreeConnectResponse.parse(answer.message)
        if response.share_type != ShareType.DISK and share.upper() != _IPC:
            sentence = f"share {share!r} on {host} is no folder: choose another"
            raise ConnectError(ConnectProblem.SHARE, sentence)
        connection.tree_id = answer.header.tree_id
        connection.established = True
        if response.share_flags & ShareFlags.ENCRYPT_DATA:
            connection.start_encryption()


def connect_error(error: BaseException, host: str) -> ConnectError | None:
    """What `Login.run` raised, as one sentence; None for what is not about the server."""
    match error:
        case ConnectError():
            return error
        case SessionLost(violation=False):
            return ConnectError(ConnectProblem.UNREACHABLE, f"{host} hung up during the login: {error}")
        case SmbProtocolError() | SessionLost():
            sentence = f"{host} does not speak SMB 3.1.1 as it should: {error}"
            return ConnectError(ConnectProblem.PROTOCOL, sentence)
        case LogonRefused():
            return ConnectError(ConnectProblem.LOGON, f"logging in at {host}: {error}")
        case SmbError():
            sentence = f"{host} refused the connection: {error}"
            return ConnectError(ConnectProblem.PROTOCOL, sentence, error.status)
    return None
