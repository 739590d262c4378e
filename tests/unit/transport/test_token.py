"""Address validation tokens: good for the address and time they were made for, and for nothing else."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quicfs.transport.token import TokenKind, TokenSealer, token_kind

KEY = bytes(range(16))
NONCE = bytes(12)
ODCID = b"original"
SCID = b"retry id"
LIFETIME = 60.0

sealer = TokenSealer(KEY)
RETRY = sealer.seal_retry("192.0.2.1", 4433, ODCID, SCID, 1000.0, NONCE)
NEW = sealer.seal_new_token("2001:db8::1", 1, 1000.0, NONCE)


def test_retry_gives_the_original_id_back() -> None:
    assert token_kind(RETRY) is TokenKind.RETRY
    for now in (1000.0, 1030.0, 1060.0):
        assert sealer.open_retry(RETRY, "192.0.2.1", 4433, SCID, now, LIFETIME) == ODCID


@pytest.mark.parametrize(
    ("host", "port", "scid", "now"),
    [
        ("192.0.2.2", 4433, SCID, 1001.0),
        ("192.0.2.1", 4434, SCID, 1001.0),
        ("2001:db8::1", 4433, SCID, 1001.0),
        ("192.0.2.1", 4433, b"other id", 1001.0),
        ("192.0.2.1", 4433, SCID, 1060.1),
        ("192.0.2.1", 4433, SCID, 999.9),
    ],
    ids=["host", "port", "family", "connection ID", "expired", "from the future"],
)
def test_retry_is_bound(host: str, port: int, scid: bytes, now: float) -> None:
    assert sealer.open_retry(RETRY, host, port, scid, now, LIFETIME) is None


def test_new_token_is_bound_to_the_host_only() -> None:
    assert token_kind(NEW) is TokenKind.NEW_TOKEN
    assert sealer.open_new_token(NEW, "2001:db8::1", 1, 1059.0, LIFETIME)
    assert sealer.open_new_token(NEW, "2001:db8:0::1", 1, 1059.0, LIFETIME)
    assert not sealer.open_new_token(NEW, "2001:db8::2", 1, 1059.0, LIFETIME)
    assert not sealer.open_new_token(NEW, "2001:db8::1", 2, 1059.0, LIFETIME)
    assert not sealer.open_new_token(NEW, "2001:db8::1", 1, 1061.0, LIFETIME)


def test_dual_stack_names_are_one_address() -> None:
    assert sealer.open_retry(RETRY, "::ffff:192.0.2.1", 4433, SCID, 1000.0, LIFETIME) == ODCID
    scoped = sealer.seal_new_token("fe80::1%eth0", 1, 0.0, NONCE)
    assert sealer.open_new_token(scoped, "fe80::1", 1, 0.0, LIFETIME)


def test_one_kind_is_not_the_other() -> None:
    as_new = bytes((TokenKind.NEW_TOKEN,)) + RETRY[1:]
    assert not sealer.open_new_token(as_new, "192.0.2.1", 1, 1000.0, LIFETIME)
    assert not sealer.open_new_token(RETRY, "192.0.2.1", 1, 1000.0, LIFETIME)
    assert sealer.open_retry(NEW, "2001:db8::1", 0, b"", 1000.0, LIFETIME) is None


def test_another_servers_key() -> None:
    assert TokenSealer(bytes(16)).open_retry(RETRY, "192.0.2.1", 4433, SCID, 1000.0, LIFETIME) is None


def test_every_changed_or_missing_byte_is_noticed() -> None:
    for pos in range(len(RETRY)):
        broken = bytearray(RETRY)
        broken[pos] ^= 1
        assert sealer.open_retry(bytes(broken), "192.0.2.1", 4433, SCID, 1000.0, LIFETIME) is None
        assert sealer.open_retry(RETRY[:pos], "192.0.2.1", 4433, SCID, 1000.0, LIFETIME) is None


@given(st.binary(max_size=80))
def test_garbage_is_refused(token: bytes) -> None:
    assert sealer.open_retry(token, "192.0.2.1", 4433, SCID, 1000.0, LIFETIME) is None
    assert not sealer.open_new_token(token, "192.0.2.1", 1, 1000.0, LIFETIME)
