"""UDP in bursts: one system call for a train of datagrams, with UDP_SEGMENT and UDP_GRO, or one for each
datagram where the kernel lacks them."""

from __future__ import annotations

import errno
import logging
import socket
import struct
from typing import Final, NamedTuple

from quicfs.transport import limits
from quicfs.transport.builder import Transmit
from quicfs.transport.path import Address

_log = logging.getLogger("quicfs.transport")

_SOL_UDP: Final = 17
_UDP_SEGMENT: Final = 103
_UDP_GRO: Final = 104
_IP_PKTINFO: Final = 8
_IP_MTU_DISCOVER: Final = 10
_IP_MTU: Final = 14
_IPV6_MTU_DISCOVER: Final = 23
_IPV6_MTU: Final = 24
_IPV6_RECVPKTINFO: Final = 49
_IPV6_PKTINFO: Final = 50
_IPV6_RECVTCLASS: Final = 66
_PMTUDISC_PROBE: Final = 3  # set DF, ignore what the kernel thinks the path MTU is
_SO_SNDBUFFORCE: Final = 32
_SO_RCVBUFFORCE: Final = 33

_ANCILLARY: Final = 256
_INT: Final = struct.Struct("@i")
_U16: Final = struct.Struct("@H")
_IN_PKTINFO: Final = struct.Struct("@i4s4s")
_LINK_LOCAL: Final = b"\xfe\x80"
_HEADERS_V4: Final = 28
_HEADERS_V6: Final = 48

# The interface or the address that a socket was bound or connected with has gone, or no route is left.
_NO_ROUTE: Final = {
    errno.ENETUNREACH,
    errno.EHOSTUNREACH,
    errno.ENETDOWN,
    errno.EADDRNOTAVAIL,
    errno.ENODEV,
    errno.EINVAL,  # of a connected socket whose address was taken away
}

# Errors that concern one datagram or one moment; QUIC repairs what is lost.
_PASSING: Final = {
    errno.EMSGSIZE,
    errno.ENOBUFS,
    errno.EPERM,
    errno.EACCES,
    errno.ENETUNREACH,
    errno.EHOSTUNREACH,
    errno.ENETDOWN,
    errno.EADDRNOTAVAIL,
    errno.ECONNREFUSED,
}


class LocalAddress(NamedTuple):
    """One of our ends, as paths and `Transmit.local` have it."""

    socket: int  # the `UdpSocket.number` of the socket
    pktinfo: tuple[int, int, bytes] | None = None  # of a wildcard socket: the address that was spoken to


class Received(NamedTuple):
    """A train: `length` bytes in datagrams of `segment_size` (the last may be shorter)."""

    length: int
    segment_size: int
    remote: Address
    local: LocalAddress  # for `Transmit.local`
    ecn: int


class UdpSocket:
    """A nonblocking UDP socket for trains. Raises OSError as sockets do, from the constructor only."""

    def __init__(
        self, family: int, local: Address | None, remote: Address | None = None, *, number: int = 0
    ) -> None:
        self.number = number
        self.here = LocalAddress(number)
        self.lost_route = False  # a datagram could not leave, and none will until something changes
        self.sock = socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
        self._connected = remote is not None
        try:
            self._set_up(family)
            if local is not None:
                self.sock.bind(local)
            if remote is not None:
                self.sock.connect(remote)
        except OSError:
            self.sock.close()
            raise
        wildcard = not self._connected and local is not None and local[0] in ("", "0.0.0.0", "::")
        if wildcard:
            self._want_pktinfo(family)

    def _set_up(self, family: int) -> None:
        sock = self.sock
        for force, plain in (
            (_SO_RCVBUFFORCE, socket.SO_RCVBUF),
            (_SO_SNDBUFFORCE, socket.SO_SNDBUF),
        ):
            try:
                sock.setsockopt(socket.SOL_SOCKET, force, limits.SOCKET_BUFFER)
            except PermissionError:
                sock.setsockopt(socket.SOL_SOCKET, plain, limits.SOCKET_BUFFER)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
            sock.setsockopt(socket.IPPROTO_IPV6, _IPV6_MTU_DISCOVER, _PMTUDISC_PROBE)
            sock.setsockopt(socket.IPPROTO_IPV6, _IPV6_RECVTCLASS, 1)
        # On a dual-stack socket these are for the IPv4-mapped peers.
        sock.setsockopt(socket.IPPROTO_IP, _IP_MTU_DISCOVER, _PMTUDISC_PROBE)
        sock.setsockopt(socket.IPPROTO_IP, socket.IP_RECVTOS, 1)
        self.gro = self._try(_UDP_GRO, 1)
        self.gso = self._try(_UDP_SEGMENT, 0)

    def _try(self, option: int, value: int) -> bool:
        try:
            self.sock.setsockopt(_SOL_UDP, option, value)
        except OSError:
            return False
        return True

    def _want_pktinfo(self, family: int) -> None:
        """Replies must come from the address that was spoken to."""
        if family == socket.AF_INET6:
            self.sock.setsockopt(socket.IPPROTO_IPV6, _IPV6_RECVPKTINFO, 1)
        else:
            self.sock.setsockopt(socket.IPPROTO_IP, _IP_PKTINFO, 1)

    def takes(self, family: int) -> bool:
        """Whether peers of `family` reach this socket: an IPv6 one of ours takes IPv4 as well."""
        return self.sock.family in (family, socket.AF_INET6)

    def fileno(self) -> int:
        return self.sock.fileno()

    def close(self) -> None:
        self.sock.close()

    def receive(self, buffer: memoryview) -> Received | None:
        """The next train, into `buffer`; None if there is none now.

        Raises ConnectionRefusedError when a connected socket's peer port is closed (ICMP said so).
        """
        try:
            length, ancillary, _, remote = self.sock.recvmsg_into((buffer,), _ANCILLARY)
        except (BlockingIOError, InterruptedError):
            return None
        segment_size = length
        ecn = 0
        local = self.here
        for level, kind, data in ancillary:
            if level == _SOL_UDP:
                if kind == _UDP_GRO:
                    segment_size = _INT.unpack_from(data)[0]
            elif level == socket.IPPROTO_IP:
                if kind == socket.IP_TOS:
                    ecn = data[0] & 3
                elif kind == _IP_PKTINFO:
                    _, specific, _ = _IN_PKTINFO.unpack_from(data)
                    local = LocalAddress(
                        self.number, (socket.IPPROTO_IP, _IP_PKTINFO, _IN_PKTINFO.pack(0, specific, bytes(4)))
                    )
            elif level == socket.IPPROTO_IPV6:
                if kind == socket.IPV6_TCLASS:
                    ecn = data[0] & 3
                elif kind == _IPV6_PKTINFO:
                    # The interface matters for link-local addresses; elsewhere the routing table chooses it.
                    info = data if data[:2] == _LINK_LOCAL else data[:16] + bytes(4)
                    local = LocalAddress(self.number, (socket.IPPROTO_IPV6, _IPV6_PKTINFO, info))
        return Received(length, segment_size or length or 1, remote, local, ecn)

    def send(self, transmit: Transmit) -> bool:
        """Send a train; False if the socket's buffer is full (send the same again later)."""
        data, segment_size, remote, local, ecn = transmit
        ancillary: list[tuple[int, int, bytes]] = []
        if ecn:
            if self.sock.family == socket.AF_INET or remote[0].startswith("::ffff:"):
                ancillary.append((socket.IPPROTO_IP, socket.IP_TOS, _INT.pack(ecn)))
            else:
                ancillary.append((socket.IPPROTO_IPV6, socket.IPV6_TCLASS, _INT.pack(ecn)))
        if local is not None and local.pktinfo is not None:
            ancillary.append(local.pktinfo)
        address = None if self._connected else remote
        if len(data) <= segment_size:
            return self._send(data, ancillary, address)
        if self.gso:
            try:
                self.sock.sendmsg(
                    (data,), [*ancillary, (_SOL_UDP, _UDP_SEGMENT, _U16.pack(segment_size))], 0, address
                )
                return True
            except (BlockingIOError, InterruptedError):
                return False
            except OSError as error:
                if error.errno not in (errno.EIO, errno.EINVAL, errno.EOPNOTSUPP) or self._vanished():
                    return self._passing(error)
                # No checksum offload on the way out, or no GSO after all.
                _log.info("UDP_SEGMENT does not work here (%s): sending datagrams one by one", error)
                self.gso = False
        for start in range(0, len(data), segment_size):
            # Datagrams that do not fit into the buffer any more are lost, as on any full queue.
            if not self._send(data[start : start + segment_size], ancillary, address) and start == 0:
                return False
        return True

    def _send(self, data: memoryview, ancillary: list[tuple[int, int, bytes]], address: Address) -> bool:
        try:
            self.sock.sendmsg((data,), ancillary, 0, address)
        except (BlockingIOError, InterruptedError):
            return False
        except OSError as error:
            return self._passing(error)
        return True

    def _passing(self, error: OSError) -> bool:
        if error.errno in _NO_ROUTE and (error.errno != errno.EINVAL or self._vanished()):
            self.lost_route = True
        elif error.errno not in _PASSING:
            raise error
        return True

    def _vanished(self) -> bool:
        """Whether the address of a connected socket does not exist here any more."""
        if not self._connected:
            return False
        host = self.sock.getsockname()[0]
        try:
            with socket.socket(self.sock.family, socket.SOCK_DGRAM) as probe:
                probe.bind((host, 0))
        except OSError as error:
            return error.errno == errno.EADDRNOTAVAIL
        return False


def source_towards(remote: Address) -> str:
    """Which of our addresses a new socket would speak to `remote` from. OSError if there is no way there."""
    with socket.socket(family_of(remote), socket.SOCK_DGRAM) as probe:
        probe.connect(remote)
        name: str = probe.getsockname()[0]
        return name


def family_of(address: Address) -> int:
    return socket.AF_INET6 if ":" in address[0] else socket.AF_INET


def max_payload_towards(remote: Address) -> int:
    """The largest UDP payload that the interface towards `remote` takes."""
    family = family_of(remote)
    mapped = family == socket.AF_INET6 and str(remote[0]).startswith("::ffff:")
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.connect(remote)
            if family == socket.AF_INET or mapped:
                mtu = probe.getsockopt(socket.IPPROTO_IP, _IP_MTU)
                return min(mtu - _HEADERS_V4, 65_507)
            return min(probe.getsockopt(socket.IPPROTO_IPV6, _IPV6_MTU) - _HEADERS_V6, limits.MAX_UDP_PAYLOAD)
    except OSError:
        return 1_452  # an Ethernet with IPv6 headers: probing finds out
