"""Credits and the message ids that they pay for ([MS-SMB2] §3.3.1.1, §3.3.1.2, §3.3.5.2.3)."""

from __future__ import annotations

from quicfs.smb.errors import SmbProtocolError
from quicfs.smb.limits import MAX_CREDITS

__all__ = ["MessageWindow"]


class MessageWindow:
    """Which message ids the client may use. Ids below `_low` and those in `_used` are gone."""

    __slots__ = ("_high", "_low", "_used")

    def __init__(self) -> None:
        self._low = 0
        self._high = 1  # one credit to begin with
        self._used: set[int] = set()

    @property
    def available(self) -> int:
        """Credits that the client has at its disposal."""
        return self._high - self._low - len(self._used)

    def consume(self, message_id: int, charge: int) -> None:
        """Take `charge` ids from `message_id` on. A client that uses others has lost the connection."""
        end = message_id + charge
        if message_id < self._low or end > self._high:
            raise SmbProtocolError(f"message id {message_id} (charge {charge}) is outside the window")
        used = self._used
        if message_id == self._low and not used:
            self._low = end
            return
        if not used.isdisjoint(range(message_id, end)):
            raise SmbProtocolError(f"message id {message_id} is used twice")
        used.update(range(message_id, end))
        while self._low in used:
            used.remove(self._low)
            self._low += 1

    def grant(self, wanted: int) -> int:
        """How many credits to give with a response; the client always keeps at least one."""
        # A client that leaves an id unused for good must not make `_used` grow for good.
        room = min(MAX_CREDITS - self.available, 2 * MAX_CREDITS - (self._high - self._low))
        granted = max(0, min(max(wanted, 1), room))
        self._high += granted
        return granted
