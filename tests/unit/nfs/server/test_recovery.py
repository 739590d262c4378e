"""The list of clients on disk (RFC 8881 §8.4.3)."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest

from quicfs.nfs import limits
from quicfs.nfs.server.recovery import Recovery

ALICE, BOB = ("CN=alice", 1000), ("", -1)


def known(directory: Path) -> dict[bytes, tuple[str, int]]:
    return Recovery(directory).known


def test_owners_are_there_after_a_restart_until_they_are_dropped(tmp_path: Path) -> None:
    async def main() -> None:
        recovery = Recovery(tmp_path / "state")
        await asyncio.gather(recovery.record(b"a\0\xff", ALICE), recovery.record(b"b", BOB))
        assert known(tmp_path / "state") == {b"a\0\xff": ALICE, b"b": BOB}
        await recovery.forget(b"a\0\xff", b"never heard of")
        assert known(tmp_path / "state") == {b"b": BOB}

    asyncio.run(main())


def test_an_owner_that_is_known_costs_no_write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        recovery = Recovery(tmp_path)
        await recovery.record(b"a", ALICE)
        synced: list[int] = []
        monkeypatch.setattr("os.fdatasync", synced.append)
        await recovery.record(b"a", ALICE)
        assert not synced
        await recovery.record(b"a", BOB)
        assert len(synced) == 1

    asyncio.run(main())


@pytest.mark.parametrize("cut", range(1, 37))
def test_half_a_line_was_never_acknowledged(tmp_path: Path, cut: int) -> None:
    async def main() -> None:
        recovery = Recovery(tmp_path)
        await recovery.record(b"a", ALICE)
        await recovery.record(b"b", BOB)

    asyncio.run(main())
    log = tmp_path / "clients.log"
    os.truncate(log, log.stat().st_size - cut)
    assert known(tmp_path) == {b"a": ALICE}
    assert log.read_bytes().endswith(b"\n")  # and the next line begins on its own


def test_lines_that_make_no_sense_are_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    Recovery(tmp_path)
    good = b'{"add": "61", "principal": ["", 5]}\n'
    (tmp_path / "clients.log").write_bytes(
        b"\xff\n[]\n{}\n" + good + b'{"add": "6"}\n7\n{"add": "62", "principal": 3}\n'
    )
    assert known(tmp_path) == {b"a": ("", 5)}
    assert caplog.text.count("makes no sense") == 6


def test_the_log_does_not_grow_for_ever(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "MAX_CLIENT_LINES", 20)

    async def main() -> None:
        recovery = Recovery(tmp_path)
        for number in range(100):
            await recovery.record(b"%d" % number, BOB)
            await recovery.forget(b"%d" % (number - 2))
            assert len((tmp_path / "clients.log").read_bytes().splitlines()) <= 21

    asyncio.run(main())
    assert set(known(tmp_path)) == {b"98", b"99"}


def test_each_start_has_a_number_and_the_server_one_name(tmp_path: Path) -> None:
    starts = [Recovery(tmp_path) for _ in range(3)]
    assert [recovery.epoch for recovery in starts] == [1, 2, 3]
    assert len({recovery.server_id for recovery in starts}) == 1
    assert Recovery(None).server_id != Recovery(None).server_id


def test_a_damaged_identity_is_said_so(tmp_path: Path) -> None:
    (tmp_path / "server.json").write_text("{}")
    with pytest.raises(OSError, match="damaged"):
        Recovery(tmp_path)


def test_failures_of_the_disk_reach_who_waits_and_are_made_good(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def main() -> None:
        recovery = Recovery(tmp_path)
        await recovery.record(b"a", ALICE)
        write = os.write

        def short(descriptor: int, data: bytes | memoryview) -> int:
            if b"62" in bytes(data):
                write(descriptor, data[:7])
                raise OSError(28, "No space left on device")
            return write(descriptor, data)

        with monkeypatch.context() as patch:
            patch.setattr("os.write", short)
            with pytest.raises(OSError, match="No space"):
                await recovery.record(b"b", BOB)
            assert b"b" not in recovery.known
        await recovery.record(b"c", BOB)
        assert known(tmp_path) == {b"a": ALICE, b"c": BOB}

    asyncio.run(main())
