"""The content of SESSION_TICKET, what a socket does with it, and tokens that are used up."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quicfs.transport import transport_param
from quicfs.transport.config import default_parameters
from quicfs.transport.resume import Resume
from quicfs.transport.token import NONCE_LENGTH, TokenSealer, UsedTokens
from quicfs.transport.uapi import QUIC_VERSION_1, QUIC_VERSION_2
from quicfs.transport.wire.ticket import MAX_TICKET, SessionTicket, pick

TICKET = SessionTicket(bytes(range(32)), b"smb", b"\x04\x01\x05", b"session data", early_data=True)


def test_round_trip() -> None:
    for ticket in (
        TICKET,
        replace(TICKET, alpn=b"", parameters=b"", early_data=False, version=QUIC_VERSION_2),
    ):
        assert SessionTicket.unpack(ticket.pack()) == ticket


def test_what_is_no_ticket() -> None:
    packed = TICKET.pack()
    for size in range(len(packed)):
        with pytest.raises(ValueError, match="session ticket"):
            SessionTicket.unpack(packed[:size])
    for wrong in (packed + b"x", b"XX" + packed[2:], packed[:2] + b"\x09" + packed[3:]):
        with pytest.raises(ValueError, match="session ticket"):
            SessionTicket.unpack(wrong)
    with pytest.raises(ValueError, match="at most"):
        replace(TICKET, session=bytes(MAX_TICKET)).pack()
    with pytest.raises(ValueError, match="session ticket"):
        replace(TICKET, alpn=bytes(256)).pack()


@given(st.binary(max_size=200))
def test_any_bytes(data: bytes) -> None:
    """A ticket, or ValueError."""
    for value in (data, TICKET.pack()[: len(data)] + data):
        try:
            assert SessionTicket.unpack(value).pack() == value
        except ValueError:
            pass
    try:
        transport_param.decode(pick(data), from_server=True)
    except (ValueError, transport_param.ProtocolViolation):
        pass


def test_only_limits_are_remembered() -> None:
    parameters = replace(
        default_parameters(), original_destination_connection_id=b"abc", stateless_reset_token=bytes(16)
    )
    kept = transport_param.decode(pick(parameters.encode(is_server=True)), from_server=True)
    assert kept == replace(
        transport_param.TransportParameters(),
        initial_max_data=parameters.initial_max_data,
        initial_max_stream_data_bidi_local=parameters.initial_max_stream_data_bidi_local,
        initial_max_stream_data_bidi_remote=parameters.initial_max_stream_data_bidi_remote,
        initial_max_stream_data_uni=parameters.initial_max_stream_data_uni,
        initial_max_streams_bidi=parameters.initial_max_streams_bidi,
        initial_max_streams_uni=parameters.initial_max_streams_uni,
        active_connection_id_limit=parameters.active_connection_id_limit,
        max_datagram_frame_size=parameters.max_datagram_frame_size,
    )


# --- a socket's memory


def test_a_ticket_is_offered_once_and_replaced() -> None:
    resume = Resume()
    assert not resume.set_ticket(TICKET.pack(), QUIC_VERSION_1)
    assert resume.ticket(QUIC_VERSION_1) == TICKET.pack()
    resume.use()
    assert resume.ticket(QUIC_VERSION_1) == TICKET.pack()  # the agent asks now
    resume.forget()
    assert resume.ticket(QUIC_VERSION_1) == b""
    new = replace(TICKET, session=b"new")
    assert resume.set_ticket(new.pack(), QUIC_VERSION_1)
    assert resume.ticket(QUIC_VERSION_1) == new.pack()


def test_a_ticket_counts_for_its_version() -> None:
    """RFC 9369 §5."""
    resume = Resume()
    resume.set_ticket(TICKET.pack(), QUIC_VERSION_1)
    assert resume.ticket(QUIC_VERSION_2) == b""
    assert resume.early_parameters(QUIC_VERSION_2) is None
    resume.use()
    resume.set_ticket(TICKET.pack(), QUIC_VERSION_2)
    assert SessionTicket.unpack(resume.ticket(QUIC_VERSION_2)) == replace(TICKET, version=QUIC_VERSION_2)


def test_early_data_need_a_ticket_that_allows_them() -> None:
    resume = Resume()
    assert resume.early_parameters(QUIC_VERSION_1) is None
    resume.set_ticket(TICKET.pack(), QUIC_VERSION_1)
    parameters = resume.early_parameters(QUIC_VERSION_1)
    assert parameters is not None and parameters.initial_max_data == 5
    resume.set_ticket(replace(TICKET, early_data=False).pack(), QUIC_VERSION_1)
    assert resume.early_parameters(QUIC_VERSION_1) is None
    resume.set_ticket(replace(TICKET, parameters=b"\x04\x01").pack(), QUIC_VERSION_1)
    assert resume.early_parameters(QUIC_VERSION_1) is None


def test_a_servers_secret() -> None:
    resume = Resume()
    assert not resume.set_ticket(bytes(range(64)), QUIC_VERSION_1)
    assert resume.secret == bytes(range(64))
    assert resume.ticket(QUIC_VERSION_1) == b""


# --- tokens


def test_tokens_are_used_up() -> None:
    sealer = TokenSealer(bytes(16))
    used = UsedTokens(limit=2, lifetime=10.0)
    tokens = [
        sealer.seal_new_token("192.0.2.1", 1, 0.0, bytes((number,)) * NONCE_LENGTH) for number in range(4)
    ]
    assert used.use(tokens[0], 0.0)
    assert not used.use(tokens[0], 1.0)
    assert used.use(tokens[1], 5.0)
    assert not used.use(tokens[2], 6.0)  # no room
    assert used.use(tokens[2], 10.0)  # the first one has expired by itself
    assert not used.use(tokens[1], 11.0)
