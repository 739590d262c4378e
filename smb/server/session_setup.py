"""SESSION_SETUP and LOGOFF at the server ([MS-SMB2] §3.3.5.5 and §3.3.5.6)."""

from __future__ import annotations

import logging
import secrets
from functools import partial
from typing import TYPE_CHECKING

from quicfs.smb import limits
from quicfs.smb.crypto import PreauthHash, derive_session_keys
from quicfs.smb.errors import SmbError
from quicfs.smb.messages.header import SIGNED
from quicfs.smb.messages.negotiate import Dialect
from quicfs.smb.messages.session import (
    SESSION_FLAG_BINDING,
    SessionFlags,
    SessionSetupRequest,
    SessionSetupResponse,
)
from quicfs.smb.messages.simple import EMPTY_BODY, check_empty
from quicfs.smb.ntstatus import NtStatus
from quicfs.smb.server.request import Reply, Request
from quicfs.smb.server.session import Session, SessionState
from quicfs.smb.signing import Signer
from quicfs.smb.transform import Opener, Sealer

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["handle_logoff", "handle_session_setup"]

_log = logging.getLogger("quicfs.smb")


async def handle_session_setup(request: Request) -> Reply:
    connection = request.connection
    asked = SessionSetupRequest.parse(request.message)
    # §3.3.5.5: we offer no multichannel, so a session is never bound to a second connection.
    if asked.flags & SESSION_FLAG_BINDING:
        raise SmbError(NtStatus.REQUEST_NOT_ACCEPTED)
    session_id = request.header.session_id
    if session_id == 0:
        session = _new_session(request)
    else:
        found = connection.sessions.get(session_id)
        if found is None:
            raise SmbError(NtStatus.USER_SESSION_DELETED)
        session = found
        _check_reauthentication(request, session)
    request.session = session
    return await _step(request, session, asked)


def _new_session(request: Request) -> Session:
    connection = request.connection
    if len(connection.sessions) >= limits.MAX_SESSIONS:
        raise SmbError(NtStatus.INSUFFICIENT_RESOURCES)
    server = connection.server
    while True:
        session_id = secrets.randbits(63) | 1
        if session_id not in server.sessions:
            break
    session = Session(session_id, connection)
    connection.sessions[session_id] = server.sessions[session_id] = session
    return session


def _check_reauthentication(request: Request, session: Session) -> None:
    """A session that has keys accepts a new exchange only from somebody who has them too."""
    if session.state is not SessionState.VALID or session.signer is None or request.encrypted:
        return
    signed = request.header.flags & SIGNED
    if signed and not session.signer.verify(request.message, server=False):
        raise SmbError(NtStatus.ACCESS_DENIED)
    if not signed and session.signing_required:
        raise SmbError(NtStatus.ACCESS_DENIED)


async def _step(request: Request, session: Session, asked: SessionSetupRequest) -> Reply:
    connection = request.connection
    server = connection.server
    if session.exchange is None:
        session.exchange = server.authenticator.new_exchange(peer=connection.peer, allow_guest=server.guest)
        session.preauth = connection.preauth.copy()
        session.rounds = 0
    assert session.preauth is not None
    session.preauth.update(request.message)
    session.rounds += 1
    status, token = NtStatus.LOGON_FAILURE, b""
    if session.rounds <= limits.MAX_SETUP_ROUNDS:
        status, token = session.exchange.step(bytes(asked.security_buffer))
    if status == NtStatus.MORE_PROCESSING_REQUIRED:
        body = SessionSetupResponse(0, token).pack()
        return Reply(body, status=status, on_wire=partial(_hash_response, session.preauth))
    try:
        if status == NtStatus.SUCCESS:
            status = _admit(session)
    finally:
        exchange, session.exchange = session.exchange, None
    if status != NtStatus.SUCCESS:
        # §3.3.5.5.3: what failed is forgotten; a failed reauthentication ends the session too.
        await connection.end_session(session)
        raise SmbError(status)
    if asked.previous_session_id and asked.previous_session_id != session.session_id:
        await server.end_previous(asked.previous_session_id, session)
    _log.info(
        "%s: session of %s", connection.peer, "nobody (anonymous)" if exchange.is_anonymous else session.user
    )
    flags = 0
    if session.is_guest:
        flags |= SessionFlags.IS_GUEST
    elif session.is_anonymous:
        flags |= SessionFlags.IS_NULL
    if session.encryption_required:
        flags |= SessionFlags.ENCRYPT_DATA
    return Reply(SessionSetupResponse(flags, token).pack(), sign=True)


def _hash_response(preauth: PreauthHash, parts: Sequence[bytes | memoryview]) -> None:
    preauth.update(*parts)


def _admit(session: Session) -> NtStatus:
    """The exchange proved somebody: give the session its user and its keys."""
    exchange = session.exchange
    assert exchange is not None
    if session.state is SessionState.VALID:
        # Reauthentication (§3.3.5.5.2): the keys stay, and so must the user.
        same = (exchange.user, exchange.is_guest, exchange.is_anonymous) == (
            session.user,
            session.is_guest,
            session.is_anonymous,
        )
        return NtStatus.SUCCESS if same else NtStatus.ACCESS_DENIED
    connection = session.connection
    session.user = exchange.user
    session.is_guest = exchange.is_guest
    session.is_anonymous = exchange.is_anonymous
    required = connection.server.encryption_required and not connection.secured
    if exchange.is_guest or exchange.is_anonymous:
        # Guests have no key: they can neither sign nor encrypt.
        if required:
            return NtStatus.ACCESS_DENIED
    else:
        settled = connection.negotiation
        if required and not settled.cipher:
            return NtStatus.ACCESS_DENIED
        _derive(session, exchange.session_key)
        session.signing_required = not connection.secured
        session.encryption_required = required
    session.state = SessionState.VALID
    return NtStatus.SUCCESS


def _derive(session: Session, session_key: bytes) -> None:
    settled = session.connection.negotiation
    assert session.preauth is not None
    hash_ = session.preauth.value if settled.dialect == Dialect.SMB_3_1_1 else b""
    keys = derive_session_keys(settled.dialect, session_key, hash_, settled.cipher)
    session.keys = keys
    session.signer = Signer(settled.signing, keys.signing)
    if settled.cipher:
        session.sealer = Sealer(settled.cipher, keys.server_to_client, session.session_id)
        session.opener = Opener(settled.cipher, keys.client_to_server)


async def handle_logoff(request: Request) -> Reply:
    check_empty(request.message)
    session = request.valid_session
    await request.connection.end_session(session)
    return Reply(EMPTY_BODY)
