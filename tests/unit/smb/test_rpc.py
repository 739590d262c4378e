"""The srvsvc pipe, driven by impacket's own client."""

from __future__ import annotations

import struct
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from impacket.dcerpc.v5 import rpcrt, srvs
from impacket.dcerpc.v5.dtypes import NULL

from quicfs.smb.errors import SmbError
from quicfs.smb.rpc import NDR, SRVSVC, PduType, ShareEntry, SrvsvcPipe, bind_request, pack_pdu, parse_pdu

SHARES = [
    ShareEntry("share", ShareEntry.DISK, "a folder"),
    ShareEntry("Фото", ShareEntry.DISK),
    ShareEntry("IPC$", ShareEntry.IPC | ShareEntry.SPECIAL, "IPC Service"),
]


def pipe(shares: list[ShareEntry] | None = None) -> SrvsvcPipe:
    return SrvsvcPipe(SHARES if shares is None else shares, "server", "comment")


class Transport:
    """What impacket's DCERPC_v5 wants of a transport."""

    def __init__(self, end: SrvsvcPipe) -> None:
        self.end = end

    def connect(self) -> None: ...

    def send(self, data: bytes, forceWriteAndx: int = 0, forceRecv: int = 0) -> None:
        self.end.write(data)

    def recv(self, forceRecv: int = 0, count: int = 0) -> bytes:
        return self.end.read(count or 65536)

    def get_credentials(self) -> tuple[str, ...]:
        return ("",) * 6

    def set_hostname(self, name: str) -> None: ...

    def get_socket(self) -> None: ...


def client(end: SrvsvcPipe) -> Any:
    dce = rpcrt.DCERPC_v5(Transport(end))
    dce.bind(srvs.MSRPC_UUID_SRVS)
    return dce


def test_impacket_lists_the_shares() -> None:
    answer = srvs.hNetrShareEnum(client(pipe()), 1)
    found = answer["InfoStruct"]["ShareInfo"]["Level1"]["Buffer"]
    assert [
        (share["shi1_netname"][:-1], share["shi1_type"], share["shi1_remark"][:-1]) for share in found
    ] == [(share.name, share.kind, share.remark) for share in SHARES]
    assert answer["TotalEntries"] == len(SHARES)


def test_level_0() -> None:
    answer = srvs.hNetrShareEnum(client(pipe()), 0)
    found = answer["InfoStruct"]["ShareInfo"]["Level0"]["Buffer"]
    assert [share["shi0_netname"][:-1] for share in found] == ["share", "Фото", "IPC$"]


@pytest.mark.parametrize(("level", "code"), [(502, 5), (2, 5), (503, 5), (501, 124)])
def test_levels_that_are_refused(level: int, code: int) -> None:
    with pytest.raises(rpcrt.DCERPCException) as caught:
        srvs.hNetrShareEnum(client(pipe()), level)
    assert caught.value.get_error_code() == code


def test_no_shares() -> None:
    answer = srvs.hNetrShareEnum(client(pipe([])), 1)
    assert answer["TotalEntries"] == 0


def test_many_shares_come_in_fragments() -> None:
    many = [ShareEntry(f"share{i}", 0, "x" * 40) for i in range(500)]
    answer = srvs.hNetrShareEnum(client(pipe(many)), 1)
    found = answer["InfoStruct"]["ShareInfo"]["Level1"]["Buffer"]
    assert [share["shi1_netname"][:-1] for share in found] == [share.name for share in many]


@pytest.mark.parametrize("level", [0, 1, 2])
def test_one_share(level: int) -> None:
    answer = srvs.hNetrShareGetInfo(client(pipe()), "SHARE\0", level)
    assert answer["InfoStruct"][f"ShareInfo{level}"][f"shi{level}_netname"] == "share\0"


@pytest.mark.parametrize(
    ("name", "level", "code"), [("none", 1, 2310), ("share", 502, 5), ("share", 77, 124)]
)
def test_one_share_refused(name: str, level: int, code: int) -> None:
    request = srvs.NetrShareGetInfo()
    request["ServerName"] = NULL
    request["NetName"] = f"{name}\0"
    request["Level"] = level
    with pytest.raises(rpcrt.DCERPCException) as caught:
        client(pipe()).request(request)
    assert caught.value.get_error_code() == code


def test_server_info() -> None:
    answer = srvs.hNetrServerGetInfo(client(pipe()), 101)
    info = answer["InfoStruct"]["ServerInfo101"]
    assert (info["sv101_name"], info["sv101_comment"]) == ("server\0", "comment\0")
    with pytest.raises(rpcrt.DCERPCException):
        srvs.hNetrServerGetInfo(client(pipe()), 102)


def test_other_calls_and_broken_stubs_are_faults() -> None:
    end = pipe()
    client(end)
    for operation, stub, status in ((9, b"", 0x1C010002), (15, b"\xff" * 7, 0x6F7)):
        answer = end.transact(pack_pdu(PduType.REQUEST, 7, struct.pack("<IHH", 0, 0, operation) + stub))
        parsed = parse_pdu(answer)
        assert parsed
        assert (parsed[0].kind, parsed[0].call_id) == (PduType.FAULT, 7)
        assert struct.unpack_from("<I", parsed[0].body, 8)[0] == status


def test_a_call_before_binding_is_a_fault() -> None:
    answer = pipe().transact(pack_pdu(PduType.REQUEST, 1, struct.pack("<IHH", 0, 0, 15)))
    parsed = parse_pdu(answer)
    assert parsed
    assert parsed[0].kind == PduType.FAULT


def test_other_interfaces_are_rejected_and_ours_accepted() -> None:
    contexts = struct.pack("<HBx20s", 0, 1, bytes(20)) + NDR
    contexts += struct.pack("<HBx20s", 1, 1, SRVSVC) + bytes(20)
    contexts += struct.pack("<HBx20s", 2, 2, SRVSVC) + bytes(20) + NDR
    body = struct.pack("<HHIBxxx", 4280, 4280, 0, 3) + contexts
    for kind, ack in (
        (PduType.BIND, PduType.BIND_ACK),
        (PduType.ALTER_CONTEXT, PduType.ALTER_CONTEXT_RESP),
    ):
        parsed = parse_pdu(pipe().transact(pack_pdu(kind, 1, body)))
        assert parsed
        assert parsed[0].kind == ack
        results = parsed[0].body[-3 * 24 :]
        assert [struct.unpack_from("<HH", results, 24 * i) for i in range(3)] == [(2, 1), (2, 2), (0, 0)]


def test_messages_are_read_one_by_one_and_piece_by_piece() -> None:
    end = pipe()
    data = bind_request(1)
    end.write(data[:10])
    assert end.readable == 0
    end.write(data[10:])
    size = end.readable
    assert size
    first = end.read(10)
    assert (len(first), end.readable) == (10, size - 10)
    assert len(end.read(1000)) == size - 10
    assert end.read(1000) == b""


@pytest.mark.parametrize(
    "data",
    [
        b"\x04\x00\x0b\x03" + bytes(20),
        pack_pdu(PduType.BIND, 1, b"xx"),
        pack_pdu(PduType.BIND, 1, struct.pack("<HHIBxxx", 0, 0, 0, 255)),
        pack_pdu(PduType.BIND, 1, struct.pack("<HHIBxxx", 0, 0, 0, 2)),
        pack_pdu(PduType.RESPONSE, 1, bytes(20)),
        pack_pdu(PduType.REQUEST, 1, b"x"),
        pack_pdu(PduType.REQUEST, 1, bytes(8), flags=0),
        struct.pack("<BBBBIHHI", 5, 0, 0, 3, 0x10, 8, 0, 1),
        struct.pack("<BBBBIHHI", 5, 0, 0, 3, 0x10, 16, 99, 1),
    ],
)
def test_what_is_no_rpc_breaks_the_pipe(data: bytes) -> None:
    with pytest.raises(SmbError, match="DCE/RPC"):
        pipe().write(data)


def test_calls_are_bounded() -> None:
    end = pipe()
    fragment = pack_pdu(PduType.REQUEST, 1, bytes(60000), flags=1)
    end.write(fragment)
    with pytest.raises(SmbError, match="more than"):
        end.write(pack_pdu(PduType.REQUEST, 1, bytes(60000), flags=0))


@given(st.data())
def test_nothing_else_is_raised_on_noise(data: st.DataObject) -> None:
    end = pipe()
    end.transact(bind_request(1))
    request = srvs.NetrShareEnum()
    request["ServerName"] = NULL
    request["InfoStruct"]["Level"] = 1
    request["InfoStruct"]["ShareInfo"]["tag"] = 1
    request["InfoStruct"]["ShareInfo"]["Level1"]["Buffer"] = NULL
    request["PreferedMaximumLength"] = 0xFFFFFFFF
    stub = bytearray(request.getData())
    for _ in range(data.draw(st.integers(1, 4))):
        stub[data.draw(st.integers(0, len(stub) - 1))] = data.draw(st.integers(0, 255))
    del stub[data.draw(st.integers(0, len(stub))) :]
    end.write(pack_pdu(PduType.REQUEST, 1, struct.pack("<IHH", 0, 0, data.draw(st.integers(14, 22))) + stub))
    assert end.read(65536)
