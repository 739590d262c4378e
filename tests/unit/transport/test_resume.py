"""What a socket keeps for its next connection."""

from quicfs.transport.resume import Resume
from quicfs.transport.uapi import QUIC_VERSION_1
from quicfs.transport.wire.ticket import SessionTicket

OLD = SessionTicket(bytes(32), b"smb", b"", b"old").pack()
NEW = SessionTicket(bytes(32), b"smb", b"", b"new").pack()


def test_a_ticket_counts_once() -> None:
    resume = Resume()
    assert not resume.set_ticket(OLD, QUIC_VERSION_1)
    resume.use()
    assert resume.ticket(QUIC_VERSION_1) == OLD
    resume.forget()
    assert resume.ticket(QUIC_VERSION_1) == b""


def test_a_ticket_that_comes_before_the_handshake_is_done_stays() -> None:
    """The agent hands it over while the consumer has not yet heard that TLS is complete."""
    resume = Resume()
    resume.set_ticket(OLD, QUIC_VERSION_1)
    resume.use()
    assert resume.set_ticket(NEW, QUIC_VERSION_1)
    resume.forget()
    assert resume.ticket(QUIC_VERSION_1) == NEW
