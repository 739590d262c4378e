"""What is remembered of objects: attributes, names, and whether they may still be believed (RFC 8881 §10).

attributes   believed for as long as a delegation lasts (and the lease, without which it is worth nothing),
             otherwise for `life` seconds
names        in a directory whose change attribute is still the one that they were seen under; negative ones too
data         while the change attribute is the one that they were read under (`data.py`); with no delegation, only while
             the attributes are believed, and every OPEN brings new ones: close-to-open

An answer may be older than a change that was made while it was on its way. So whoever asks takes a ticket (`clock`)
first, and the answer is remembered only if nothing has touched the object since.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Final

from quicfs.nfs import limits
from quicfs.nfs.client.attributes import ATTR, attr_of
from quicfs.nfs.client.nodes import NfsNode
from quicfs.nfs.client.transfer import SMALL_PIECE
from quicfs.nfs.v4.attributes import Attribute, Attributes
from quicfs.nfs.v4.const import FileType
from quicfs.nfs.v4.types import ChangeInfo
from quicfs.vfs.api import Attr
from quicfs.vfs.status import FsError, Status

if TYPE_CHECKING:
    from quicfs.nfs.client.behind import Behind
    from quicfs.nfs.client.data import DataCache
    from quicfs.nfs.client.delegations import Delegation

__all__ = ["MISSING", "Caches", "NodeCache"]

_SHARE: Final = 4  # files larger than this part of the memory for data are not kept: others would have to go
_SMALL: Final = SMALL_PIECE  # save what is read of them in small pieces

_ATTRIBUTES: Final = ATTR.bit_count()
_OWNERS: Final = 512  # characters

MISSING: Final = object()
"""A name of which nothing is known, as against None: nothing is there."""


class NodeCache:
    """Of one object. `change`: its change attribute as seen last; `checked`: when that was, in loop time."""

    __slots__ = (
        "attr",
        "behind",
        "change",
        "checked",
        "delegation",
        "kind",
        "names",
        "raw",
        "touched",
        "until",
    )

    def __init__(self) -> None:
        self.touched = 0  # on the clock of Caches
        self.raw: Attributes | None = None
        self.attr: Attr | None = None  # made of `raw` when somebody asks
        self.until = 0.0
        self.change: int | None = None
        self.checked = 0.0
        self.names: dict[str, NfsNode | None] = {}
        self.delegation: Delegation | None = None
        self.behind: Behind | None = None  # what the server does not know of it yet
        self.kind: int | None = None  # FileType: it never changes


class Caches:
    """Of all objects of one client. `life`: seconds that attributes and names are believed without a delegation."""

    def __init__(self, life: float, data: DataCache, *, clock: Callable[[], float] | None = None) -> None:
        self.life = life
        self.data = data
        self.leased: Callable[[], bool] = lambda: False  # whether delegations can be relied on now
        self.clock = 0  # counts what is done to objects; read it to take a ticket
        self._named: dict[NfsNode, NodeCache] = {}  # directories that have names, the oldest first
        self._names = 0
        self._time = clock  # the event loop's, once there is one

    def now(self) -> float:
        if self._time is None:
            self._time = asyncio.get_running_loop().time
        return self._time()

    @staticmethod
    def of(node: NfsNode) -> NodeCache:
        cache = node.cache
        if cache is None:
            cache = node.cache = NodeCache()
        return cache

    # Attributes

    def attr(self, node: NfsNode) -> Attr | None:
        """Those that may be believed."""
        attr = self.base(node)
        behind = node.cache.behind if node.cache is not None else None
        return attr if attr is None or behind is None else behind.seen(attr)

    def base(self, node: NfsNode) -> Attr | None:
        """The same, as the server knows them."""
        cache = node.cache
        if cache is None or cache.raw is None:
            return None
        if cache.until <= self.now() and (cache.delegation is None or not self.leased()):
            return None
        if cache.attr is None:
            cache.attr = attr_of(cache.raw)
        return cache.attr

    def learn(self, node: NfsNode, raw: Attributes) -> None:
        """The server's answer. The caller knows that it is no older than what is remembered."""
        cache = self.of(node)
        self._saw(node, cache, raw.get(Attribute.CHANGE))
        cache.raw, cache.attr = raw, None
        cache.kind = raw.get(Attribute.TYPE)
        owners = len(raw.get(Attribute.OWNER, "")) + len(raw.get(Attribute.OWNER_GROUP, ""))
        if len(raw) > _ATTRIBUTES or owners > _OWNERS:
            # More than was asked for, or long: only what is needed of it is kept.
            cache.attr = attr_of(raw)
            cache.raw = {name: raw[name] for name in (Attribute.CHANGE, Attribute.SIZE) if name in raw}
        cache.until = self.now() + self.life

    def learn_change(self, node: NfsNode, change: int | None) -> None:
        """The change attribute alone."""
        self._saw(node, self.of(node), change)

    def _saw(self, node: NfsNode, cache: NodeCache, change: int | None) -> None:
        cache.checked = self.now()
        if change is None or change == cache.change:
            return
        if cache.delegation is not None and cache.delegation.write:
            self.data.keep(node, change)  # nobody but us can have changed it
        else:
            self.data.expect(node, change)
        self._forget_names(node, cache)
        self.touch(node)  # what is on its way may be about the time before
        cache.change = change

    def touch(self, node: NfsNode) -> None:
        """It changes, or may have changed."""
        cache = self.of(node)
        self.clock += 1
        cache.touched = self.clock
        cache.raw = cache.attr = None

    def untouched(self, node: NfsNode, ticket: int) -> bool:
        cache = node.cache
        return cache is None or cache.touched <= ticket

    def expire(self, node: NfsNode) -> None:
        """Ask before it is believed again."""
        cache = node.cache
        if cache is not None:
            cache.until = cache.checked = 0.0

    def forget(self, node: NfsNode) -> None:
        """It is not what it was: no name leads to it any more, as far as we know."""
        place = node.place
        if place is not None and place[0].cache is not None:
            self._forget_names(place[0], place[0].cache)
        for directory, cache in list(self._named.items()):
            if node in cache.names.values():
                self._forget_names(directory, cache)

    def clear(self) -> None:
        """The server was away: nothing is believed without a look."""
        for node, cache in list(self._named.items()):
            cache.until = cache.checked = 0.0
            self._forget_names(node, cache)

    # Data

    def read(self, node: NfsNode, offset: int, length: int) -> memoryview | None:
        """What is here of the file's data and may be believed; None if that is not all of it."""
        cache = node.cache
        if cache is None or cache.change is None or self.attr(node) is None:
            return None
        return self.data.read(node, offset, length, cache.change)

    def keep(self, node: NfsNode, offset: int, data: memoryview, ticket: int, *, eof: bool) -> None:
        """`data` came with a READ that was sent at `ticket`."""
        cache = node.cache
        if cache is None or cache.change is None or cache.touched > ticket:
            return
        if cache.delegation is None and not self.life:
            return
        size = cache.raw.get(Attribute.SIZE, 0) if cache.raw is not None else 0
        if size <= self.data.limit // (1 if len(data) <= _SMALL else _SHARE):
            self.data.put(node, offset, data, cache.change, eof=eof)

    # Names

    def name(self, directory: NfsNode, name: str) -> NfsNode | object | None:
        """What the name leads to, as far as may be believed."""
        cache = directory.cache
        if cache is None or not cache.names or cache.checked + self.life <= self.now():
            return MISSING
        return cache.names.get(name, MISSING)

    def walk(self, directory: NfsNode, names: Sequence[str]) -> tuple[NfsNode, Attr] | None:
        """What is at the end of the path, if all of it may be believed. NOT_FOUND if nothing is."""
        node = directory
        for name in names:
            found = self.name(node, name)
            if found is None:
                raise FsError(Status.NOT_FOUND, name)
            if not isinstance(found, NfsNode):
                return None
            node = found
        attr = self.attr(node)
        return None if attr is None else (node, attr)

    def closest(self, directory: NfsNode, names: Sequence[str]) -> tuple[NfsNode, list[str]]:
        """As far as the way over `names` is believed to lead through directories: the last of them, and what is left
        to walk."""
        node = directory
        for count, name in enumerate(names):
            found = self.name(node, name)
            if not isinstance(found, NfsNode) or found.cache is None or found.cache.kind != FileType.DIR:
                return node, list(names[count:])
            node = found
        return node, []

    def kind(self, directory: NfsNode, name: str) -> int | None:
        """FileType of what has this name, if that may be believed."""
        found = self.name(directory, name)
        return found.cache.kind if isinstance(found, NfsNode) and found.cache is not None else None

    def fresh(self, directory: NfsNode) -> bool:
        """Whether names of this directory could be believed."""
        cache = directory.cache
        return cache is not None and cache.change is not None and cache.checked + self.life > self.now()

    def learn_name(self, directory: NfsNode, name: str, node: NfsNode | None) -> None:
        cache = self.of(directory)
        if not self.fresh(directory):
            return
        if name not in cache.names:
            self._named[directory] = cache
            self._names += 1
        cache.names[name] = node
        while self._names > limits.CLIENT_NAMES and self._named:
            oldest = next(iter(self._named))
            self._forget_names(oldest, self._named[oldest])

    def names_changed(self, directory: NfsNode, cinfo: ChangeInfo | None, *names: str) -> None:
        """We changed what these names lead to. What `cinfo` says may tell that nobody else changed anything
        (§10.8)."""
        cache = self.of(directory)
        self.touch(directory)
        if cinfo is None or not cinfo.atomic or cinfo.before != cache.change:
            self._forget_names(directory, cache)
            cache.change, cache.checked = None, 0.0
            return
        cache.change, cache.checked = cinfo.after, self.now()
        for name in names:
            if cache.names.pop(name, MISSING) is not MISSING:
                self._names -= 1

    def _forget_names(self, directory: NfsNode, cache: NodeCache) -> None:
        if cache.names:
            self._names -= len(cache.names)
            cache.names = {}
        self._named.pop(directory, None)
