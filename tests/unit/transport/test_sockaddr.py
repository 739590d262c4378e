"""struct sockaddr, against what the socket module itself hands to the kernel."""

from __future__ import annotations

import socket

import pytest

from quicfs.transport import sockaddr


@pytest.mark.parametrize(
    ("address", "packed"),
    [
        (
            ("192.0.2.1", 443),
            socket.AF_INET.to_bytes(2, "little") + bytes.fromhex("01bb c0000201") + bytes(8),
        ),
        (
            ("2001:db8::1", 443, 0, 0),
            socket.AF_INET6.to_bytes(2, "little")
            + bytes.fromhex("01bb 00000000 20010db8000000000000000000000001 00000000"),
        ),
    ],
)
def test_layout(address: tuple[str, int], packed: bytes) -> None:
    assert sockaddr.pack(address) == packed
    assert sockaddr.unpack(packed) == address
    assert sockaddr.unpack(packed + bytes(128 - len(packed))) == address  # sockaddr_storage


@pytest.mark.parametrize(
    "wrong", [b"", b"\0", bytes(16), b"\2\0\0", b"\1\0" + bytes(26), b"\x0a\0" + bytes(14)]
)
def test_refused(wrong: bytes) -> None:
    with pytest.raises(ValueError, match=r"sockaddr|neither"):
        sockaddr.unpack(wrong)


def test_a_name_is_no_address() -> None:
    with pytest.raises(ValueError, match="not an IP address"):
        sockaddr.pack(("localhost", 1))
