"""Whatever a client sends, an NFS server answers: COMPOUNDs that are grammar and no sense, NFSv3 calls likewise, and
real requests with bytes changed. Nothing is unforeseen, and a client that does no harm finds its file as it was.
"""

from __future__ import annotations

import dataclasses
import logging
import resource
import struct
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from quicfs.nfs.rpc.errors import RpcError
from quicfs.nfs.v3 import mount3, nfs3
from quicfs.nfs.v4.compound import unpack_reply
from quicfs.nfs.v4.const import Op, Stat
from quicfs.nfs.v4.operations import OPERATIONS
from quicfs.nfs.v4.operations_directories import LookupArgs
from quicfs.nfs.v4.operations_files import PutfhArgs
from quicfs.nfs.v4.types import StateId
from quicfs.nfs.xdr import Packer
from tests.sim.nfs_files import Opened, lock, made, read, write
from tests.sim.nfs_requests import requests
from tests.sim.nfs_rig import Operation, RawClient, Rig, packed, sequence
from tests.sim.virtual_loop import run
from tests.unit.nfs.xdr_values import values_of

LARGEST_FILE = 1 << 20
EDGES = (0, 1, 4096, LARGEST_FILE, (1 << 31) - 1, 1 << 32, (1 << 63) - 1, 1 << 63, (1 << 64) - 1)
NAMES = ("export", "file", "dir", "link", "new", "a" * 255, "a" * 256, "", ".", "..", "a/b", "\0")
HEADER = 12  # an empty tag, the minor version, the number of operations


@pytest.fixture(scope="module", autouse=True)
def small_files() -> Iterator[None]:
    """ALLOCATE takes what it is asked to take: not from the disk of whoever runs this."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (LARGEST_FILE, hard))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.fixture(autouse=True)
def nothing_unforeseen(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    caplog.set_level(logging.INFO, "quicfs")
    yield
    for record in caplog.get_records("call"):
        assert record.levelno < logging.WARNING and not record.exc_info, record.getMessage()


def in_rig(body: Any) -> None:
    async def main(place: Path) -> None:
        async with Rig(place, state=False) as rig:
            rig_file = rig.tree / "file"
            rig_file.write_bytes(b"somebody's")
            rig_file.chmod(0o666)
            rig.tree.chmod(0o777)
            (rig.tree / "dir").mkdir()
            (rig.tree / "link").symlink_to("file")
            innocent = await rig.client(b"innocent")
            own = await made(innocent, "own", deny=3)
            await write(innocent, own, b"innocent")
            await body(rig)
            assert await read(innocent, own) == (True, b"innocent")

    with tempfile.TemporaryDirectory() as place:
        run(main(Path(place)))


class Attack:
    """A client with a file open and locked, for operations to begin with."""

    def __init__(
        self, client: RawClient, file: Opened, handles: list[bytes], stateids: list[StateId]
    ) -> None:
        self.client = client
        self.file = file
        self.handles = handles
        self.stateids = stateids

    @classmethod
    async def begin(cls, rig: Rig) -> Attack:
        client = await rig.client(b"hostile", uid=4711)
        file = await made(client, "file")
        handles = [file.fh]
        for name in (None, "export", "dir", "link", "file"):
            path: list[Operation] = [(Op.PUTROOTFH, None)]
            if name is not None:
                path.append((Op.LOOKUP, LookupArgs("export")))
            if name not in (None, "export"):
                path.append((Op.LOOKUP, LookupArgs(name)))
            handles.append((await client.do(*path, (Op.GETFH, None)))[-1].value.object)
        locked = await lock(client, file, 0, 10)
        return cls(
            client, file, handles, [file.stateid, locked, StateId(0, bytes(12)), StateId(1, bytes(12))]
        )

    async def renew(self) -> None:
        """What it did may have ended its own session or client."""
        self.client.streams.clear()
        try:
            await self.client.create_session()
        except Exception:
            await self.client.establish(reclaim_complete=False)


def at_home(value: Any, attack: Attack, data: st.DataObject) -> Any:
    """The same with handles, stateids, names and offsets that mean something, here and there."""
    if isinstance(value, StateId):
        return data.draw(st.sampled_from([*attack.stateids, value]))
    if isinstance(value, list):
        return [at_home(one, attack, data) for one in value]
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        for field in dataclasses.fields(value):
            old = getattr(value, field.name)
            if field.name in ("offset", "length", "count", "src_offset", "dst_offset", "cookie"):
                edges = [edge for edge in EDGES if edge < 1 << 32 or field.name != "count" or old > HUGE]
                new = data.draw(st.sampled_from([old, *edges]))
                new = min(new, HUGE) if field.name == "count" and old <= HUGE else new
            elif field.name in ("object", "fh", "dir", "file") and isinstance(old, bytes):
                new = data.draw(st.sampled_from([*attack.handles, old]))
            elif isinstance(old, str):
                new = data.draw(st.sampled_from([*NAMES, old]))
            else:
                new = at_home(old, attack, data)
            setattr(value, field.name, new)
    return value


HUGE = 0xFFFFFFFF
ROWS = [row for row in OPERATIONS.values() if row.op not in (Op.SEQUENCE, Op.ILLEGAL)]


def operation(attack: Attack, data: st.DataObject) -> Operation:
    row = data.draw(st.sampled_from(ROWS))
    args = None if row.args is None else at_home(data.draw(values_of(row.args)), attack, data)
    return Op(row.op), args


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_compounds_of_anything(data: st.DataObject) -> None:
    async def body(rig: Rig) -> None:
        attack = await Attack.begin(rig)
        client = attack.client
        for _ in range(data.draw(st.integers(1, 12))):
            operations: list[Operation] = []
            for _ in range(data.draw(st.integers(1, 4))):
                if data.draw(st.booleans()):
                    operations.append((Op.PUTFH, PutfhArgs(data.draw(st.sampled_from(attack.handles)))))
                    if data.draw(st.booleans()):
                        operations.append((Op.SAVEFH, None))
                operations.append(operation(attack, data))
            alone = not data.draw(st.integers(0, 5))
            try:
                reply = await client.compound(*([] if alone else [client.next()]), *operations)
            except RpcError as error:
                assert "SYSTEM_ERR" not in str(error)
                continue
            assert reply.status is not Stat.SERVERFAULT, operations
            if reply.results and reply.results[0].status in (Stat.BADSESSION, Stat.SEQ_MISORDERED):
                await attack.renew()

    in_rig(body)


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_requests_with_bytes_changed(data: st.DataObject) -> None:
    async def body(rig: Rig) -> None:
        attack = await Attack.begin(rig)
        client = attack.client
        for _ in range(data.draw(st.integers(1, 12))):
            operations = data.draw(st.sampled_from(requests(attack.file)))
            raw = bytearray(packed([client.next(), *operations]).getvalue())
            body_at = HEADER + len(packed([sequence(bytes(16), 0)]).getvalue()) - HEADER
            for _ in range(data.draw(st.integers(1, 3))):
                place = data.draw(st.integers(body_at, len(raw) - 1))
                piece = data.draw(
                    st.one_of(
                        st.binary(min_size=1, max_size=8),
                        st.sampled_from([struct.pack(">I", n) for n in (0, 1, 64, HUGE, 0x7FFFFFFF)]),
                    )
                )
                match data.draw(st.integers(0, 3)):
                    case 0:
                        raw[place : place + len(piece)] = piece
                    case 1:
                        raw[place:place] = piece
                    case 2:
                        del raw[place : place + len(piece)]
                    case _:
                        del raw[place:]
                if len(raw) <= body_at:
                    break
            args = Packer()
            args.fixed(bytes(raw))
            try:
                reply = unpack_reply(await client.raw(args))
            except RpcError as error:
                assert "SYSTEM_ERR" not in str(error)
                continue
            assert reply.status is not Stat.SERVERFAULT, operations
            if reply.results and reply.results[0].status is not Stat.OK:
                await attack.renew()

    in_rig(body)


PROCEDURES = [
    (program, version, number, row)
    for program, version, rows in (
        (nfs3.PROGRAM, nfs3.VERSION, nfs3.PROCEDURES),
        (mount3.PROGRAM, mount3.VERSION, mount3.PROCEDURES),
    )
    for number, row in rows.items()
]


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_calls_of_nfs3_and_mount(data: st.DataObject) -> None:
    async def body(rig: Rig) -> None:
        attack = await Attack.begin(rig)
        rpc = await attack.client.stream()
        for _ in range(data.draw(st.integers(1, 20))):
            program, version, number, row = data.draw(st.sampled_from(PROCEDURES))
            packer = Packer()
            if row.args is not None:
                at_home(data.draw(values_of(row.args)), attack, data).pack(packer)
            raw = bytearray(packer.getvalue())
            if raw and data.draw(st.booleans()):
                place = data.draw(st.integers(0, len(raw) - 1))
                raw[place : place + 4] = data.draw(st.binary(max_size=8))
            changed = Packer()
            changed.fixed(bytes(raw))
            try:
                await rpc.call(program, version, number, attack.client.credential, changed, timeout=300)
            except RpcError as error:
                assert "SYSTEM_ERR" not in str(error), (number, row)

    in_rig(body)
