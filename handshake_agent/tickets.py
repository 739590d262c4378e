"""Session tickets in the agent: the keys of a server's, the memory against replayed 0-RTT, and a client's collecting.

GnuTLS seals tickets and rotates the keys that it derives from ours; nothing here sees inside a ticket. A server's key
is derived from everything that a ticket must not outlive: certificate, transport parameters, protocols. When one of
them changes, old tickets are as good as none, and the handshake is a full one.
"""

from __future__ import annotations

import contextlib
import hmac
import os
import time
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Final

from quicfs.handshake_agent.config import ConfigError
from quicfs.handshake_agent.gnutls import TICKET_KEY_LENGTH, AntiReplay

REPLAY_WINDOW_S: Final = 3600
MAX_CLIENT_HELLOS: Final = 16_384
"""ClientHellos with accepted 0-RTT that are remembered; when there are more, 0-RTT is refused for a while."""

_SECRET_LENGTH: Final = 64


class TicketKeys:
    """`file`: keep the secret there, so that tickets survive a restart and several agents take each other's.

    Tickets that allow 0-RTT never leave this process: what was used up is remembered here only. Raises ConfigError.
    """

    def __init__(self, file: Path | None = None) -> None:
        self._own = os.urandom(_SECRET_LENGTH)
        self._shared = self._own if file is None else _secret_of(file)

    def derive(self, *parts: bytes, early_data: bool) -> bytes:
        """The key of the tickets for one configuration, which `parts` name."""
        secret = self._own if early_data else self._shared
        context = b"".join(len(part).to_bytes(4, "big") + part for part in (bytes((early_data,)), *parts))
        return hmac.digest(secret, context, "sha512")[:TICKET_KEY_LENGTH]


def _secret_of(file: Path) -> bytes:
    """Read it, or make it; the first of several agents wins."""
    try:
        with contextlib.suppress(FileExistsError):
            _create(file)
        status = os.stat(file)
        if status.st_mode & 0o077:
            raise ConfigError(f"agent.ticket_key {file} can be read by others: run chmod 600 {file}")
        secret = file.read_bytes()
    except OSError as error:
        raise ConfigError(f"cannot use agent.ticket_key {file}: {error.strerror}") from None
    if len(secret) != _SECRET_LENGTH:
        raise ConfigError(f"agent.ticket_key {file} is no key: remove it, and the agent makes another")
    return secret


def _create(file: Path) -> None:
    """Complete or not at all. FileExistsError if it is there."""
    if file.exists():
        return
    draft = file.with_name(f"{file.name}.{os.getpid()}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as out:
            out.write(os.urandom(_SECRET_LENGTH))
        os.link(draft, file)
    finally:
        draft.unlink()


class ReplayMemory:
    """The ClientHellos of a window, at most `limit`."""

    def __init__(
        self,
        window_s: float = REPLAY_WINDOW_S,
        limit: int = MAX_CLIENT_HELLOS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._window_s = window_s
        self._limit = limit
        self._clock = clock
        self._seen: OrderedDict[bytes, float] = OrderedDict()  # with the time of being forgotten

    def is_new(self, key: bytes) -> bool:
        """Remember `key`; False if it was here before, or if there is no room."""
        now = self._clock()
        while self._seen:
            oldest = next(iter(self._seen))
            if self._seen[oldest] > now:
                break
            del self._seen[oldest]
        if key in self._seen or len(self._seen) >= self._limit:
            return False
        # GnuTLS counts whole seconds of another clock: twice the window is surely enough.
        self._seen[key] = now + 2 * self._window_s
        return True


def anti_replay() -> AntiReplay:
    """For all server handshakes of a process."""
    return AntiReplay(ReplayMemory().is_new, REPLAY_WINDOW_S)


# --- NewSessionTicket (RFC 8446 §4.6.1), as far as GnuTLS does not tell

NEW_SESSION_TICKET: Final = 4
MAX_MESSAGE: Final = 8192
_EARLY_DATA: Final = 42


def split_messages(buffer: bytearray) -> list[bytes]:
    """Take the whole TLS messages out of `buffer`. ValueError for one that is longer than MAX_MESSAGE."""
    messages: list[bytes] = []
    while len(buffer) >= 4:
        length = 4 + int.from_bytes(buffer[1:4], "big")
        if length > MAX_MESSAGE:
            raise ValueError(f"TLS message of {length} bytes after the handshake")
        if len(buffer) < length:
            break
        messages.append(bytes(buffer[:length]))
        del buffer[:length]
    return messages


def early_data_of(message: bytes) -> int:
    """max_early_data_size of a whole NewSessionTicket message, 0 if 0-RTT is not allowed. ValueError if malformed."""
    pos = 4 + 4 + 4  # header, lifetime, age_add
    try:
        pos += 1 + message[pos]  # nonce
        pos += 2 + int.from_bytes(message[pos : pos + 2], "big")  # ticket
        end = pos + 2 + int.from_bytes(message[pos : pos + 2], "big")
        pos += 2
        while pos < end:
            number = int.from_bytes(message[pos : pos + 2], "big")
            length = int.from_bytes(message[pos + 2 : pos + 4], "big")
            pos += 4 + length
            if pos > len(message):
                break
            if number == _EARLY_DATA:
                return int.from_bytes(message[pos - length : pos], "big")
    except IndexError:
        pos = -1
    if pos != len(message):
        raise ValueError("malformed NewSessionTicket")
    return 0
