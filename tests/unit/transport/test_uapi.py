"""Sizes and offsets of the structures as a C compiler on Linux lays them out."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quicfs.transport import uapi

SIZES = {
    uapi.StreamInfo: 16,
    uapi.HandshakeInfo: 1,
    uapi.TransportParam: 56,
    uapi.Config: 28,
    uapi.CryptoSecret: 56,
    uapi.ErrInfo: 16,
    uapi.ConnectionIdInfo: 12,
    uapi.EventOption: 2,
    uapi.ConnectionClose: 72,
    uapi.StreamUpdate: 24,
    uapi.StreamMaxData: 16,
}

EXAMPLES: list[uapi.UapiStruct] = [
    uapi.StreamInfo(4, uapi.StreamFlags.FIN | uapi.StreamFlags.NEW),
    uapi.HandshakeInfo(uapi.CryptoLevel.HANDSHAKE),
    uapi.TransportParam(*range(1, 19)),
    uapi.Config(*range(1, 12)),
    uapi.CryptoSecret(1, uapi.CryptoLevel.APP, uapi.TlsCipher.AES_GCM_256, bytes(range(48))),
    uapi.ErrInfo(-1, 7),
    uapi.ConnectionIdInfo(1, 2, 3),
    uapi.EventOption(uapi.Event.KEY_UPDATE, 1),
    uapi.ConnectionClose(0x100 + 45, 6, b"certificate of klab.test has expired"),
    uapi.StreamUpdate(8, uapi.StreamState.RECV_RECVD, 1, 1 << 60),
    uapi.StreamMaxData(8, 1 << 61),
]


@pytest.mark.parametrize(("cls", "size"), SIZES.items())
def test_size(cls: type[uapi.UapiStruct], size: int) -> None:
    assert cls.LAYOUT.size == size


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda e: type(e).__name__)
def test_round_trip(example: uapi.UapiStruct) -> None:
    data = example.pack()
    assert type(example).unpack(data) == example
    assert type(example).unpack(memoryview(data)) == example


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda e: type(e).__name__)
@pytest.mark.parametrize("change", [-1, 1])
def test_wrong_size(example: uapi.UapiStruct, change: int) -> None:
    data = (example.pack() + b"\0")[: len(example.pack()) + change]
    with pytest.raises(ValueError, match="expected"):
        type(example).unpack(data)


@given(st.binary(max_size=80))
def test_any_bytes_unpack_or_are_refused(data: bytes) -> None:
    for cls, size in SIZES.items():
        if len(data) == size:
            cls.unpack(data)
        else:
            with pytest.raises(ValueError, match="expected"):
                cls.unpack(data)


def test_value_out_of_range() -> None:
    with pytest.raises(ValueError, match="Config"):
        uapi.Config(version=1 << 32).pack()


def test_offsets() -> None:
    assert struct.unpack_from("=I", uapi.Config(keepalive_probe_interval=9).pack(), 24) == (9,)
    assert uapi.Config(certificate_request=2).pack()[20] == 2
    assert uapi.Config(no_session_ticket=1).pack()[22] == 1
    assert struct.unpack_from("=Q", uapi.TransportParam(max_data=5).pack(), 24) == (5,)
    assert struct.unpack_from("=Q", uapi.StreamUpdate(0, 0, 0, 5).pack(), 16) == (5,)
    assert uapi.CryptoSecret(1, 2, 51, b"x").pack()[8:10] == b"x\0"


def test_crypto_secret_material_and_repr() -> None:
    secret = uapi.CryptoSecret(1, 0, uapi.TlsCipher.CHACHA20_POLY1305, b"s" * 32)
    again = uapi.CryptoSecret.unpack(secret.pack())
    assert again.material == b"s" * 32
    assert len(again.secret) == uapi.SECRET_MAX_LEN
    assert "sss" not in repr(again)
    with pytest.raises(ValueError, match="cipher type 99"):
        _ = uapi.CryptoSecret(1, 0, 99, b"").material


def test_connection_close_phrase() -> None:
    full = uapi.ConnectionClose(1, 0, b"p" * 64)
    assert uapi.ConnectionClose.unpack(full.pack()).phrase == b"p" * 64
    with pytest.raises(ValueError, match="65 bytes"):
        uapi.ConnectionClose(1, 0, b"p" * 65)


def test_flags_are_the_msg_flags_of_linux() -> None:
    assert [int(f) for f in uapi.StreamFlags] == [0x200, 0x400, 0x800, 0x2000, 0x10000]
    assert [int(f) for f in uapi.MsgFlags] == [0x1000, 0x8000]
