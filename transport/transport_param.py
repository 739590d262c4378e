"""Transport parameters (RFC 9000 §18): the TLS extension by which each end states its limits."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from enum import IntEnum
from ipaddress import IPv4Address, IPv6Address
from struct import Struct
from typing import NamedTuple, NoReturn

from quicfs.transport import varint
from quicfs.transport.errors import MisuseError, ProtocolViolation, TransportErrorCode
from quicfs.transport.frame import MAX_STREAMS
from quicfs.transport.frame_type import FrameType
from quicfs.transport.packet import MAX_CID_LENGTH, STATELESS_RESET_TOKEN_LENGTH

DEFAULT_MAX_UDP_PAYLOAD_SIZE = 65527
MIN_MAX_UDP_PAYLOAD_SIZE = 1200
DEFAULT_ACK_DELAY_EXPONENT = 3
DEFAULT_MAX_ACK_DELAY_MS = 25
DEFAULT_ACTIVE_CONNECTION_ID_LIMIT = 2
MAX_ACK_DELAY_EXPONENT = 20
MAX_MAX_ACK_DELAY_MS = (1 << 14) - 1


class ParameterId(IntEnum):
    ORIGINAL_DESTINATION_CONNECTION_ID = 0x00
    MAX_IDLE_TIMEOUT = 0x01
    STATELESS_RESET_TOKEN = 0x02
    MAX_UDP_PAYLOAD_SIZE = 0x03
    INITIAL_MAX_DATA = 0x04
    INITIAL_MAX_STREAM_DATA_BIDI_LOCAL = 0x05
    INITIAL_MAX_STREAM_DATA_BIDI_REMOTE = 0x06
    INITIAL_MAX_STREAM_DATA_UNI = 0x07
    INITIAL_MAX_STREAMS_BIDI = 0x08
    INITIAL_MAX_STREAMS_UNI = 0x09
    ACK_DELAY_EXPONENT = 0x0A
    MAX_ACK_DELAY = 0x0B
    DISABLE_ACTIVE_MIGRATION = 0x0C
    PREFERRED_ADDRESS = 0x0D
    ACTIVE_CONNECTION_ID_LIMIT = 0x0E
    INITIAL_SOURCE_CONNECTION_ID = 0x0F
    RETRY_SOURCE_CONNECTION_ID = 0x10
    VERSION_INFORMATION = 0x11  # RFC 9368
    MAX_DATAGRAM_FRAME_SIZE = 0x20  # RFC 9221
    GREASE_QUIC_BIT = 0x2AB2  # RFC 9287
    MIN_ACK_DELAY = 0xFF04DE1B  # draft-ietf-quic-ack-frequency


class PreferredAddress(NamedTuple):
    """§18.2; an address of None is one that the server does not offer."""

    ipv4: tuple[str, int] | None
    ipv6: tuple[str, int] | None
    connection_id: bytes
    stateless_reset_token: bytes


class VersionInformation(NamedTuple):
    """RFC 9368 §3."""

    chosen: int
    available: tuple[int, ...]


@dataclass(slots=True)
class TransportParameters:
    """One end's parameters, named as in §18.2; a field left out of the extension has the value below."""

    original_destination_connection_id: bytes | None = None
    max_idle_timeout_ms: int = 0
    stateless_reset_token: bytes | None = None
    max_udp_payload_size: int = DEFAULT_MAX_UDP_PAYLOAD_SIZE
    initial_max_data: int = 0
    initial_max_stream_data_bidi_local: int = 0
    initial_max_stream_data_bidi_remote: int = 0
    initial_max_stream_data_uni: int = 0
    initial_max_streams_bidi: int = 0
    initial_max_streams_uni: int = 0
    ack_delay_exponent: int = DEFAULT_ACK_DELAY_EXPONENT
    max_ack_delay_ms: int = DEFAULT_MAX_ACK_DELAY_MS
    disable_active_migration: bool = False
    preferred_address: PreferredAddress | None = None
    active_connection_id_limit: int = DEFAULT_ACTIVE_CONNECTION_ID_LIMIT
    initial_source_connection_id: bytes | None = None
    retry_source_connection_id: bytes | None = None
    version_information: VersionInformation | None = None
    max_datagram_frame_size: int = 0
    grease_quic_bit: bool = False
    min_ack_delay_us: int | None = None
    """None: ACK_FREQUENCY is not understood."""

    def encode(self, *, is_server: bool, grease: bytes = b"") -> bytes:
        """The extension's content, parameters at their default left out.

        `grease` is entropy (0 to 17 bytes) for one reserved parameter (§18.1), none when empty.
        MisuseError for a server's parameter in a client's.
        """
        parts: list[bytes] = []
        for row in _ROWS:
            value = getattr(self, row.name)
            if value == row.default:
                continue
            if row.server_only and not is_server:
                raise MisuseError(f"{row.name} is for servers only")
            parts.append(_entry(row.parameter_id, row.kind.write(value)))
        if grease:
            parts.append(_entry(31 * grease[0] + 27, grease[1:17]))  # §18.1
        return b"".join(parts)


def copy(parameters: TransportParameters) -> TransportParameters:
    """A copy to fill in what belongs to one connection."""
    return replace(parameters)


def decode(data: bytes, *, from_server: bool) -> TransportParameters:
    """Read the extension as a peer sent it. ProtocolViolation(TRANSPORT_PARAMETER_ERROR) for a broken rule;
    parameters that we do not know are skipped (§7.4.2)."""
    parameters = TransportParameters()
    seen: set[int] = set()
    pos, end = 0, len(data)
    while pos < end:
        try:
            parameter_id, pos = varint.decode(data, pos)
            length, pos = varint.decode(data, pos)
        except ProtocolViolation:
            _refuse("transport parameters are cut off")
        if pos + length > end:
            _refuse("transport parameters are cut off")
        value = data[pos : pos + length]
        pos += length
        if parameter_id in seen:
            # §7.4: a parameter MUST NOT appear twice -> TRANSPORT_PARAMETER_ERROR
            _refuse(f"transport parameter {parameter_id:#x} appears twice")
        seen.add(parameter_id)
        row = _ROW_BY_ID.get(parameter_id)
        if row is None:
            continue
        if row.server_only and not from_server:
            _refuse(f"{row.name} from a client")  # §18.2
        setattr(parameters, row.name, row.kind.read(row.name, value))
    least = parameters.min_ack_delay_us
    if least is not None and least > parameters.max_ack_delay_ms * 1000:
        _refuse("min_ack_delay beyond max_ack_delay")  # draft-ietf-quic-ack-frequency §3
    return parameters


# --- Kinds of value ----------------------------------------------------------------------------------


class _Kind:
    """How a value stands in the extension, and which values are allowed."""

    def write(self, value: object) -> bytes:
        raise NotImplementedError

    def read(self, name: str, data: bytes) -> object:
        raise NotImplementedError


@dataclass(frozen=True)
class _Integer(_Kind):
    minimum: int = 0
    maximum: int = varint.MAX

    def write(self, value: object) -> bytes:
        assert isinstance(value, int)
        if not self.minimum <= value <= self.maximum:
            raise MisuseError(f"transport parameter {value} is not in {self.minimum} to {self.maximum}")
        return varint.encode(value)

    def read(self, name: str, data: bytes) -> int:
        try:
            value, pos = varint.decode(data, 0)
        except ProtocolViolation:
            _refuse(f"{name} is cut off")
        if pos != len(data):
            _refuse(f"{name} has a wrong length")
        if not self.minimum <= value <= self.maximum:
            _refuse(f"{name} is {value}, not {self.minimum} to {self.maximum}")
        return value


class _Flag(_Kind):
    def write(self, value: object) -> bytes:
        return b""

    def read(self, name: str, data: bytes) -> bool:
        if data:
            _refuse(f"{name} has a value")
        return True


@dataclass(frozen=True)
class _Bytes(_Kind):
    minimum: int
    maximum: int

    def write(self, value: object) -> bytes:
        assert isinstance(value, bytes)
        if not self.minimum <= len(value) <= self.maximum:
            raise MisuseError(f"transport parameter of {len(value)} bytes")
        return value

    def read(self, name: str, data: bytes) -> bytes:
        if not self.minimum <= len(data) <= self.maximum:
            _refuse(f"{name} has {len(data)} bytes")
        return data


class _PreferredAddressKind(_Kind):
    _layout = Struct(">4sH16sHB")

    def write(self, value: object) -> bytes:
        assert isinstance(value, PreferredAddress)
        host4, port4 = value.ipv4 or ("0.0.0.0", 0)
        host6, port6 = value.ipv6 or ("::", 0)
        cid, token = value.connection_id, value.stateless_reset_token
        if not 1 <= len(cid) <= MAX_CID_LENGTH or len(token) != STATELESS_RESET_TOKEN_LENGTH:
            raise MisuseError("a connection ID has 1 to 20 bytes and its reset token 16")
        packed4, packed6 = IPv4Address(host4).packed, IPv6Address(host6).packed
        return self._layout.pack(packed4, port4, packed6, port6, len(cid)) + cid + token

    def read(self, name: str, data: bytes) -> PreferredAddress:
        fixed = self._layout.size
        if len(data) < fixed:
            _refuse(f"{name} is cut off")
        packed4, port4, packed6, port6, length = self._layout.unpack_from(data)
        # §18.2: a connection ID of length 0 -> TRANSPORT_PARAMETER_ERROR
        if not 1 <= length <= MAX_CID_LENGTH or len(data) != fixed + length + STATELESS_RESET_TOKEN_LENGTH:
            _refuse(f"{name} has a wrong length")
        cid, token = data[fixed : fixed + length], data[fixed + length :]
        # §18.2: a family is left out by an address and port of zeros
        ipv4 = (str(IPv4Address(packed4)), port4) if port4 or any(packed4) else None
        ipv6 = (str(IPv6Address(packed6)), port6) if port6 or any(packed6) else None
        return PreferredAddress(ipv4, ipv6, cid, token)


class _VersionInformationKind(_Kind):
    def write(self, value: object) -> bytes:
        assert isinstance(value, VersionInformation)
        return b"".join(version.to_bytes(4, "big") for version in (value.chosen, *value.available))

    def read(self, name: str, data: bytes) -> VersionInformation:
        # RFC 9368 §4: a length that is no multiple of 4, or a version 0 -> TRANSPORT_PARAMETER_ERROR
        if not data or len(data) % 4:
            _refuse(f"{name} has a wrong length")
        versions = Struct(f">{len(data) // 4}I").unpack(data)
        if 0 in versions:
            _refuse(f"{name} names version 0")
        return VersionInformation(versions[0], versions[1:])


# --- The table (§18.2) -------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Row:
    parameter_id: ParameterId
    kind: _Kind
    server_only: bool = False
    unit: str = ""
    name: str = field(init=False)
    default: object = field(init=False)

    def __post_init__(self) -> None:
        name = self.parameter_id.name.lower() + self.unit
        object.__setattr__(self, "name", name)
        object.__setattr__(self, "default", getattr(TransportParameters(), name))


_ANY = _Integer()
_STREAMS = _Integer(maximum=MAX_STREAMS)  # §4.6
_CID = _Bytes(0, MAX_CID_LENGTH)
_RESET_TOKEN = _Bytes(STATELESS_RESET_TOKEN_LENGTH, STATELESS_RESET_TOKEN_LENGTH)
_UDP_PAYLOAD = _Integer(minimum=MIN_MAX_UDP_PAYLOAD_SIZE)

_ROWS = (
    _Row(ParameterId.ORIGINAL_DESTINATION_CONNECTION_ID, _CID, server_only=True),
    _Row(ParameterId.MAX_IDLE_TIMEOUT, _ANY, unit="_ms"),
    _Row(ParameterId.STATELESS_RESET_TOKEN, _RESET_TOKEN, server_only=True),
    _Row(ParameterId.MAX_UDP_PAYLOAD_SIZE, _UDP_PAYLOAD),
    _Row(ParameterId.INITIAL_MAX_DATA, _ANY),
    _Row(ParameterId.INITIAL_MAX_STREAM_DATA_BIDI_LOCAL, _ANY),
    _Row(ParameterId.INITIAL_MAX_STREAM_DATA_BIDI_REMOTE, _ANY),
    _Row(ParameterId.INITIAL_MAX_STREAM_DATA_UNI, _ANY),
    _Row(ParameterId.INITIAL_MAX_STREAMS_BIDI, _STREAMS),
    _Row(ParameterId.INITIAL_MAX_STREAMS_UNI, _STREAMS),
    _Row(ParameterId.ACK_DELAY_EXPONENT, _Integer(maximum=MAX_ACK_DELAY_EXPONENT)),
    _Row(ParameterId.MAX_ACK_DELAY, _Integer(maximum=MAX_MAX_ACK_DELAY_MS), unit="_ms"),
    _Row(ParameterId.DISABLE_ACTIVE_MIGRATION, _Flag()),
    _Row(ParameterId.PREFERRED_ADDRESS, _PreferredAddressKind(), server_only=True),
    _Row(ParameterId.ACTIVE_CONNECTION_ID_LIMIT, _Integer(minimum=2)),
    _Row(ParameterId.INITIAL_SOURCE_CONNECTION_ID, _CID),
    _Row(ParameterId.RETRY_SOURCE_CONNECTION_ID, _CID, server_only=True),
    _Row(ParameterId.VERSION_INFORMATION, _VersionInformationKind()),
    _Row(ParameterId.MAX_DATAGRAM_FRAME_SIZE, _ANY),
    _Row(ParameterId.GREASE_QUIC_BIT, _Flag()),
    _Row(ParameterId.MIN_ACK_DELAY, _ANY, unit="_us"),
)
_ROW_BY_ID: dict[int, _Row] = {row.parameter_id: row for row in _ROWS}


def _entry(parameter_id: int, value: bytes) -> bytes:
    return varint.encode(parameter_id) + varint.encode(len(value)) + value


def _refuse(reason: str) -> NoReturn:
    raise ProtocolViolation(TransportErrorCode.TRANSPORT_PARAMETER_ERROR, reason, FrameType.CRYPTO)
