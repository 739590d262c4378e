"""What a COMPOUND tells of objects, and does to them; and answers that come late."""

from __future__ import annotations

from typing import Any

import pytest

from quicfs.nfs.client.attributes import ATTR
from quicfs.nfs.client.caching import MISSING, Caches
from quicfs.nfs.client.channel import Operation
from quicfs.nfs.client.data import DataCache
from quicfs.nfs.client.delegations import Delegations
from quicfs.nfs.client.errors import CompoundFailed
from quicfs.nfs.client.nodes import NfsNode, Nodes
from quicfs.nfs.client.observing import Observer, Sight
from quicfs.nfs.v4.attributes import Attribute
from quicfs.nfs.v4.compound import Result
from quicfs.nfs.v4.const import FileType, Op, StableHow, Stat
from quicfs.nfs.v4.operations_directories import (
    CreateArgs,
    CreateResok,
    CreateType,
    LookupArgs,
    RemoveArgs,
    RemoveResok,
)
from quicfs.nfs.v4.operations_files import GetattrArgs, GetattrResok, GetfhResok, PutfhArgs
from quicfs.nfs.v4.operations_io import WriteArgs, WriteResok
from quicfs.nfs.v4.types import ANONYMOUS, ChangeInfo

GETATTR: Operation = (Op.GETATTR, GetattrArgs(ATTR))
GETFH: Operation = (Op.GETFH, None)


class World:
    """One directory `d` and one file `f`, and a clock."""

    def __init__(self, life: float = 10.0) -> None:
        self.time = 100.0
        self.data = DataCache(1 << 20)
        self.caches = Caches(life, self.data, clock=lambda: self.time)
        self.nodes = Nodes()
        self.observer = Observer(self.nodes, self.caches, Delegations(self.caches))
        self.d = self.nodes.at(b"d", 1)
        self.f = self.nodes.at(b"f", 2)

    def begin(self, *operations: Operation) -> Sight:
        sight = self.observer.begin(operations)
        assert sight is not None
        return sight

    def getattr(self, node: NfsNode) -> Sight:
        return self.begin(put(node), GETATTR)

    def learn(self, node: NfsNode, change: int, size: int = 0) -> None:
        self.getattr(node).done([None, attributes(change, size)])


def put(node: NfsNode) -> Operation:
    return Op.PUTFH, PutfhArgs(node.fh)


def attributes(change: int, size: int = 0) -> GetattrResok:
    return GetattrResok({Attribute.TYPE: FileType.REG, Attribute.CHANGE: change, Attribute.SIZE: size})


def write(node: NfsNode, offset: int, data: bytes) -> tuple[Operation, Operation]:
    return put(node), (Op.WRITE, WriteArgs(ANONYMOUS, offset, StableHow.UNSTABLE, data))


WRITTEN = [None, WriteResok(1, StableHow.UNSTABLE, bytes(8))]


def size_of(world: World) -> int | None:
    attr = world.caches.attr(world.f)
    return None if attr is None else attr.size


def test_attributes_come_and_grow_old() -> None:
    world = World()
    assert size_of(world) is None
    world.learn(world.f, 1, 5)
    assert size_of(world) == 5
    world.time += 11
    assert size_of(world) is None


def test_of_attributes_that_are_too_long_only_what_is_needed_is_kept() -> None:
    world = World()
    raw = attributes(1, 5)
    raw.attributes[Attribute.OWNER] = "x" * 60_000
    world.getattr(world.f).done([None, raw])
    assert size_of(world) == 5
    assert world.f.cache is not None and world.f.cache.raw == {Attribute.CHANGE: 1, Attribute.SIZE: 5}


def test_nothing_to_learn_is_not_followed() -> None:
    world = World()
    assert world.observer.begin([put(world.f), (Op.READ, None)]) is None


def test_an_answer_from_before_a_write_is_not_believed() -> None:
    world = World()
    asked = world.getattr(world.f)
    world.begin(*write(world.f, 0, b"x")).done(WRITTEN)
    asked.done([None, attributes(1, 0)])
    assert size_of(world) is None
    world.learn(world.f, 2, 1)
    assert size_of(world) == 1


def test_attributes_after_a_change_in_the_same_compound() -> None:
    world = World()
    sight = world.begin(*write(world.f, 0, b"x"), GETATTR)
    sight.done([*WRITTEN, attributes(2, 1)])
    assert size_of(world) == 1
    # But not if another change was answered in between: which came first, nobody knows.
    first, second = (world.begin(*write(world.f, 1, b"y"), GETATTR) for _ in range(2))
    second.done([*WRITTEN, attributes(3, 2)])
    first.done([*WRITTEN, attributes(4, 2)])
    assert size_of(world) is None


def test_data_below_a_write_are_gone_and_others_only_until_the_change_is_seen() -> None:
    world = World()
    world.learn(world.f, 1, 10)
    world.caches.keep(world.f, 0, memoryview(b"0123456789"), world.caches.clock, eof=True)
    assert world.caches.read(world.f, 2, 3) == b"234"
    world.begin(*write(world.f, 4, b"ab")).done(WRITTEN)
    assert world.caches.read(world.f, 0, 4) is None  # attributes are not known now
    world.learn(world.f, 2, 10)
    assert world.caches.read(world.f, 0, 4) is None and world.data.size == 0


def test_data_that_were_on_their_way_during_a_change() -> None:
    world = World()
    world.learn(world.f, 1, 10)
    ticket = world.caches.clock
    world.learn(world.f, 2, 10)  # somebody else has written
    world.caches.keep(world.f, 0, memoryview(b"old"), ticket, eof=False)
    assert world.caches.read(world.f, 0, 3) is None


def lookup(world: World, name: str) -> Sight:
    return world.begin(put(world.d), (Op.LOOKUP, LookupArgs(name)), GETFH, GETATTR)


def missing(world: World, sight: Sight, name: str) -> None:
    results = [Result(Op.PUTFH, Stat.OK, None), Result(Op.LOOKUP, Stat.NOENT, None)]
    sight.failed(CompoundFailed(Stat.NOENT, results, name))


def test_names_while_the_directory_is_the_same() -> None:
    world = World()
    world.learn(world.d, 1)
    lookup(world, "f").done([None, None, GetfhResok(b"f"), attributes(1, 5)])
    missing(world, lookup(world, "g"), "g")
    assert world.caches.name(world.d, "f") is world.f and size_of(world) == 5
    assert world.caches.name(world.d, "g") is None
    assert world.caches.name(world.d, "h") is MISSING
    world.time += 9
    world.learn(world.d, 1)
    world.time += 9
    assert world.caches.name(world.d, "g") is None
    world.learn(world.d, 2)
    assert world.caches.name(world.d, "f") is world.caches.name(world.d, "g") is MISSING


def test_a_name_that_was_looked_for_before_the_directory_changed() -> None:
    world = World()
    world.learn(world.d, 1)
    asked = lookup(world, "g")
    world.learn(world.d, 2)
    missing(world, asked, "g")
    assert world.caches.name(world.d, "g") is MISSING


@pytest.mark.parametrize(("atomic", "before", "kept"), [(True, 1, True), (False, 1, False), (True, 9, False)])
def test_our_own_changes_of_a_directory(atomic: bool, before: int, kept: bool) -> None:
    """RFC 8881 §10.8.1: other names stay if the server says that nothing else has changed."""
    world = World()
    world.learn(world.d, 1)
    missing(world, lookup(world, "g"), "g")
    missing(world, lookup(world, "new"), "new")
    operation = (Op.CREATE, CreateArgs(CreateType(FileType.DIR), "new", {}))
    made = CreateResok(ChangeInfo(atomic, before, 2), 0)
    world.begin(put(world.d), operation, GETFH).done([None, made, GetfhResok(b"n")])
    assert (world.caches.name(world.d, "g") is None) is kept
    assert isinstance(world.caches.name(world.d, "new"), NfsNode) is kept
    removed: list[Any] = [None, RemoveResok(ChangeInfo(True, 2, 3))]
    world.begin(put(world.d), (Op.REMOVE, RemoveArgs("new"))).done(removed)
    assert world.caches.name(world.d, "new") is MISSING


def test_a_call_that_was_lost_may_have_done_anything() -> None:
    world = World()
    world.learn(world.d, 1)
    world.learn(world.f, 1, 5)
    world.caches.keep(world.f, 0, memoryview(b"01234"), world.caches.clock, eof=True)
    missing(world, lookup(world, "g"), "g")
    world.begin(*write(world.f, 0, b"x")).lost()
    world.begin(put(world.d), (Op.REMOVE, RemoveArgs("x"))).lost()
    assert size_of(world) is None and world.data.size == 0
    assert world.caches.name(world.d, "g") is MISSING


def test_names_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("quicfs.nfs.limits.CLIENT_NAMES", 100)
    world = World()
    others = [world.nodes.at(b"%d" % number, number) for number in range(10)]
    for directory in others:
        world.learn(directory, 1)
        for number in range(20):
            world.caches.learn_name(directory, str(number), None)
    known = sum(
        world.caches.name(directory, str(number)) is None for directory in others for number in range(20)
    )
    assert 50 <= known <= 100
