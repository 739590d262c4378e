from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

from quicfs.fuse_mount.cache import Cache
from quicfs.vfs import Attr, DirEntry, FileKind, Node


class Thing(Node):
    pass


ATTR = Attr(FileKind.REGULAR, 0o644, 1, 0, 0, 5, 5, 77, 1, 2, 3, 4, 5)


def make(**options: Any) -> Cache:
    settings: dict[str, Any] = {
        "attr_timeout": 60.0,
        "negative_timeout": 60.0,
        "max_attrs": 100,
        "max_listing": 100,
    }
    return Cache(**{**settings, **options})


def entries(*names: str) -> list[DirEntry]:
    return [DirEntry(name, replace(ATTR, fileid=100 + n), n + 1) for n, name in enumerate(names)]


def test_remembers() -> None:
    cache, node = make(), Thing()
    cache.put(b"/a", ATTR, node, cache.ticket())
    found = cache.get(b"/a")
    assert found is not None
    assert (found.attr, found.node) == (ATTR, node)
    assert cache.get(b"/b") is None


def test_remembers_that_nothing_is_there() -> None:
    cache = make()
    cache.put(b"/a", None, None, cache.ticket())
    found = cache.get(b"/a")
    assert found is not None
    assert found.attr is None


def test_answer_older_than_a_change_is_not_remembered() -> None:
    cache = make()
    ticket = cache.ticket()
    cache.touch(b"/a")
    assert cache.put(b"/a", None, None, ticket).attr is None  # its asker gets it all the same
    assert cache.get(b"/a") is None
    cache.put(b"/a", ATTR, None, cache.ticket())
    assert cache.get(b"/a") is not None


def test_answer_older_than_a_renamed_directory_is_not_remembered() -> None:
    cache = make()
    ticket = cache.ticket()
    cache.touch_all()
    cache.put(b"/d/a", ATTR, None, ticket)
    assert cache.get(b"/d/a") is None


def test_nothing_lives_for_no_time() -> None:
    cache = make(attr_timeout=0.0, negative_timeout=0.0)
    cache.put(b"/a", ATTR, None, cache.ticket())
    cache.put(b"/b", None, None, cache.ticket())
    assert cache.get(b"/a") is None
    assert cache.get(b"/b") is None


def test_is_bounded() -> None:
    cache = make(max_attrs=10)
    for number in range(1000):
        cache.put(b"/%d" % number, ATTR, None, cache.ticket())
    assert 8 <= sum(cache.get(b"/%d" % number) is not None for number in range(1000)) <= 10
    assert cache.get(b"/999") is not None


def test_listings_are_bounded_together() -> None:
    cache = make(max_listing=10)
    for directory in (b"/a", b"/b", b"/c"):
        cache.put_listing(directory, entries("1", "2", "3", "4"), cache.ticket(), 1e18)
    assert cache.listing(b"/a") is None
    assert cache.listing(b"/b") is not None
    assert cache.listing(b"/c") is not None
    cache.put_listing(b"/d", entries(*map(str, range(11))), cache.ticket(), 1e18)
    assert cache.listing(b"/d") is None


def test_new_name_drops_the_listing() -> None:
    cache = make()
    cache.put_listing(b"/d", entries("a"), cache.ticket(), 1e18)
    cache.touch_names(b"/d")
    assert cache.listing(b"/d") is None


def test_listing_tells_what_is_not_there() -> None:
    cache = make()
    cache.put_listing(b"/d", entries("File", "Straße"), cache.ticket(), 1e18)
    listing = cache.listing(b"/d")
    assert listing is not None
    assert listing.excludes("other")
    assert not listing.excludes("FILE")  # the server may ignore case
    assert not listing.excludes("STRASSE")
    assert not listing.excludes("LONGNA~1")  # or know short names


def test_listed_attributes_keep_a_known_node() -> None:
    cache, node = make(), Thing()
    cache.put(b"/d/a", replace(ATTR, fileid=100), node, cache.ticket())
    cache.put_listed(b"/d", entries("a", "b"), cache.ticket())
    a, b = cache.get(b"/d/a"), cache.get(b"/d/b")
    assert a is not None
    assert b is not None
    assert (a.node, b.node) == (node, None)


def test_other_names_of_an_object() -> None:
    cache = make()
    for path in (b"/a", b"/b"):
        cache.put(path, ATTR, None, cache.ticket())
    cache.touch_object(ATTR.fileid, b"/a")
    assert cache.get(b"/a") is not None
    assert cache.get(b"/b") is None


def test_a_name_of_ours_leaves_the_others_unknown_as_they_were() -> None:
    cache = make()
    cache.put_listing(b"/d", entries("a"), cache.ticket(), time.monotonic())
    cache.touch_names(b"/d", b"new")
    listing = cache.listing(b"/d")
    assert listing is not None and listing.entries is None  # it is no listing any more
    assert listing.excludes("other") and not listing.excludes("NEW") and not listing.excludes("a")
    cache.touch_names(b"/d")
    assert cache.listing(b"/d") is None


def test_nodes_come_with_a_listing_where_they_are_known() -> None:
    cache, node = make(), Thing()
    listed = replace(entries("a")[0], node=node)
    cache.put_listed(b"/", [listed], cache.ticket())
    found = cache.get(b"/a")
    assert found is not None and found.node is node
