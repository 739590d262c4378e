"""What can go wrong, in three kinds: misuse by the caller, violation by the peer, and closed."""

from __future__ import annotations

from enum import IntEnum


class TransportErrorCode(IntEnum):
    """RFC 9000 §20.1; CRYPTO_ERROR is the base to which the TLS alert is added."""

    NO_ERROR = 0x00
    INTERNAL_ERROR = 0x01
    CONNECTION_REFUSED = 0x02
    FLOW_CONTROL_ERROR = 0x03
    STREAM_LIMIT_ERROR = 0x04
    STREAM_STATE_ERROR = 0x05
    FINAL_SIZE_ERROR = 0x06
    FRAME_ENCODING_ERROR = 0x07
    TRANSPORT_PARAMETER_ERROR = 0x08
    CONNECTION_ID_LIMIT_ERROR = 0x09
    PROTOCOL_VIOLATION = 0x0A
    INVALID_TOKEN = 0x0B
    APPLICATION_ERROR = 0x0C
    CRYPTO_BUFFER_EXCEEDED = 0x0D
    KEY_UPDATE_ERROR = 0x0E
    AEAD_LIMIT_REACHED = 0x0F
    NO_VIABLE_PATH = 0x10
    VERSION_NEGOTIATION_ERROR = 0x11  # RFC 9368 §5
    CRYPTO_ERROR = 0x0100


class ProtocolViolation(Exception):
    """The peer broke a rule. On an authenticated packet the connection closes with `code`, on anything
    unauthenticated (a header, a token) the datagram is dropped.

    `frame_type` is 0 when no particular frame is to blame (RFC 9000 §19.19).
    """

    def __init__(self, code: int, reason: str, frame_type: int = 0) -> None:
        super().__init__(reason)
        self.code = code
        self.reason = reason
        self.frame_type = frame_type

    def __str__(self) -> str:
        return f"{error_name(self.code)}: {self.reason}"


class MisuseError(Exception):
    """The caller asked for what its side of the protocol does not allow now."""


class ClosedError(ConnectionError):
    """The connection is over.

    `code` is a transport code unless `is_application`; `remote` tells who closed; `frame_type` is that of the frame
    to blame, 0 if none is.
    """

    def __init__(
        self, code: int, is_application: bool, reason: str, remote: bool, frame_type: int = 0
    ) -> None:
        super().__init__(reason)
        self.code = code
        self.is_application = is_application
        self.reason = reason
        self.remote = remote
        self.frame_type = frame_type

    def __str__(self) -> str:
        who = "the peer" if self.remote else "this end"
        what = f"application error {self.code:#x}" if self.is_application else error_name(self.code)
        return f"connection closed by {who}: {what}" + (f": {self.reason}" if self.reason else "")


def error_name(code: int) -> str:
    """The RFC's name of a transport error code, `CRYPTO_ERROR(42)` for a TLS alert, hex if unknown."""
    if TransportErrorCode.CRYPTO_ERROR <= code <= TransportErrorCode.CRYPTO_ERROR + 0xFF:
        return f"CRYPTO_ERROR({code - TransportErrorCode.CRYPTO_ERROR})"
    try:
        return TransportErrorCode(code).name
    except ValueError:
        return f"error {code:#x}"
