"""The paths of a connection: those that packets came on or may be sent on, a bounded number (RFC 9000 §9)."""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterator

from quicfs.transport import limits
from quicfs.transport.path import Address, Path


class News(enum.IntEnum):
    """What a train said about the path that it came on, if that is not the active one (RFC 9000 §9.1)."""

    NONE = 0  # nothing in it was both authentic and new
    PROBING = 1
    NON_PROBING = 2  # in the packet with the highest number so far: the peer has moved there


class Paths:
    """`on_remote(remote, known)` is told which addresses of the peer are in use, whenever that changes."""

    __slots__ = ("_known", "_on_remote", "arrival", "migrations", "news", "pending")

    def __init__(self, first: Path, on_remote: Callable[[Address, bool], None]) -> None:
        self._on_remote = on_remote
        self._known = [first]
        self.arrival = first  # the path of the train that is being processed
        self.news = News.NONE
        self.migrations = 0  # changes of the active path
        self.pending = False  # challenges or responses may be due

    def __iter__(self) -> Iterator[Path]:
        return iter(tuple(self._known))

    def __len__(self) -> int:
        return len(self._known)

    def __contains__(self, path: Path) -> bool:
        return path in self._known

    def find(self, remote: Address, local: Address) -> Path | None:
        for path in self._known:
            if path.remote == remote and path.local == local:
                return path
        return None

    def add(self, path: Path) -> None:
        if all(path.remote != other.remote for other in self._known):
            self._on_remote(path.remote, True)
        self._known.append(path)

    def remove(self, path: Path) -> None:
        self._known.remove(path)
        if all(path.remote != other.remote for other in self._known):
            self._on_remote(path.remote, False)

    @property
    def remotes(self) -> set[Address]:
        return {path.remote for path in self._known}

    def crowded_out(self, active: Path) -> Path | None:
        """Which one has to go before another can be known: neither `active` nor the one to fall back to."""
        if len(self._known) < limits.MAX_PATHS:
            return None
        kept = (active, self.fallback(active))
        return next(path for path in self._known if path not in kept)

    def fallback(self, failed: Path) -> Path | None:
        """The path that was in use and valid last, but for `failed` (RFC 9000 §9.3.2)."""
        candidates = [
            path
            for path in self._known
            if path is not failed
            and path.validated
            and path.active_at is not None
            and path.peer_cid is not None
        ]
        return max(candidates, key=lambda path: path.active_at or 0.0, default=None)

    def timeout(self) -> float | None:
        """When something is due on any of them."""
        times = [path.challenge.timeout() for path in self._known if path.challenge is not None]
        times += [path.expires_at for path in self._known if path.expires_at is not None]
        return min(times, default=None)
