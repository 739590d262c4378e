"""An NFS server and clients that mean ill to its streams and its memory: see `test_nfs_hostile`."""

from __future__ import annotations

import asyncio
import resource
import time
import tracemalloc
from dataclasses import replace
from pathlib import Path

import pytest

from quicfs.nfs import limits
from quicfs.nfs.rpc.errors import RpcError
from quicfs.nfs.v4.const import (
    PROGRAM,
    Stat,
)
from quicfs.nfs.xdr import Packer
from tests.sim.nfs_files import (
    made,
    open_named,
    read,
    read_op,
    unchecked,
    write,
)
from tests.sim.nfs_hostile import (
    HUGE,
    LAST,
    RECORD,
    header,
    in_rig,
    nothing_unforeseen,
    raw_stream,
    record,
    rpc_call,
    status,
    well,
)
from tests.sim.nfs_rig import FORE, RawClient, Rig

pytestmark = pytest.mark.usefixtures(nothing_unforeseen.__name__)

# --- streams


def test_half_a_record_and_silence(tmp_path: Path) -> None:
    """Streams that stop within a message are given up; one that says nothing at all costs nothing and may stay."""

    async def body(rig: Rig) -> None:
        client = await rig.client()
        whole = record(rpc_call(header(0)))
        silent = [raw_stream(rig) for _ in range(len(whole))]
        for length, (ours, _) in enumerate(silent):
            if length:
                await ours.send(whole[:length])
        quiet, busy = silent[0], silent[1:]
        await asyncio.sleep(limits.SILENCE_S - 1)
        assert not any(task.done() for _, task in busy)
        await well(client)
        await asyncio.sleep(2)
        assert all(task.done() for _, task in busy)
        assert not quiet[1].done()
        await quiet[0].aclose()
        await quiet[1]
        await well(client)

    in_rig(tmp_path, body)


def test_a_byte_now_and_then_is_silence_in_the_end(tmp_path: Path) -> None:
    """A message that trickles keeps a stream, and its buffer holds what has come and no more."""

    async def body(rig: Rig) -> None:
        ours, task = raw_stream(rig)
        tracemalloc.start()
        await ours.send(RECORD.pack(LAST | limits.MAX_MESSAGE))
        for _ in range(200):
            await asyncio.sleep(limits.SILENCE_S / 2)
            await ours.send(b"x")
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert peak < 1 << 20
        assert not task.done()
        await asyncio.sleep(limits.SILENCE_S * 2)
        assert task.done()

    in_rig(tmp_path, body)


@pytest.mark.parametrize(
    "bytes_sent",
    [
        RECORD.pack(LAST | 0x7FFFFFFF) + bytes(100),
        RECORD.pack(LAST | (limits.MAX_MESSAGE + 1)),
        RECORD.pack(0) * 2_000_000,
        RECORD.pack(LAST) * 262_144,
        (RECORD.pack(1) + b"x") * 10_000,
        record(b"\xff" * 4096),
        record(b"\0\0\0\1\0\0\0\2" + bytes(64)),
        record(rpc_call(b"")[:30]),
        record(RECORD.pack(1) + RECORD.pack(1) + bytes(20)) * 1000,
        b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n",
    ],
    ids=[
        "2 GiB", "a byte too long", "empty records", "empty messages", "too many records", "no RPC", "no direction",
        "half a call", "replies", "HTTP",
    ],
)  # fmt: skip
def test_streams_of_nonsense_end(tmp_path: Path, bytes_sent: bytes) -> None:
    async def body(rig: Rig) -> None:
        client = await rig.client()
        ours, task = raw_stream(rig)
        tracemalloc.start()
        began = time.process_time()
        await ours.send(bytes_sent)
        await asyncio.sleep(limits.SILENCE_S * 2)
        took = time.process_time() - began
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert task.done()
        assert peak - len(bytes_sent) < 24 << 20, f"{peak >> 20} MiB"
        assert took < 3
        await well(client)

    in_rig(tmp_path, body)


@pytest.mark.parametrize(
    ("program", "version", "procedure", "args"),
    [
        (PROGRAM, 4, 1, b""),
        (PROGRAM, 4, 1, RECORD.pack(HUGE)),
        (PROGRAM, 4, 1, RECORD.pack(HUGE) + bytes(1000)),
        (PROGRAM, 4, 99, b""),
        (PROGRAM, 5, 0, b""),
        (PROGRAM, 2, 0, b""),
        (100_000, 2, 3, bytes(16)),
        (HUGE, HUGE, HUGE, b""),
        (PROGRAM, 3, 1, RECORD.pack(HUGE)),
        (PROGRAM, 3, 1, RECORD.pack(64) + bytes(60)),
        (PROGRAM, 3, 6, RECORD.pack(65) + bytes(68 + 12)),
        (100_005, 3, 1, RECORD.pack(HUGE)),
        (100_005, 3, 1, RECORD.pack(1025) + bytes(1028)),
    ],
)
def test_calls_that_make_no_sense_are_answered_so(
    tmp_path: Path, program: int, version: int, procedure: int, args: bytes
) -> None:
    async def body(rig: Rig) -> None:
        client = await rig.client()
        rpc = await client.stream()
        packer = Packer()
        packer.fixed(args)
        try:
            await rpc.call(program, version, procedure, client.credential, packer, timeout=60)
        except RpcError as error:
            assert "SYSTEM_ERR" not in str(error)
        assert rpc.alive
        await well(client)

    in_rig(tmp_path, body)


# --- plenty


def test_calls_that_nobody_takes_the_replies_of(tmp_path: Path) -> None:
    """As many small calls as a stream takes, and not a byte read: what waits here is about what came."""

    async def body(rig: Rig) -> None:
        client = await rig.client()
        null = record(rpc_call(b"", procedure=0))
        burst = null * ((1 << 20) // len(null))
        streams = [raw_stream(rig) for _ in range(8)]
        for ours, _ in streams:
            ours.other.stop_sending()
        tracemalloc.start()
        for ours, _ in streams:
            await ours.send(burst)
        await asyncio.sleep(1)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert peak < len(streams) * (len(burst) + (1 << 20)) + (8 << 20), f"{peak >> 20} MiB"
        await well(client)
        for ours, task in streams:
            ours.cut()
            await task

    in_rig(tmp_path, body)


def test_clients_without_number(tmp_path: Path) -> None:
    """EXCHANGE_ID under ever new names: what is kept of them is bounded, and those who work keep their state."""

    async def body(rig: Rig) -> None:
        assert rig.server is not None
        anne = await rig.client(b"anne")
        file = await made(anne, "file")
        mallory = RawClient(rig, b"mallory")
        tracemalloc.start()
        for number in range(limits.MAX_CLIENTS + 2000):
            mallory.owner = f"mallory {number}".encode()
            await mallory.exchange_id()
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert len(rig.server.clients) <= limits.MAX_CLIENTS
        assert peak < 64 << 20, f"{peak >> 20} MiB"
        await write(anne, file, b"still here")
        assert await read(anne, file) == (True, b"still here")
        await well(await rig.client(b"bert"))

    in_rig(tmp_path, body)


def test_sessions_without_number(tmp_path: Path) -> None:
    async def body(rig: Rig) -> None:
        mallory = await rig.client(b"mallory")
        made_ = 0
        for _ in range(limits.MAX_SESSIONS_PER_CLIENT + 50):
            try:
                await mallory.create_session()
                made_ += 1
            except Exception as error:
                assert "NOSPC" in str(error), error
                break
        assert made_ < limits.MAX_SESSIONS_PER_CLIENT
        await well(await rig.client(b"anne"))

    in_rig(tmp_path, body)


def test_opens_without_number(tmp_path: Path) -> None:
    """Each open file is a descriptor of the server. One client gets no more than half of them."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)

    async def body(rig: Rig) -> None:
        mallory, anne = await rig.client(b"mallory"), await rig.client(b"anne")
        found = Stat.OK
        count = 0
        while found is Stat.OK:
            count += 1
            assert count < 200
            operations = open_named(f"file {count}", how=unchecked(mode=0o600))
            found = await status(mallory, *operations)
        assert found is Stat.DELAY
        for number in range(40):
            await well(anne, f"anne's {number}")
            await made(anne, f"hers {number}")

    resource.setrlimit(resource.RLIMIT_NOFILE, (400, hard))
    try:
        in_rig(tmp_path, body, delegations=False)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_slot_caches_filled_to_the_brim(tmp_path: Path) -> None:
    """Replies as large as they may be, in every slot, kept."""

    async def body(rig: Rig) -> None:
        fore = replace(FORE, maxrequests=limits.MAX_SLOTS)
        mallory = await rig.client(b"mallory", fore=fore)
        file = await made(mallory, "file")
        await write(mallory, file, b"x" * 7000)
        tracemalloc.start()
        for _ in range(3):
            for slot in range(fore.maxrequests):
                await mallory.call(file.put, read_op(file.stateid, 0, 7000), slot=slot)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert peak < limits.MAX_SLOTS * limits.MAX_CACHED_RESPONSE * 2
        await well(await rig.client(b"anne"))

    in_rig(tmp_path, body)
