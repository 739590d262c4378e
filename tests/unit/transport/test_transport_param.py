"""Transport parameters: round trips and every rule of RFC 9000 §18.2."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quicfs.transport import varint
from quicfs.transport.errors import MisuseError, ProtocolViolation, TransportErrorCode
from quicfs.transport.transport_param import (
    ParameterId,
    PreferredAddress,
    TransportParameters,
    VersionInformation,
    decode,
)

integers = st.integers(0, varint.MAX)
cids = st.none() | st.binary(max_size=20)
tokens = st.binary(min_size=16, max_size=16)
ports = st.integers(1, 65535)
versions = st.integers(1, 2**32 - 1)

client_fields = {
    "max_idle_timeout_ms": integers,
    "max_udp_payload_size": st.integers(1200, varint.MAX),
    "initial_max_data": integers,
    "initial_max_stream_data_bidi_local": integers,
    "initial_max_stream_data_bidi_remote": integers,
    "initial_max_stream_data_uni": integers,
    "initial_max_streams_bidi": st.integers(0, 1 << 60),
    "initial_max_streams_uni": st.integers(0, 1 << 60),
    "ack_delay_exponent": st.integers(0, 20),
    "max_ack_delay_ms": st.integers(0, (1 << 14) - 1),
    "disable_active_migration": st.booleans(),
    "active_connection_id_limit": st.integers(2, varint.MAX),
    "initial_source_connection_id": cids,
    "version_information": st.none() | st.builds(VersionInformation, versions, st.lists(versions).map(tuple)),
    "max_datagram_frame_size": integers,
    "grease_quic_bit": st.booleans(),
}
server_fields = client_fields | {
    "original_destination_connection_id": cids,
    "retry_source_connection_id": cids,
    "stateless_reset_token": st.none() | tokens,
    "preferred_address": st.none()
    | st.builds(
        PreferredAddress,
        st.none() | st.tuples(st.ip_addresses(v=4).map(str), ports),
        st.none() | st.tuples(st.ip_addresses(v=6).map(str), ports),
        st.binary(min_size=1, max_size=20),
        tokens,
    ),
}
PREFERRED = PreferredAddress(("192.0.2.1", 443), ("2001:db8::1", 443), b"cid", bytes(16))


def entry(parameter_id: int, value: bytes) -> bytes:
    return varint.encode(parameter_id) + varint.encode(len(value)) + value


@given(st.builds(TransportParameters, **client_fields), st.binary(max_size=20))
def test_client_round_trip(parameters: TransportParameters, grease: bytes) -> None:
    assert decode(parameters.encode(is_server=False, grease=grease), from_server=False) == parameters


@given(st.builds(TransportParameters, **server_fields), st.binary(max_size=20))
def test_server_round_trip(parameters: TransportParameters, grease: bytes) -> None:
    assert decode(parameters.encode(is_server=True, grease=grease), from_server=True) == parameters


def test_nothing_sent_means_the_defaults() -> None:
    parameters = decode(b"", from_server=False)
    assert parameters == TransportParameters()
    assert parameters.max_udp_payload_size == 65527
    assert parameters.ack_delay_exponent == 3
    assert parameters.max_ack_delay_ms == 25
    assert parameters.active_connection_id_limit == 2
    assert TransportParameters().encode(is_server=True) == b""


def test_empty_connection_id_is_not_an_absent_one() -> None:
    data = TransportParameters(initial_source_connection_id=b"").encode(is_server=False)
    assert data == bytes.fromhex("0f00")
    assert decode(data, from_server=False).initial_source_connection_id == b""


def test_grease_is_a_reserved_parameter() -> None:
    data = TransportParameters().encode(is_server=False, grease=bytes((200, 1, 2, 3)))
    parameter_id, pos = varint.decode(data, 0)
    assert (parameter_id - 27) % 31 == 0
    assert data[pos:] == b"\3\1\2\3"


REFUSED = {
    "twice": entry(0x04, b"\1") + entry(0x04, b"\1"),
    "unknown twice": entry(0x3FFF, b"") * 2,
    "cut off in the id": b"\x40",
    "cut off in the length": b"\x04",
    "cut off in the value": b"\x04\x02\x40",
    "integer with a wrong length": entry(0x04, b"\1\1"),
    "integer without a value": entry(0x04, b""),
    "max_udp_payload_size below 1200": entry(0x03, varint.encode(1199)),
    "ack_delay_exponent above 20": entry(0x0A, varint.encode(21)),
    "max_ack_delay of 2^14": entry(0x0B, varint.encode(1 << 14)),
    "active_connection_id_limit below 2": entry(0x0E, varint.encode(1)),
    "too many bidirectional streams": entry(0x08, varint.encode((1 << 60) + 1)),
    "too many unidirectional streams": entry(0x09, varint.encode((1 << 60) + 1)),
    "flag with a value": entry(0x0C, b"\1"),
    "connection ID of 21 bytes": entry(0x0F, bytes(21)),
    "reset token of 15 bytes": entry(0x02, bytes(15)),
    "reset token of 17 bytes": entry(0x02, bytes(17)),
    "preferred address without connection ID": entry(0x0D, bytes(25 + 16)),
    "preferred address cut off": entry(0x0D, bytes(24)),
    "preferred address with a rest": entry(0x0D, bytes(24) + b"\1a" + bytes(17)),
    "version information of 6 bytes": entry(0x11, bytes(6)),
    "version information empty": entry(0x11, b""),
    "version information with version 0": entry(0x11, b"\0\0\0\1\0\0\0\0"),
}


@pytest.mark.parametrize("data", REFUSED.values(), ids=REFUSED.keys())
def test_refused(data: bytes) -> None:
    with pytest.raises(ProtocolViolation) as caught:
        decode(data, from_server=True)
    assert caught.value.code == TransportErrorCode.TRANSPORT_PARAMETER_ERROR


SERVER_ONLY = [
    TransportParameters(original_destination_connection_id=b"x"),
    TransportParameters(stateless_reset_token=bytes(16)),
    TransportParameters(preferred_address=PREFERRED),
    TransportParameters(retry_source_connection_id=b"x"),
]


@pytest.mark.parametrize("parameters", SERVER_ONLY)
def test_servers_parameters_are_not_for_clients(parameters: TransportParameters) -> None:
    with pytest.raises(MisuseError):
        parameters.encode(is_server=False)
    with pytest.raises(ProtocolViolation) as caught:
        decode(parameters.encode(is_server=True), from_server=False)
    assert caught.value.code == TransportErrorCode.TRANSPORT_PARAMETER_ERROR


@pytest.mark.parametrize(
    "parameters",
    [
        TransportParameters(max_udp_payload_size=1199),
        TransportParameters(stateless_reset_token=b"short"),
        TransportParameters(initial_max_data=-1),
        TransportParameters(preferred_address=PREFERRED._replace(connection_id=b"")),
    ],
)
def test_our_own_mistakes_are_misuse(parameters: TransportParameters) -> None:
    with pytest.raises(MisuseError):
        parameters.encode(is_server=True)


@given(st.binary(max_size=200), st.booleans())
def test_garbage_is_read_or_refused(data: bytes, from_server: bool) -> None:
    try:
        decode(data, from_server=from_server)
    except ProtocolViolation as violation:
        assert violation.code == TransportErrorCode.TRANSPORT_PARAMETER_ERROR


def test_samba_sends_these() -> None:
    """The extension of Samba's own client (see test_client_hello for the whole message)."""
    data = bytes.fromhex(
        "0f08b39342eb577f440b05048010000006048010000007048010000004048020000008024064090240640104800075300e0107"
        "110c000000016b3343cf00000001"
    )
    parameters = decode(data, from_server=False)
    assert parameters.initial_max_data == 2 << 20
    assert parameters.initial_max_stream_data_bidi_local == 1 << 20
    assert parameters.initial_max_streams_bidi == 100
    assert parameters.max_idle_timeout_ms == 30_000
    assert parameters.version_information == VersionInformation(1, (0x6B3343CF, 1))
    assert ParameterId.VERSION_INFORMATION == 0x11
