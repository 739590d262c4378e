"""NEGOTIATE at the server ([MS-SMB2] §3.3.5.3 and §3.3.5.4)."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Final

from quicfs.smb.errors import SmbError, SmbProtocolError
from quicfs.smb.filetime import filetime_from_ns
from quicfs.smb.limits import CREDIT_SIZE, MAX_IO_SIZE
from quicfs.smb.messages.negotiate import (
    Capabilities,
    Dialect,
    NegotiateRequest,
    NegotiateResponse,
    SecurityMode,
    parse_smb1_negotiate,
)
from quicfs.smb.messages.negotiate_contexts import (
    Cipher,
    HashAlgorithm,
    NegotiateContexts,
    SigningAlgorithm,
    TransportFlags,
)
from quicfs.smb.ntstatus import NtStatus
from quicfs.smb.server.request import Reply, Request

if TYPE_CHECKING:
    from quicfs.smb.server.connection import Connection

__all__ = ["Negotiation", "answer_smb1", "handle_negotiate"]

# What we prefer stands first.
_DIALECTS: Final = (
    Dialect.SMB_3_1_1,
    Dialect.SMB_3_0_2,
    Dialect.SMB_3_0,
    Dialect.SMB_2_1,
    Dialect.SMB_2_0_2,
)
_SECURED_DIALECTS: Final = (Dialect.SMB_3_1_1,)
_CIPHERS: Final = (Cipher.AES_128_GCM, Cipher.AES_256_GCM, Cipher.AES_128_CCM, Cipher.AES_256_CCM)
_SIGNING: Final = (SigningAlgorithm.AES_GMAC, SigningAlgorithm.AES_CMAC, SigningAlgorithm.HMAC_SHA256)
_SALT_SIZE: Final = 32


@dataclass(slots=True)
class Negotiation:
    """What NEGOTIATE has settled."""

    dialect: int = 0
    cipher: int = 0  # 0: no encryption
    signing: int = SigningAlgorithm.HMAC_SHA256
    posix: bool = False
    client_guid: bytes = bytes(16)
    client_capabilities: int = 0
    client_security_mode: int = 0
    client_dialects: Sequence[int] = ()
    capabilities: int = 0
    security_mode: int = 0


async def handle_negotiate(request: Request) -> Reply:
    connection = request.connection
    asked = NegotiateRequest.parse(request.message)
    dialect = _choose(_SECURED_DIALECTS if connection.secured else _DIALECTS, asked.dialects)
    if dialect is None:
        raise SmbError(NtStatus.NOT_SUPPORTED)
    settled = Negotiation(
        dialect=dialect,
        client_guid=asked.client_guid,
        client_capabilities=asked.capabilities,
        client_security_mode=asked.security_mode,
        client_dialects=tuple(asked.dialects),
    )
    contexts = None
    if dialect == Dialect.SMB_3_1_1:
        contexts = _settle_contexts(settled, asked.contexts, secured=connection.secured)
    elif dialect >= Dialect.SMB_3_0:
        settled.signing = SigningAlgorithm.AES_CMAC
        if asked.capabilities & Capabilities.ENCRYPTION:
            settled.cipher = Cipher.AES_128_CCM
    response = _response(connection, settled, contexts)
    connection.negotiation = settled
    connection.dialect = dialect
    connection.large_mtu = dialect > Dialect.SMB_2_0_2
    connection.preauth.update(request.message)
    return Reply(response.pack(), on_wire=partial(_hash_response, connection))


def _hash_response(connection: Connection, parts: Sequence[bytes | memoryview]) -> None:
    connection.preauth.update(*parts)


def _choose(ours: Sequence[int], theirs: Sequence[int]) -> int | None:
    return next((candidate for candidate in ours if candidate in theirs), None)


def _settle_contexts(
    settled: Negotiation, asked: NegotiateContexts | None, *, secured: bool
) -> NegotiateContexts:
    # §3.3.5.4: exactly one preauth integrity context must be there.
    if asked is None or not asked.hash_algorithms:
        raise SmbError(NtStatus.INVALID_PARAMETER)
    if HashAlgorithm.SHA_512 not in asked.hash_algorithms:
        raise SmbError(NtStatus.SMB_NO_PREAUTH_INTEGRITY_HASH_OVERLAP)
    answer = NegotiateContexts((HashAlgorithm.SHA_512,), os.urandom(_SALT_SIZE))
    if asked.ciphers is not None:
        settled.cipher = _choose(_CIPHERS, asked.ciphers) or 0
        answer.ciphers = (settled.cipher,)
    settled.signing = SigningAlgorithm.AES_CMAC
    if asked.signing_algorithms is not None:
        chosen = _choose(_SIGNING, asked.signing_algorithms)
        if chosen is not None:
            settled.signing = chosen
            answer.signing_algorithms = (chosen,)
    accept = TransportFlags.ACCEPT_TRANSPORT_LEVEL_SECURITY
    if secured and (asked.transport_flags or 0) & accept:
        # The client will not encrypt then; whether it must sign hangs on the stream alone.
        answer.transport_flags = accept
    if asked.posix:
        settled.posix = answer.posix = True
    return answer


def _response(
    connection: Connection, settled: Negotiation, contexts: NegotiateContexts | None
) -> NegotiateResponse:
    server = connection.server
    settled.security_mode = int(SecurityMode.SIGNING_ENABLED)
    if not connection.secured:
        settled.security_mode |= SecurityMode.SIGNING_REQUIRED
    large = settled.dialect > Dialect.SMB_2_0_2
    if large:
        settled.capabilities |= Capabilities.LARGE_MTU
    # §3.3.5.4: the capability speaks for 3.0 and 3.0.2; in 3.1.1 the context does.
    if settled.cipher and settled.dialect < Dialect.SMB_3_1_1:
        settled.capabilities |= Capabilities.ENCRYPTION
    size = MAX_IO_SIZE if large else CREDIT_SIZE
    return NegotiateResponse(
        settled.dialect,
        server.guid,
        server.authenticator.negotiate_token(),
        settled.security_mode,
        settled.capabilities,
        size,
        size,
        size,
        filetime_from_ns(time.time_ns()),
        contexts,
    )


def answer_smb1(connection: Connection, packet: memoryview) -> bytes:
    """The body of an SMB2 NEGOTIATE response to an SMB1 negotiate (§3.3.5.3.1 and §3.3.5.3.2)."""
    offered = parse_smb1_negotiate(packet)
    if connection.secured:
        raise SmbProtocolError("SMB1 on a secured transport")
    if b"SMB 2.???" in offered:
        # The client negotiates again, with SMB2 this time.
        return _response(connection, Negotiation(dialect=Dialect.WILDCARD), None).pack()
    if b"SMB 2.002" in offered:
        settled = Negotiation(dialect=Dialect.SMB_2_0_2, client_dialects=(Dialect.SMB_2_0_2,))
        response = _response(connection, settled, None).pack()
        connection.negotiation, connection.dialect = settled, Dialect.SMB_2_0_2
        return response
    raise SmbProtocolError("a client that speaks SMB1 only")
