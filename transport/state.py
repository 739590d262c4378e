"""The states of a connection, and which may follow which."""

from __future__ import annotations

import enum
from typing import Final


class State(enum.Enum):
    """RFC 9000 §10 and §4.1 of RFC 9001.

    HANDSHAKE -> CONNECTED -> CLOSING -> CLOSED
        |            |                     ^
        +------------+-----> DRAINING -----+
    """

    HANDSHAKE = enum.auto()
    CONNECTED = enum.auto()  # TLS is complete on this side
    CLOSING = enum.auto()
    DRAINING = enum.auto()
    CLOSED = enum.auto()


OPEN: Final = frozenset({State.HANDSHAKE, State.CONNECTED})

TRANSITIONS: Final = {
    State.HANDSHAKE: {State.CONNECTED, State.CLOSING, State.DRAINING, State.CLOSED},
    State.CONNECTED: {State.CLOSING, State.DRAINING, State.CLOSED},
    State.CLOSING: {State.DRAINING, State.CLOSED},
    State.DRAINING: {State.CLOSED},
    State.CLOSED: set(),
}
