"""What the mount remembers: attributes by path, names that are not there, whole directories.

Everything has a short life and a bound. An answer of the server may be older than a change that we made
while it was on its way; so each look-up takes a ticket first, and what comes back is remembered only if
nothing touched that path since. Called from many threads; single dictionary operations are atomic, and
what can be lost in a race is a remembered value, never a change.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Sequence
from itertools import islice
from typing import Any, Final

from quicfs.vfs import Attr, DirEntry, Node

_SLOTS: Final = 4096
"""Changes are noted per hash of a path; a collision costs a forgotten look-up."""


def drop_oldest(entries: dict[Any, Any], count: int) -> None:
    """Many at once: finding the first key of a dictionary costs a step for each one deleted before it."""
    try:
        oldest = list(islice(entries, count))
    except RuntimeError:
        return  # another thread adds or removes; the next call does it
    for key in oldest:
        entries.pop(key, None)


class Entry:
    """What is known of one path; `attr` is None when nothing is there."""

    __slots__ = ("attr", "expires", "node", "packed", "stale")

    def __init__(self, attr: Attr | None, node: Node | None, expires: float) -> None:
        self.attr = attr
        self.node = node  # None when it came with a directory
        self.expires = expires
        self.packed: bytes | None = None  # `struct stat`, made when first asked for
        self.stale = False  # the attributes are not what they were, but it is the same object


class Listing:
    """All entries of one directory; None once names of ours were added, and then it only tells what is not there."""

    __slots__ = ("_folded", "_lock", "count", "entries", "expires")

    def __init__(self, entries: Sequence[DirEntry], expires: float) -> None:
        self.entries: Sequence[DirEntry] | None = entries
        self.expires = expires
        self.count = len(entries)
        self._folded: set[str] | None = None
        self._lock = threading.Lock()  # two threads that make the set must not lose what is added to it

    def excludes(self, name: str) -> bool:
        """Whether nothing can be found under `name`, also where the server ignores case or has short names."""
        if "~" in name:
            return False
        with self._lock:
            return name.casefold() not in self._names()

    def add(self, name: str) -> None:
        """We gave something this name."""
        with self._lock:
            self._names().add(name.casefold())
            self.entries = None

    def _names(self) -> set[str]:
        if self._folded is None:
            self._folded = {entry.name.casefold() for entry in self.entries or ()}
        return self._folded


class Cache:
    """Paths are bytes and begin with "/", as libfuse gives them."""

    def __init__(
        self, *, attr_timeout: float, negative_timeout: float, max_attrs: int, max_listing: int
    ) -> None:
        self._attr_timeout = attr_timeout
        self._negative_timeout = negative_timeout
        self._max_attrs = max_attrs
        self._max_listing = max_listing
        self._entries: dict[bytes, Entry] = {}
        self._listings: dict[bytes, Listing] = {}
        self._listed = 0
        self._clock = 0
        self._floor = 0
        self._touched = [0] * _SLOTS

    def ticket(self) -> int:
        """Take one before asking the server."""
        return self._clock

    def get(self, path: bytes) -> Entry | None:
        entry = self._entries.get(path)
        if entry is not None and entry.expires < time.monotonic():
            self._entries.pop(path, None)
            return None
        return None if entry is not None and entry.stale else entry

    def node(self, path: bytes) -> Node | None:
        """What object is there, also when its attributes are not known any more."""
        entry = self._entries.get(path)
        return None if entry is None or entry.expires < time.monotonic() else entry.node

    def put(self, path: bytes, attr: Attr | None, node: Node | None, ticket: int) -> Entry:
        """Remember an answer, if nothing touched `path` since `ticket`. `attr` None: nothing is there."""
        life = self._negative_timeout if attr is None else self._attr_timeout
        entry = Entry(attr, node, time.monotonic() + life)
        if life > 0 and self._touched[hash(path) % _SLOTS] <= ticket and self._floor <= ticket:
            entries = self._entries
            entries.pop(path, None)  # the newest stand last
            entries[path] = entry
            if len(entries) > self._max_attrs:
                drop_oldest(entries, self._max_attrs // 8 + 1)
        return entry

    def put_listed(self, directory: bytes, entries: Sequence[DirEntry], ticket: int) -> None:
        """Attributes that came with a directory. A known node of the same object is kept."""
        prefix = directory if directory.endswith(b"/") else directory + b"/"
        for entry in entries:
            path = prefix + entry.name.encode("utf-8", "surrogateescape")
            old = self._entries.get(path)
            same = old is not None and old.attr is not None and old.attr.fileid == entry.attr.fileid
            node = old.node if old is not None and same else None
            self.put(path, entry.attr, entry.node or node, ticket)

    def touch(self, path: bytes) -> None:
        """`path` changes, or did: forget it, and what is on its way about it."""
        self._clock = clock = self._clock + 1
        self._touched[hash(path) % _SLOTS] = clock
        self._entries.pop(path, None)

    def touch_content(self, path: bytes) -> None:
        """The object at `path` was written to, or names in it: it has other attributes now, and is still the same."""
        entry = self._entries.get(path)
        if entry is not None and entry.attr is not None:
            entry.stale = True
        self._clock = clock = self._clock + 1
        self._touched[hash(path) % _SLOTS] = clock

    def touch_object(self, fileid: int, but: bytes) -> None:
        """The object changed, and has other names than `but`."""
        others = [p for p, e in list(self._entries.items()) if e.attr is not None and e.attr.fileid == fileid]
        for path in others:
            if path != but:
                self.touch(path)

    def touch_names(self, directory: bytes, name: bytes | None = None) -> None:
        """A name in `directory` comes or goes: its listing and its own times change.

        `name`: the only one that can have come; what else is not there is still known then."""
        self.touch_content(directory)
        listing = self._listings.get(directory)
        if listing is None:
            return
        if name is not None and listing.count < self._max_listing:
            listing.add(os.fsdecode(name))
            listing.count += 1
            self._listed += 1
        elif self._listings.pop(directory, None) is not None:
            self._listed -= listing.count

    def touch_all(self) -> None:
        """Paths are not what they were: a directory was renamed, the server came back."""
        self._clock = self._floor = self._clock + 1
        self._entries.clear()
        self._listings.clear()
        self._listed = 0

    def listing(self, directory: bytes) -> Listing | None:
        listing = self._listings.get(directory)
        if listing is not None and listing.expires < time.monotonic():
            if self._listings.pop(directory, None) is not None:
                self._listed -= listing.count
            return None
        return listing

    def put_listing(self, directory: bytes, entries: Sequence[DirEntry], ticket: int, read_at: float) -> None:
        """A whole directory, whose first page was asked for at `read_at` (monotonic clock)."""
        fresh = self._touched[hash(directory) % _SLOTS] <= ticket and self._floor <= ticket
        expires = read_at + self._attr_timeout
        if not fresh or expires <= time.monotonic() or len(entries) > self._max_listing:
            return
        old = self._listings.pop(directory, None)
        if old is not None:
            self._listed -= old.count
        self._listings[directory] = Listing(entries, expires)
        self._listed += len(entries)
        while self._listed > self._max_listing and self._listings:
            try:
                oldest = self._listings.pop(next(iter(self._listings)))
            except (KeyError, RuntimeError, StopIteration):
                break
            self._listed -= oldest.count
