"""NFSv3 and MOUNT (RFC 1813): bytes written by hand from the definitions."""

from __future__ import annotations

import pytest

from quicfs.nfs.v3 import mount3, nfs3
from quicfs.nfs.v3.types import (
    DirOpArgs,
    Fattr,
    FileType,
    Sattr,
    SpecData,
    Stat,
    WccAttr,
    WccData,
)
from quicfs.nfs.xdr import PackedChain, Packer, Struct, Unpacker, XdrError
from quicfs.vfs import NOW

SECOND = 1_000_000_000
ATTR = Fattr(
    FileType.REG, 0o644, 1, 1000, 100, 5, 4096, SpecData(0, 0), 7, 42, SECOND, 2 * SECOND + 3, 3 * SECOND
)
ATTR_BYTES = (
    "00000001 000001a4 00000001 000003e8 00000064 00000000 00000005 00000000 00001000"
    "00000000 00000000 00000000 00000007 00000000 0000002a"
    "00000001 00000000 00000002 00000003 00000003 00000000"
)


def packed(value: Struct) -> bytes:
    packer = Packer()
    value.pack(packer)
    return packer.getvalue()


def result(number: int, status: int, value: Struct | None, program: object = nfs3) -> bytes:
    packer = Packer()
    program.PROCEDURES[number].pack_result(packer, status, value)  # type: ignore[attr-defined]
    return packer.getvalue()


def test_getattr() -> None:
    raw = result(1, Stat.OK, nfs3.GetattrOk(ATTR))
    assert raw == bytes.fromhex("00000000" + ATTR_BYTES)
    assert len(packed(ATTR)) == 84
    assert nfs3.PROCEDURES[1].unpack_result(Unpacker(raw)) == (Stat.OK, nfs3.GetattrOk(ATTR))


def test_a_failure_carries_attributes() -> None:
    raw = result(3, Stat.NOENT, nfs3.Attributes(ATTR))
    assert raw == bytes.fromhex("00000002 00000001" + ATTR_BYTES)
    assert result(1, Stat.STALE, None).hex() == "00000046"


def test_setattr() -> None:
    args = nfs3.SetattrArgs(b"fh", Sattr(mode=0o600, size=1, atime=NOW, mtime=SECOND + 1), 5 * SECOND)
    raw = bytes.fromhex(
        "00000002 66680000"
        "00000001 00000180 00000000 00000000 00000001 00000000 00000001"
        "00000001 00000002 00000001 00000001"
        "00000001 00000005 00000000"
    )
    assert packed(args) == raw
    assert nfs3.SetattrArgs.unpack(Unpacker(raw)) == args


def test_write() -> None:
    raw = bytes.fromhex("00000002 66680000 00000000 00000010 00000003 00000002 00000003 61626300")
    args = nfs3.WriteArgs.unpack(Unpacker(raw))
    assert (args.file, args.offset, args.count, args.stable, bytes(args.data)) == (b"fh", 16, 3, 2, b"abc")
    wcc = WccData(WccAttr(1, SECOND, SECOND), None)
    assert result(7, Stat.OK, nfs3.WriteOk(wcc, 3, args.stable, b"verifier")) == bytes.fromhex(
        "00000000 00000001 00000000 00000001 00000001 00000000 00000001 00000000 00000000"
        "00000003 00000002 7665726966696572"
    )


def test_create_exclusively() -> None:
    raw = bytes.fromhex("00000002 66680000 00000001 61000000 00000002 0102030405060708")
    args = nfs3.CreateArgs.unpack(Unpacker(raw))
    assert args.where == DirOpArgs(b"fh", "a")
    assert args.how.verf == bytes(range(1, 9))
    assert packed(args) == raw


def test_times_that_do_not_fit() -> None:
    for time, expected in ((-5, "00000000 00000000"), (1 << 70, "ffffffff 3b9ac9ff")):
        raw = packed(WccAttr(0, time, 0))
        assert raw[8:16].hex(" ", 4) == expected


def test_readdirplus() -> None:
    entries = PackedChain(200)
    one = nfs3.EntryPlus(42, "name", 3, None, b"fh")
    assert entries.append(one)
    raw = result(17, Stat.OK, nfs3.ReaddirplusOk(None, bytes(8), entries, True))
    assert raw == bytes.fromhex(
        "00000000 00000000 00000000 00000000"
        "00000001 00000000 0000002a 00000004 6e616d65 00000000 00000003 00000000 00000001 00000002 66680000"
        "00000000 00000001"
    )
    _, found = nfs3.PROCEDURES[17].unpack_result(Unpacker(raw))
    assert found.entries == [one]
    assert len(packed(nfs3.ReaddirplusOk(ATTR, bytes(8), [], True))) == nfs3.READDIR_OVERHEAD


def test_all_procedures() -> None:
    assert sorted(nfs3.PROCEDURES) == list(range(22))
    assert sorted(mount3.PROCEDURES) == list(range(6))


def test_mount() -> None:
    assert mount3.PathArgs.unpack(Unpacker(bytes.fromhex("00000002 2f610000"))).path == "/a"
    assert result(1, 0, mount3.MntOk(b"fh", [1, 0]), mount3) == bytes.fromhex(
        "00000000 00000002 66680000 00000002 00000001 00000000"
    )
    assert result(1, mount3.MountStat.ACCES, None, mount3).hex() == "0000000d"
    exports = mount3.ExportRes([mount3.ExportNode("/a", [mount3.Group("*")])])
    assert result(5, 0, exports, mount3) == bytes.fromhex(
        "00000001 00000002 2f610000 00000001 00000001 2a000000 00000000 00000000"
    )
    assert mount3.PROCEDURES[5].unpack_result(Unpacker(result(5, 0, exports, mount3))) == (0, exports)


@pytest.mark.parametrize("raw", ["00001234", "", "00000001"])
def test_no_such_status(raw: str) -> None:
    with pytest.raises(XdrError):
        nfs3.PROCEDURES[3].unpack_result(Unpacker(bytes.fromhex(raw)))


def test_results_of_another_procedure_are_a_bug() -> None:
    with pytest.raises(TypeError):
        result(1, Stat.OK, nfs3.Attributes(ATTR))
