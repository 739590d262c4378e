"""File handles: what a client made up is never taken for one of ours."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quicfs.nfs.server.context import Context
from quicfs.nfs.server.exports import Export
from quicfs.nfs.server.handles import RAW_MAX, HandleTable, handle_key
from quicfs.nfs.server.pseudo import PseudoTree
from quicfs.nfs.v4.const import Nfs4Error, Stat
from quicfs.vfs import Caller, FileSystem, FsError, LocalTree, Node, Status

KEY = bytes(range(32))


class NoFiles:
    """Nothing is open."""

    def get(self, raw: bytes) -> None:
        return None


class Caller0:
    """As much of a Context as handles need."""

    files = NoFiles()

    @property
    def server(self) -> Caller0:
        return self

    def view(self, export: Export) -> FileSystem:
        return export.view(Caller(0, 0))


CTX = cast("Context", Caller0())


class WithoutHandles(LocalTree):
    """As trees that are far away."""

    async def handle(self, node: Node) -> bytes:
        raise FsError(Status.NOT_SUPPORTED)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tree")
    (path / "d").mkdir()
    for number in range(20):
        (path / "d" / str(number)).touch()
    return path


@pytest.fixture(scope="module", params=[LocalTree, WithoutHandles])
def export(request: pytest.FixtureRequest, folder: Path) -> Iterator[Export]:
    tree = request.param(folder)
    yield Export("/x", tree)
    asyncio.run(tree.close())


def table(export: Export, key: bytes = KEY, run: bytes = b"run") -> HandleTable:
    return HandleTable(PseudoTree([export]), key, run)


async def handles(table_: HandleTable, export: Export) -> list[bytes]:
    """Of the export's root, a directory and two files."""
    fs = export.file_system
    nodes: list[Any] = [fs.root]
    nodes += [(await fs.lookup(fs.root, path))[0] for path in ("d", "d/1", "d/2")]
    return [await table_.raw(export, node) for node in nodes]


def refusal(table_: HandleTable, raw: bytes) -> Stat:
    with pytest.raises(Nfs4Error) as refused:
        asyncio.run(table_.target(raw, CTX))
    return refused.value.status


def test_a_handle_leads_back_to_its_object(export: Export) -> None:
    async def go() -> None:
        names = table(export)
        made = await handles(names, export)
        assert len(set(made)) == 4 and max(map(len, made)) <= RAW_MAX == 64
        assert await handles(names, export) == made
        for raw in made:
            target = await names.target(raw, CTX)
            assert target.export is export and await names.raw(export, target.node) == raw
            assert target.attr == await export.file_system.getattr(target.node)

    asyncio.run(go())


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_any_flipped_bits_are_refused(export: Export, data: st.DataObject) -> None:
    names = table(export)
    raw = bytearray(data.draw(st.sampled_from(asyncio.run(handles(names, export)))))
    bits = st.integers(0, 8 * len(raw) - 1)
    for bit in data.draw(st.sets(bits, min_size=1, max_size=9)):
        raw[bit // 8] ^= 1 << bit % 8
    assert refusal(names, bytes(raw)) is Stat.BADHANDLE


@settings(max_examples=200, deadline=None)
@given(raw=st.binary(max_size=128), cut=st.integers(0, 63), tail=st.binary(min_size=1, max_size=64))
def test_nothing_else_is_a_handle(export: Export, raw: bytes, cut: int, tail: bytes) -> None:
    names = table(export)
    good = asyncio.run(handles(names, export))[2]
    for made_up in (raw, good[: min(cut, len(good) - 1)], good + tail, tail + good):
        assert refusal(names, made_up) is Stat.BADHANDLE


def test_another_key_another_handle(export: Export) -> None:
    raw = asyncio.run(handles(table(export), export))[1]
    assert refusal(table(export, b"another key of a server"), raw) is Stat.BADHANDLE


def test_an_export_that_is_gone(export: Export) -> None:
    raw = asyncio.run(handles(table(export), export))[1]
    assert refusal(table(Export("/y", export.file_system)), raw) is Stat.STALE


def test_after_a_restart(export: Export) -> None:
    """Volatile handles do not hold; the others do."""

    async def go() -> None:
        raw = (await handles(table(export), export))[2]
        later = table(export, run=b"later")
        if await later.is_persistent(export):
            assert await handles(later, export) == await handles(table(export), export)
            assert (await later.target(raw, CTX)).raw == raw
        else:
            with pytest.raises(Nfs4Error) as refused:
                await later.target(raw, CTX)
            assert refused.value.status is Stat.FHEXPIRED

    asyncio.run(go())


def test_volatile_handles_are_bounded(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("quicfs.nfs.server.handles.MAX_VOLATILE_HANDLES", 4)

    async def go() -> None:
        tree = WithoutHandles(folder)
        export = Export("/x", tree)
        names = table(export)
        made = []
        for number in range(10):
            node, _ = await tree.lookup(tree.root, f"d/{number}")
            made.append(await names.raw(export, node))
            await names.target(made[0], CTX)  # what is used stays
        for raw in (made[0], made[-1]):
            await names.target(raw, CTX)
        with pytest.raises(Nfs4Error) as refused:
            await names.target(made[1], CTX)
        assert refused.value.status is Stat.FHEXPIRED
        await tree.close()

    asyncio.run(go())


def test_the_key_is_kept(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    key = handle_key(tmp_path / "state")
    assert handle_key(tmp_path / "state") == key and len(key) == 32
    assert handle_key(None) != handle_key(None)
    (tmp_path / "file").touch()
    assert handle_key(tmp_path / "file") != key
    assert "will not survive a restart" in caplog.text
