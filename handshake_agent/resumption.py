"""Resumption in one handshake: what a session is told about tickets, and the tickets that come after the handshake.

A server that asks for client certificates issues no tickets: each of its connections shows a certificate anew, so that
one that expired or whose CA was taken out of the truststore counts no longer, and the identity is the one shown now.
Nor does a server whose consumer wants none. Neither takes tickets that were issued before.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from quicfs.handshake_agent.descriptor import QuicDescriptor
from quicfs.handshake_agent.failures import ALERT_UNEXPECTED_MESSAGE
from quicfs.handshake_agent.gnutls import (
    QUIC_EARLY_DATA,
    TICKET_KEY_LENGTH,
    Credentials,
    Resumption,
    Session,
)
from quicfs.handshake_agent.gnutls_library import GnutlsError
from quicfs.handshake_agent.tickets import (
    NEW_SESSION_TICKET,
    TicketKeys,
    anti_replay,
    early_data_of,
    split_messages,
)
from quicfs.transport.uapi import CRYPTO_ERROR, ConnectionClose, CryptoLevel, SockOpt
from quicfs.transport.wire.netlink import Request
from quicfs.transport.wire.ticket import BINDING, SessionTicket, pick

_log = logging.getLogger("quicfs.handshake_agent")

PROTOCOL_VIOLATION: Final = 0x0A  # RFC 9000 §20.1
_CRYPTO_FRAME: Final = 0x06

MAX_TICKETS: Final = 4
"""Tickets that are taken of one connection."""


@dataclass(frozen=True, slots=True)
class Wish:
    """What the consumer's socket says: its SESSION_TICKET, and of CONFIG `early_data`, the time (s) for a ticket to
    come, and whether a server may issue one."""

    ticket: bytes = b""
    early_data: bool = False
    wait_s: int = 0
    issue: bool = True


class Resumer:
    """What all handshakes of a process share."""

    def __init__(self, keys: TicketKeys) -> None:
        self._keys = keys
        self._anti_replay = anti_replay()

    def server(
        self,
        wish: Wish,
        credentials: Credentials,
        alpn: Sequence[bytes],
        parameters: bytes,
        *,
        asks_certificate: bool,
    ) -> Resumption:
        if asks_certificate or not wish.issue:
            return Resumption()
        # A ticket's early data are for the protocol that it was issued for; with several, TLS could choose another.
        early = wish.early_data and len(alpn) == 1
        try:
            # Its limits bind us as long as the ticket lives (RFC 9000 §7.4.1).
            parts = [credentials.fingerprint, b",".join(alpn), pick(parameters, BINDING)]
        except ValueError:
            return Resumption()  # a kernel with parameters of another kind
        if len(wish.ticket) == TICKET_KEY_LENGTH:  # a kernel gives its servers a secret of its own
            parts.append(wish.ticket)
        key = self._keys.derive(*parts, early_data=early)
        return Resumption(ticket_key=key, anti_replay=self._anti_replay if early else None, early_data=early)

    def client(
        self, wish: Wish, identity: bytes, alpn: Sequence[bytes]
    ) -> tuple[Resumption, Sequence[bytes]]:
        """Also the protocols to offer: with early data, only the one that they are for."""
        receive = wish.wait_s > 0
        if not wish.ticket:
            return Resumption(receive=receive), alpn
        try:
            ticket = SessionTicket.unpack(wish.ticket)
        except ValueError as error:
            _log.info("a session ticket is not used: %s", error)
            return Resumption(receive=receive), alpn
        if ticket.identity != identity or ticket.alpn not in alpn:
            _log.info("a session ticket is not used: it is of another server, or of other certificates")
            return Resumption(receive=receive), alpn
        early = wish.early_data and ticket.early_data
        resumption = Resumption(session=ticket.session, receive=receive, early_data=early)
        return resumption, (ticket.alpn,) if early else alpn


def _unexpected(phrase: str) -> TlsViolation:
    return TlsViolation(CRYPTO_ERROR + ALERT_UNEXPECTED_MESSAGE, phrase)


def identity_of(request: Request, credentials: Credentials) -> bytes:
    """Whom a client's session is with, whom it trusted for that, and who it was itself."""
    parts = (request.peername.lower().encode(), bytes((request.auth_mode,)), credentials.fingerprint)
    return hashlib.sha256(b"".join(len(part).to_bytes(4, "big") + part for part in parts)).digest()


class TlsViolation(Exception):
    """The server broke a rule after the handshake; `code` is the connection error."""

    def __init__(self, code: int, phrase: str) -> None:
        super().__init__(phrase)
        self.close = ConnectionClose(code, _CRYPTO_FRAME, phrase.encode())


class TicketCollector:
    """Takes over a client's session after its handshake, for the tickets that the server sends then."""

    def __init__(
        self, session: Session, descriptor: QuicDescriptor, identity: bytes, parameters: bytes, wait_s: float
    ) -> None:
        self._session = session
        self._descriptor = descriptor
        self._identity = identity
        self._parameters = parameters
        self._wait_s = wait_s

    def close(self) -> None:
        self._session.close()

    async def run(self) -> None:
        """Until the time is over, the consumer closes the descriptor, or there were enough of them."""
        buffer = bytearray()
        taken = 0
        try:
            async with asyncio.timeout(self._wait_s):
                while taken < MAX_TICKETS:
                    level, data = await self._descriptor.recvmsg()
                    if level != CryptoLevel.APP:
                        raise _unexpected("TLS messages of the handshake after its end")
                    buffer += data
                    for message in split_messages(buffer):
                        self._take(message)
                        taken += 1
                await self._descriptor.flush()
        except TlsViolation as violation:
            await self._tell(violation)
        except (OSError, TimeoutError):
            return  # the consumer wants no more
        except (ValueError, GnutlsError) as error:
            _log.info("no session ticket: %s", error)
        finally:
            self.close()

    async def _tell(self, violation: TlsViolation) -> None:
        _log.info("after the handshake: %s", violation)
        with contextlib.suppress(OSError):  # the consumer is gone
            self._descriptor.setsockopt(SockOpt.CONNECTION_CLOSE, violation.close.pack())
            await self._descriptor.flush()

    def _take(self, message: bytes) -> None:
        # RFC 9001 §4.4, §6: client authentication and TLS's own key update are not used -> unexpected_message
        if message[0] != NEW_SESSION_TICKET:
            raise _unexpected(f"TLS message {message[0]} after the handshake")
        early = early_data_of(message)
        # RFC 9001 §4.6.1: any other value -> PROTOCOL_VIOLATION
        if early not in (0, QUIC_EARLY_DATA):
            raise TlsViolation(PROTOCOL_VIOLATION, "a session ticket limits early data")
        self._session.feed(CryptoLevel.APP, message)
        session = self._session.take_ticket()
        if not session:
            return
        ticket = SessionTicket(
            self._identity,
            self._session.selected_alpn or b"",
            pick(self._parameters),
            session,
            early_data=bool(early),
        )
        self._descriptor.setsockopt(SockOpt.SESSION_TICKET, ticket.pack())
