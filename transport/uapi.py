"""Constants and structures of the QUIC socket interface and of net/handshake.

The numbers are those of Linux, net/quic and draft-lxin-quic-socket-apis, so that the same values work on a
kernel's socket. Structures are in native byte order with natural alignment; each has `pack()` and
`unpack()`, and both raise ValueError (wrong size, value out of range). Reserved bytes are written as zero and
ignored when read.
"""

from __future__ import annotations

import enum
import struct
from dataclasses import dataclass, field
from typing import ClassVar, Final, Self

IPPROTO_QUIC: Final = 261
SOL_QUIC: Final = 288

QUIC_VERSION_1: Final = 0x00000001  # RFC 9000
QUIC_VERSION_2: Final = 0x6B3343CF  # RFC 9369

ALPN_MAX_LEN: Final = 128  # of the comma separated list in the ALPN option
SECRET_MAX_LEN: Final = 48  # SHA-384
PHRASE_MAX_LEN: Final = 64

CRYPTO_ERROR: Final = 0x0100
"""First of the 256 transport error codes that stand for TLS alerts (RFC 9000 §20.1)."""


class SockOpt(enum.IntEnum):
    """Option names at level SOL_QUIC."""

    EVENT = 0
    STREAM_OPEN = 1
    STREAM_RESET = 2
    STREAM_STOP_SENDING = 3
    CONNECTION_ID = 4
    CONNECTION_CLOSE = 5
    CONNECTION_MIGRATION = 6
    KEY_UPDATE = 7
    TRANSPORT_PARAM = 8
    CONFIG = 9
    TOKEN = 10
    ALPN = 11
    SESSION_TICKET = 12
    CRYPTO_SECRET = 13
    TRANSPORT_PARAM_EXT = 14
    CHANNEL_BINDING = 64  # not of Linux: tls-exporter (RFC 9266), by whoever did the handshake
    PEER_CERTIFICATE = 65  # not of Linux: the peer's certificate (DER) that TLS has verified


class CmsgType(enum.IntEnum):
    """Control messages of sendmsg and recvmsg at level SOL_QUIC."""

    STREAM_INFO = 0
    HANDSHAKE_INFO = 1


class StreamFlags(enum.IntFlag):
    """`StreamInfo.flags`; the values are those of MSG_* flags that mean nothing on a stream."""

    FIN = 0x200  # MSG_FIN: the last bytes of the stream
    NEW = 0x400  # MSG_SYN: open the stream
    UNI = 0x800  # MSG_CONFIRM: with NEW, unidirectional
    SNDBLOCK = 0x2000  # MSG_ERRQUEUE: say so with STREAMS_BLOCKED when the limit is reached
    DONTWAIT = 0x10000  # MSG_WAITFORONE: EAGAIN instead of waiting for a stream


class MsgFlags(enum.IntFlag):
    """Flags of sendmsg and recvmsg beside the ordinary MSG_* ones."""

    DATAGRAM = 0x1000  # MSG_RST: RFC 9221
    NOTIFICATION = 0x8000  # MSG_MORE: the message is an event


class CryptoLevel(enum.IntEnum):
    """Encryption levels, in the numbering of the socket interface."""

    APP = 0
    INITIAL = 1
    HANDSHAKE = 2
    EARLY = 3


class CongestionAlgo(enum.IntEnum):
    RENO = 0
    CUBIC = 1


class TlsCipher(enum.IntEnum):
    """TLS_CIPHER_* of kTLS (linux/tls.h)."""

    AES_GCM_128 = 51
    AES_GCM_256 = 52
    CHACHA20_POLY1305 = 54


SECRET_LEN: Final[dict[int, int]] = {
    TlsCipher.AES_GCM_128: 32,  # TLS_AES_128_GCM_SHA256
    TlsCipher.AES_GCM_256: 48,  # TLS_AES_256_GCM_SHA384
    TlsCipher.CHACHA20_POLY1305: 32,  # TLS_CHACHA20_POLY1305_SHA256
}
"""Bytes of a traffic secret: the output of the hash of the suite (RFC 8446 §B.4)."""


class CertificateRequest(enum.IntEnum):
    """`Config.certificate_request` of a server: whether clients are asked for a certificate."""

    NO = 0
    REQUEST = 1
    REQUIRE = 2


class Event(enum.IntEnum):
    NONE = 0
    STREAM_UPDATE = 1
    STREAM_MAX_DATA = 2
    STREAM_MAX_STREAM = 3
    CONNECTION_ID = 4
    CONNECTION_CLOSE = 5
    CONNECTION_MIGRATION = 6
    KEY_UPDATE = 7
    NEW_TOKEN = 8
    NEW_SESSION_TICKET = 9


class StreamState(enum.IntEnum):
    """`StreamUpdate.state`: the sending part's states (RFC 9000 §3.1), then the receiving part's (§3.2)."""

    SEND_READY = 0
    SEND_SEND = 1
    SEND_SENT = 2
    SEND_RECVD = 3
    SEND_RESET_SENT = 4
    SEND_RESET_RECVD = 5
    RECV_RECV = 6
    RECV_SIZE_KNOWN = 7
    RECV_RECVD = 8
    RECV_READ = 9
    RECV_RESET_RECVD = 10
    RECV_RESET_READ = 11


class HandshakeCmd(enum.IntEnum):
    """Commands of the generic netlink family `handshake`."""

    READY = 1
    ACCEPT = 2
    DONE = 3


class HandlerClass(enum.IntEnum):
    NONE = 0
    TLSHD = 1


class MessageType(enum.IntEnum):
    """Which side of the TLS handshake is asked for."""

    CLIENTHELLO = 1
    SERVERHELLO = 2


class AuthMode(enum.IntEnum):
    UNAUTH = 1
    PSK = 2
    X509 = 3


class UapiStruct:
    """Base of the structures: the fields in order are the fields of `LAYOUT`."""

    __slots__ = ()
    __match_args__: tuple[str, ...] = ()
    LAYOUT: ClassVar[struct.Struct]

    def pack(self) -> bytes:
        try:
            return self.LAYOUT.pack(*[getattr(self, name) for name in self.__match_args__])
        except struct.error as error:
            raise ValueError(f"{type(self).__name__}: {error}") from None

    @classmethod
    def unpack(cls, data: bytes | bytearray | memoryview) -> Self:
        try:
            return cls(*cls.LAYOUT.unpack(data))
        except struct.error:
            raise ValueError(f"{cls.__name__}: {len(data)} bytes, {cls.LAYOUT.size} are expected") from None


@dataclass(frozen=True, slots=True)
class StreamInfo(UapiStruct):
    """Control message STREAM_INFO. `stream_id` -1: the stream that was used last, or a new one."""

    LAYOUT: ClassVar[struct.Struct] = struct.Struct("@qI0q")
    stream_id: int
    flags: int = 0


@dataclass(frozen=True, slots=True)
class HandshakeInfo(UapiStruct):
    """Control message HANDSHAKE_INFO."""

    LAYOUT: ClassVar[struct.Struct] = struct.Struct("@B")
    crypto_level: int


@dataclass(frozen=True, slots=True)
class TransportParam(UapiStruct):
    """Transport parameters (RFC 9000 §18.2). Sizes in bytes, times in units of the socket interface:
    `max_idle_timeout` and `max_ack_delay` in microseconds."""

    LAYOUT: ClassVar[struct.Struct] = struct.Struct("@8B2H2I2H4Q")
    remote: int = 0  # 1: the peer's
    disable_active_migration: int = 0
    grease_quic_bit: int = 0
    stateless_reset: int = 0
    disable_1rtt_encryption: int = 0
    disable_compatible_version: int = 0
    active_connection_id_limit: int = 0
    ack_delay_exponent: int = 0
    max_datagram_frame_size: int = 0
    max_udp_payload_size: int = 0
    max_idle_timeout: int = 0
    max_ack_delay: int = 0
    max_streams_bidi: int = 0
    max_streams_uni: int = 0
    max_data: int = 0
    max_stream_data_bidi_local: int = 0
    max_stream_data_bidi_remote: int = 0
    max_stream_data_uni: int = 0


@dataclass(frozen=True, slots=True)
class Config(UapiStruct):
    """Option CONFIG. Times in microseconds; 0 leaves the default."""

    LAYOUT: ClassVar[struct.Struct] = struct.Struct("@4I7BxI")
    version: int = 0
    plpmtud_probe_interval: int = 0
    initial_smoothed_rtt: int = 0
    payload_cipher_type: int = 0  # TlsCipher; 0: whatever both ends like
    congestion_control_algo: int = 0  # CongestionAlgo
    validate_peer_address: int = 0  # server: Retry
    stream_data_nodelay: int = 0
    receive_session_ticket: int = 0  # client: seconds after the handshake in which a ticket is taken
    certificate_request: int = 0  # CertificateRequest
    early_data: int = 0  # offer or accept 0-RTT; one of the reserved bytes of Linux
    no_session_ticket: int = 0  # server: issue none; another of them
    keepalive_probe_interval: int = 0


@dataclass(frozen=True, slots=True)
class CryptoSecret(UapiStruct):
    """Option CRYPTO_SECRET: one direction's secret of one level."""

    LAYOUT: ClassVar[struct.Struct] = struct.Struct("@BB2xI48s")
    send: int  # 1: what we send with, 0: what we receive with
    level: int  # CryptoLevel
    type: int  # TlsCipher
    secret: bytes = field(repr=False)  # padded with zeros

    @property
    def material(self) -> bytes:
        """The secret without padding. ValueError for a cipher that is not known."""
        try:
            return self.secret[: SECRET_LEN[self.type]]
        except KeyError:
            raise ValueError(f"cipher type {self.type} is not known") from None


@dataclass(frozen=True, slots=True)
class ErrInfo(UapiStruct):
    """Options STREAM_RESET and STREAM_STOP_SENDING."""

    LAYOUT: ClassVar[struct.Struct] = struct.Struct("@qI0q")
    stream_id: int
    errcode: int


@dataclass(frozen=True, slots=True)
class ConnectionIdInfo(UapiStruct):
    LAYOUT: ClassVar[struct.Struct] = struct.Struct("@B3xII")
    dest: int
    active: int
    prior_to: int


@dataclass(frozen=True, slots=True)
class EventOption(UapiStruct):
    """Option EVENT: switch one kind of notification on or off."""

    LAYOUT: ClassVar[struct.Struct] = struct.Struct("@BB")
    type: int  # Event
    on: int


@dataclass(frozen=True, slots=True)
class ConnectionClose(UapiStruct):
    """Option and event CONNECTION_CLOSE. `phrase` holds at most 64 bytes, without the padding.

    Set by an agent before it reports a failure: `errcode` is CRYPTO_ERROR + alert, `phrase` the reason.
    """

    LAYOUT: ClassVar[struct.Struct] = struct.Struct("@IB3x64s")
    errcode: int
    frame: int = 0  # the frame type that caused it; 0: none, or an application's close
    phrase: bytes = b""

    def __post_init__(self) -> None:
        phrase = self.phrase.split(b"\0", 1)[0]
        if len(phrase) > PHRASE_MAX_LEN:
            raise ValueError(f"phrase of {len(phrase)} bytes, at most {PHRASE_MAX_LEN} fit")
        object.__setattr__(self, "phrase", phrase)


@dataclass(frozen=True, slots=True)
class StreamUpdate(UapiStruct):
    """Event STREAM_UPDATE."""

    LAYOUT: ClassVar[struct.Struct] = struct.Struct("@qB3xIQ")
    id: int
    state: int  # StreamState
    errcode: int = 0
    finalsz: int = 0


@dataclass(frozen=True, slots=True)
class StreamMaxData(UapiStruct):
    """Event STREAM_MAX_DATA: more may be sent on a stream."""

    LAYOUT: ClassVar[struct.Struct] = struct.Struct("@qQ")
    id: int
    max_data: int
