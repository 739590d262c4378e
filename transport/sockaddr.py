"""`struct sockaddr` of Linux, as the CONNECTION_MIGRATION option takes it."""

from __future__ import annotations

import socket
from struct import Struct
from struct import error as StructError
from typing import Final

from quicfs.transport.path import Address

_FAMILY: Final = Struct("=H")
_IN: Final = Struct(">H4s8x")  # port, address; after the family, which is in host order
_IN6: Final = Struct(">HI16s")  # port, flow information, address; then the scope in host order
_SCOPE: Final = Struct("=I")


def pack(address: Address) -> bytes:
    """`sockaddr_in` or `sockaddr_in6` of a socket module's address. ValueError for a host that is no IP address."""
    host, port, *rest = address
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        packed = socket.inet_pton(family, host.partition("%")[0])
    except OSError:
        raise ValueError(f"{host} is not an IP address") from None
    if family == socket.AF_INET:
        return _FAMILY.pack(family) + _IN.pack(port, packed)
    flow, scope = rest or (0, 0)
    return _FAMILY.pack(family) + _IN6.pack(port, flow, packed) + _SCOPE.pack(scope)


def unpack(data: bytes) -> Address:
    """The address in a `sockaddr_in`, `sockaddr_in6`, or a `sockaddr_storage` that holds one. ValueError for others."""
    try:
        (family,) = _FAMILY.unpack_from(data)
        if family == socket.AF_INET:
            port, packed = _IN.unpack_from(data, _FAMILY.size)
            return socket.inet_ntop(family, packed), port
        if family == socket.AF_INET6:
            port, flow, packed = _IN6.unpack_from(data, _FAMILY.size)
            (scope,) = _SCOPE.unpack_from(data, _FAMILY.size + _IN6.size)
            return socket.inet_ntop(family, packed), port, flow, scope
    except StructError:
        raise ValueError(f"{len(data)} bytes are no struct sockaddr") from None
    raise ValueError(f"address family {family} is neither IPv4 nor IPv6")
