"""Option TRANSPORT_PARAM: transport parameters as a structure (draft-lxin-quic-socket-apis §6.2.9).

Reading gives our own, or with `remote` set the peer's. They are set before connect or listen; a field of 0 leaves
what is there.
"""

from __future__ import annotations

import errno
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from quicfs.transport import limits, uapi
from quicfs.transport.transport_param import (
    MAX_ACK_DELAY_EXPONENT,
    MAX_MAX_ACK_DELAY_MS,
    MIN_MAX_UDP_PAYLOAD_SIZE,
    TransportParameters,
)

if TYPE_CHECKING:
    from quicfs.transport.socket import QuicSocket

_U8, _U16, _U32, _U64 = ((1 << bits) - 1 for bits in (8, 16, 32, 64))


class _Field(NamedTuple):
    parameter: str
    """Of `TransportParameters`."""
    widest: int
    """What the structure holds; a peer's value beyond that is told as that."""
    unit: int = 1
    minimum: int = 1
    maximum: int = (1 << 62) - 1
    """What may be set, in the structure's unit."""


_NUMBERS: Final[dict[str, _Field]] = {
    "active_connection_id_limit": _Field(
        "active_connection_id_limit", _U8, minimum=2, maximum=limits.MAX_ACTIVE_PEER_CIDS
    ),
    "ack_delay_exponent": _Field("ack_delay_exponent", _U8, maximum=MAX_ACK_DELAY_EXPONENT),
    "max_datagram_frame_size": _Field("max_datagram_frame_size", _U16),
    "max_udp_payload_size": _Field("max_udp_payload_size", _U16, minimum=MIN_MAX_UDP_PAYLOAD_SIZE),
    "max_idle_timeout": _Field("max_idle_timeout_ms", _U32, unit=1000, minimum=1000),
    "max_ack_delay": _Field(
        "max_ack_delay_ms", _U32, unit=1000, minimum=1000, maximum=MAX_MAX_ACK_DELAY_MS * 1000
    ),
    "max_streams_bidi": _Field("initial_max_streams_bidi", _U16),
    "max_streams_uni": _Field("initial_max_streams_uni", _U16),
    "max_data": _Field("initial_max_data", _U64),
    "max_stream_data_bidi_local": _Field("initial_max_stream_data_bidi_local", _U64),
    "max_stream_data_bidi_remote": _Field("initial_max_stream_data_bidi_remote", _U64),
    "max_stream_data_uni": _Field("initial_max_stream_data_uni", _U64),
}
_FLAGS: Final = ("disable_active_migration", "grease_quic_bit")


def read(sock: QuicSocket, value: bytes) -> bytes:
    """`value` is a TransportParam of which only `remote` matters, or nothing: our own."""
    remote = uapi.TransportParam.unpack(value).remote if value else 0
    if not remote:
        own = sock.connection.ours if sock.connected else sock.config.parameters
        return _pack(own, remote=0, resets=True, compatible=sock.config.compatible_versions)
    peer = sock.connection.peer
    if peer is None:
        raise OSError(errno.ENOTCONN, "the peer's transport parameters have not come yet")
    versions = peer.version_information
    compatible = versions is not None and len(versions.available) > 1
    return _pack(peer, remote=1, resets=peer.stateless_reset_token is not None, compatible=compatible)


def _pack(parameters: TransportParameters, *, remote: int, resets: bool, compatible: bool) -> bytes:
    values: dict[str, Any] = {
        name: min(getattr(parameters, field.parameter) * field.unit, field.widest)
        for name, field in _NUMBERS.items()
    }
    for name in _FLAGS:
        values[name] = int(getattr(parameters, name))
    return uapi.TransportParam(
        remote=remote, stateless_reset=int(resets), disable_compatible_version=int(not compatible), **values
    ).pack()


def write(sock: QuicSocket, value: bytes) -> None:
    if sock.connected or sock.listening:
        raise OSError(errno.EISCONN, "transport parameters are set before connect or listen")
    given = uapi.TransportParam.unpack(value)
    if given.remote:
        raise ValueError("the peer's transport parameters cannot be set")
    if given.disable_1rtt_encryption:
        # draft-banks-quic-disable-encryption is for machines that trust their network as themselves; what this
        # carries is file contents and credentials.
        raise ValueError("packets are always encrypted")
    changes: dict[str, Any] = {}
    for name, field in _NUMBERS.items():
        number = getattr(given, name)
        if not number:
            continue
        if not field.minimum <= number <= field.maximum:
            raise ValueError(f"{name} of {number}: {field.minimum} to {field.maximum} is possible")
        changes[field.parameter] = number // field.unit
    for name in _FLAGS:
        if getattr(given, name):
            changes[name] = True
    # stateless_reset is always on, so setting it changes nothing and leaving it does not either
    sock.config = replace(
        sock.config,
        parameters=replace(sock.config.parameters, **changes),
        compatible_versions=sock.config.compatible_versions and not given.disable_compatible_version,
    )
