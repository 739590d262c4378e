"""Data kept between opens: against a model of which bytes are known."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from quicfs.nfs.client.data import DataCache
from quicfs.nfs.client.nodes import NfsNode

CHANGE = 7


def node(name: bytes = b"fh") -> NfsNode:
    return NfsNode(name, 1, None)


OPERATIONS = st.lists(
    st.tuples(st.sampled_from(["put", "cut", "read"]), st.integers(0, 60), st.integers(0, 30)), max_size=40
)


@settings(deadline=None)
@given(OPERATIONS)
def test_what_is_read_is_what_was_put_last(operations: list[tuple[str, int, int]]) -> None:
    cache, file = DataCache(1 << 20), node()
    model: dict[int, int] = {}
    for turn, (what, offset, length) in enumerate(operations):
        if what == "put":
            data = bytes([turn]) * length
            cache.put(file, offset, memoryview(data), CHANGE, eof=False)
            model.update(dict.fromkeys(range(offset, offset + length), turn))
        elif what == "cut":
            cache.cut(file, offset, offset + length)
            for place in range(offset, offset + length):
                model.pop(place, None)
        else:
            found = cache.read(file, offset, length, CHANGE)
            if found is not None:
                assert len(found) == length
                assert [model.get(place) for place in range(offset, offset + length)] == list(found)
        assert cache.size == len(model)


def test_the_end_of_the_file() -> None:
    cache, file = DataCache(1000), node()
    cache.put(file, 0, memoryview(b"0123456789"), CHANGE, eof=True)
    assert cache.read(file, 5, 100, CHANGE) == b"56789"
    assert cache.read(file, 10, 100, CHANGE) == b"" == cache.read(file, 99, 1, CHANGE)
    cache.cut(file, 8, 12)  # it may be longer now
    assert cache.read(file, 5, 100, CHANGE) is None
    assert cache.read(file, 5, 3, CHANGE) == b"567"
    empty = node(b"empty")
    cache.put(empty, 0, memoryview(b""), CHANGE, eof=True)
    assert cache.read(empty, 0, 10, CHANGE) == b""


def test_data_of_another_version() -> None:
    cache, file = DataCache(1000), node()
    cache.put(file, 0, memoryview(b"old"), 1, eof=True)
    assert cache.read(file, 0, 3, 2) is None and cache.size == 0
    cache.put(file, 0, memoryview(b"old"), 1, eof=True)
    cache.put(file, 5, memoryview(b"new"), 2, eof=True)
    assert cache.read(file, 0, 3, 2) is None
    assert cache.read(file, 5, 3, 2) == b"new" and cache.size == 3
    cache.keep(file, 3)
    assert cache.read(file, 5, 3, 3) == b"new"
    cache.expect(file, 3)
    assert cache.size == 3
    cache.expect(file, 4)
    assert cache.size == 0


def test_what_was_used_longest_ago_goes_first() -> None:
    cache = DataCache(100)
    files = [node(bytes([number])) for number in range(4)]
    for file in files[:3]:
        cache.put(file, 0, memoryview(bytes(30)), CHANGE, eof=True)
    assert cache.read(files[0], 0, 1, CHANGE) is not None
    cache.put(files[3], 0, memoryview(bytes(30)), CHANGE, eof=True)
    assert cache.size == 90
    assert cache.read(files[1], 0, 1, CHANGE) is None
    assert all(cache.read(files[number], 0, 1, CHANGE) is not None for number in (0, 2, 3))
    cache.put(files[0], 0, memoryview(bytes(101)), CHANGE, eof=True)  # more than all the room there is
    assert cache.size == 90


def test_many_small_pieces_are_bounded() -> None:
    cache, file = DataCache(1 << 20), node()
    for number in range(10_000):
        cache.put(file, 2 * number, memoryview(b"x"), CHANGE, eof=False)
        assert cache.size <= 4096
