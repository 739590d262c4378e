"""What a socket knows of an earlier connection to its server, and of this one for the next: session ticket and token.

Both are the consumer's to keep between connections (options SESSION_TICKET and TOKEN); it sets them before `connect`
and reads them later, or when the events NEW_SESSION_TICKET and NEW_TOKEN say so.
"""

from __future__ import annotations

from typing import Final

from quicfs.transport import limits
from quicfs.transport.errors import ProtocolViolation
from quicfs.transport.transport_param import TransportParameters, decode
from quicfs.transport.wire.ticket import SessionTicket

TICKET_SECRET_LENGTH: Final = 64


class Resume:
    """`token`: for the client's Initial packets. `secret`: a server's, for its agent to derive ticket keys from."""

    __slots__ = ("_fresh", "_given", "_ticket", "_used", "secret", "token")

    def __init__(self) -> None:
        self.token = b""
        self.secret = b""
        self._given = b""  # by the consumer
        self._ticket: SessionTicket | None = None  # the same, read
        self._used = False  # a handshake has been asked for: what is set from now on is new
        self._fresh = False  # and such a one is there

    def set_ticket(self, value: bytes, version: int) -> bool:
        """From the consumer before the handshake, from the agent after it; True if it is a new one. ValueError if it is
        none. `version` of QUIC is the one that a new ticket counts for (RFC 9369 §5)."""
        if len(value) == TICKET_SECRET_LENGTH and not self._used:
            self.secret = value
            return False
        ticket = SessionTicket.unpack(value) if value else None
        if self._used and ticket is not None and ticket.version != version:
            ticket = SessionTicket(
                ticket.identity, ticket.alpn, ticket.parameters, ticket.session, ticket.early_data, version
            )
            value = ticket.pack()
        self._given, self._ticket, self._fresh = value, ticket, self._used
        return self._used

    def ticket(self, version: int) -> bytes:
        """To resume with, or for the next time; empty if there is none for this version of QUIC."""
        return self._given if self._ticket is not None and self._ticket.version == version else b""

    def early_parameters(self, version: int) -> TransportParameters | None:
        """The server's transport parameters as remembered (RFC 9000 §7.4.1), if the ticket allows 0-RTT."""
        ticket = self._ticket
        if ticket is None or not ticket.early_data or ticket.version != version:
            return None
        try:
            return decode(ticket.parameters, from_server=True)
        except ProtocolViolation:
            return None

    def use(self) -> None:
        """The handshake begins."""
        self._used = True

    def forget(self) -> None:
        """The handshake is done: what it used should not be used again (RFC 8446 §C.4). A server may issue a ticket
        with its first flight, so that a new one is there already."""
        if not self._fresh:
            self._given, self._ticket = b"", None

    def set_token(self, value: bytes) -> None:
        """ValueError for one that leaves no room for a ClientHello."""
        if len(value) > limits.MAX_TOKEN:
            raise ValueError(f"a token has at most {limits.MAX_TOKEN} bytes")
        self.token = value
