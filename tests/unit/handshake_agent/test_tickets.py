"""Ticket keys, the memory against replays, and NewSessionTicket messages."""

from __future__ import annotations

from pathlib import Path

import pytest

from quicfs.handshake_agent.config import ConfigError
from quicfs.handshake_agent.tickets import (
    MAX_MESSAGE,
    ReplayMemory,
    TicketKeys,
    early_data_of,
    split_messages,
)


def nst(extensions: bytes = b"", ticket: bytes = b"ticket", nonce: bytes = b"\0") -> bytes:
    body = bytes(8) + bytes((len(nonce),)) + nonce + len(ticket).to_bytes(2, "big") + ticket
    body += len(extensions).to_bytes(2, "big") + extensions
    return b"\x04" + len(body).to_bytes(3, "big") + body


EARLY = b"\0\x2a\0\x04\xff\xff\xff\xff"
OTHER = b"\x12\x34\0\x02xx"


def test_keys_depend_on_everything() -> None:
    keys = TicketKeys()
    first = keys.derive(b"certificate", b"smb", early_data=False)
    assert len(first) == 64
    assert keys.derive(b"certificate", b"smb", early_data=False) == first
    others = [
        keys.derive(b"certificate", b"smb", early_data=True),
        keys.derive(b"certificatesmb", b"", early_data=False),
        keys.derive(b"certificate", early_data=False),
        TicketKeys().derive(b"certificate", b"smb", early_data=False),
    ]
    assert len({first, *others}) == 5


def test_a_file_is_shared_but_not_for_early_data(tmp_path: Path) -> None:
    """What was used up for 0-RTT is remembered in one process only."""
    file = tmp_path / "key"
    first, second = TicketKeys(file), TicketKeys(file)
    assert first.derive(b"x", early_data=False) == second.derive(b"x", early_data=False)
    assert first.derive(b"x", early_data=True) != second.derive(b"x", early_data=True)
    assert file.stat().st_mode & 0o777 == 0o600


def test_a_file_that_cannot_be_made(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"agent\.ticket_key .*missing"):
        TicketKeys(tmp_path / "missing" / "key")


def test_each_client_hello_counts_once() -> None:
    now = 0.0
    memory = ReplayMemory(window_s=10, limit=3, clock=lambda: now)
    assert memory.is_new(b"a")
    assert not memory.is_new(b"a")
    assert memory.is_new(b"b")
    assert memory.is_new(b"c")
    assert not memory.is_new(b"d")  # no room: refused rather than forgotten
    now = 15.0
    assert not memory.is_new(b"a")
    now = 20.0
    assert memory.is_new(b"d")
    assert memory.is_new(b"a")


def test_messages_are_put_together() -> None:
    stream = nst() + nst(EARLY) + nst(OTHER)
    buffer = bytearray()
    found: list[bytes] = []
    for byte in stream:
        buffer.append(byte)
        found += split_messages(buffer)
    assert found == [nst(), nst(EARLY), nst(OTHER)]
    assert not buffer


def test_a_message_that_is_too_long() -> None:
    with pytest.raises(ValueError, match="bytes after the handshake"):
        split_messages(bytearray(b"\x04" + (MAX_MESSAGE + 1).to_bytes(3, "big")))


@pytest.mark.parametrize(
    ("message", "value"),
    [
        (nst(), 0),
        (nst(OTHER), 0),
        (nst(EARLY), 0xFFFFFFFF),
        (nst(OTHER + EARLY, nonce=b"12345678"), 0xFFFFFFFF),
        (nst(b"\0\x2a\0\x04\0\0\x40\0"), 0x4000),
    ],
)
def test_early_data_of_a_ticket(message: bytes, value: int) -> None:
    assert early_data_of(message) == value


def test_malformed_tickets_are_refused() -> None:
    whole = nst(OTHER)
    for size in range(4, len(whole)):
        with pytest.raises(ValueError, match="malformed"):
            early_data_of(whole[:size])
    with pytest.raises(ValueError, match="malformed"):
        early_data_of(whole + b"x")
