"""Every message: written, read back, equal; and the bytes that Samba sent."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from quicfs.smb.errors import SmbProtocolError
from quicfs.smb.fscc.sid import Sid, gid_sid, uid_sid
from quicfs.smb.messages import create_contexts
from quicfs.smb.messages.change_notify import ChangeNotifyRequest, pack_notifications, parse_notifications
from quicfs.smb.messages.close import CloseRequest, CloseResponse, FlushRequest
from quicfs.smb.messages.create import CreateRequest, CreateResponse
from quicfs.smb.messages.error import ERROR_BODY, ErrorResponse, SymlinkError
from quicfs.smb.messages.header import (
    ASYNC_COMMAND,
    RELATED_OPERATIONS,
    Command,
    Header,
    split_compound,
)
from quicfs.smb.messages.info import QueryInfoRequest, SetInfoRequest
from quicfs.smb.messages.ioctl import IoctlRequest, IoctlResponse
from quicfs.smb.messages.lock import LockElement, LockRequest
from quicfs.smb.messages.negotiate import (
    Dialect,
    NegotiateRequest,
    NegotiateResponse,
    parse_smb1_negotiate,
)
from quicfs.smb.messages.negotiate_contexts import NegotiateContexts
from quicfs.smb.messages.oplock import LeaseBreakAck, LeaseBreakNotification, OplockBreak
from quicfs.smb.messages.output import pack_output, parse_output
from quicfs.smb.messages.query_directory import QueryDirectoryRequest
from quicfs.smb.messages.read import ReadRequest, pack_read_response, parse_read_response
from quicfs.smb.messages.session import SessionSetupRequest, SessionSetupResponse
from quicfs.smb.messages.simple import EMPTY_BODY, check_empty
from quicfs.smb.messages.tree import TreeConnectRequest, TreeConnectResponse
from quicfs.smb.messages.write import WriteRequest, pack_write_response, parse_write_response

VECTORS = Path(__file__).parents[2] / "vectors"
FILE_ID = bytes(range(16))
GUID = bytes(range(16, 32))


def message(body: bytes) -> memoryview:
    return memoryview(Header(0, 1).pack() + body)


CONTEXTS = NegotiateContexts((1,), b"salt" * 8, (2, 4), (2, 1), "häus.example", 1, True)

ROUND_TRIPS: list[Any] = [
    NegotiateRequest((0x0202, 0x0311), GUID, 1, 0x7F, CONTEXTS),
    NegotiateRequest((0x0202, 0x0210), GUID),
    NegotiateResponse(0x0311, GUID, b"token", 3, 4, 1 << 23, 1 << 23, 1 << 23, 123456789, CONTEXTS),
    NegotiateResponse(0x0302, GUID, b""),
    SessionSetupRequest(b"ntlmssp", 1, 2, 1, 77),
    SessionSetupResponse(4, b"challenge"),
    TreeConnectRequest("\\\\server\\shäre"),
    TreeConnectResponse(1, 0x30, 0, 0x1F01FF),
    CreateRequest("dir\\näme", 0x120089, 7, 1, 0x40, 0x80, 2, 0, {b"MxAc": b"", b"QFid": b""}),
    CreateRequest("", 1, 7, 1),
    CreateResponse(FILE_ID, 1, 2, 3, 4, 5, 6, 7, 16, 0, 1, {b"MxAc": bytes(8), b"12345": b"abc"}),
    CreateResponse(FILE_ID, 1, 2, 3, 4, 5, 6, 7, 16),
    CloseRequest(FILE_ID, 1),
    CloseResponse(1, 2, 3, 4, 5, 6, 7, 8),
    FlushRequest(FILE_ID),
    ReadRequest(FILE_ID, 1 << 40, 1 << 23, 5),
    LockRequest(FILE_ID, [LockElement(0, 1 << 63, 2), LockElement(5, 6, 0x14)], 9),
    IoctlRequest(0x0011C017, FILE_ID, b"input", 0, 1024),
    IoctlResponse(0x0011C017, FILE_ID, b"output"),
    QueryDirectoryRequest(FILE_ID, 37, "*.tx?", 1 << 16, 1),
    ChangeNotifyRequest(FILE_ID, 0xFFF, 4096, 1),
    QueryInfoRequest(FILE_ID, 1, 18, 4096, 7, 0, b"input"),
    QueryInfoRequest(FILE_ID, 2, 5),
    SetInfoRequest(FILE_ID, 1, 4, b"x" * 40, 3),
    OplockBreak(FILE_ID, 1),
    LeaseBreakNotification(GUID, 7, 1, 1, 3),
    LeaseBreakAck(GUID, 1),
]


@pytest.mark.parametrize("original", ROUND_TRIPS, ids=lambda m: type(m).__name__)
def test_what_is_written_is_read_back(original: Any) -> None:
    parsed = type(original).parse(message(original.pack()))
    assert parsed == original


@pytest.mark.parametrize("original", ROUND_TRIPS, ids=lambda m: type(m).__name__)
def test_a_cut_message_is_an_error_or_says_less_but_never_raises_anything_else(original: Any) -> None:
    whole = message(original.pack())
    for length in range(len(whole)):
        try:
            type(original).parse(whole[:length])
        except SmbProtocolError:
            pass


def test_write_and_read_carry_their_data_apart() -> None:
    data = b"payload" * 100
    request = WriteRequest(FILE_ID, 7, data, 1)
    assert WriteRequest.parse(message(request.pack_head() + data)) == request
    assert parse_write_response(message(pack_write_response(700))) == 700
    assert parse_read_response(message(pack_read_response(len(data)) + data)) == data
    assert parse_output(message(pack_output(data))) == data
    assert len(parse_output(message(pack_output(b"")))) == 0


def test_a_write_that_claims_more_than_it_brings() -> None:
    head = WriteRequest(FILE_ID, 0, bytes(1000)).pack_head()
    with pytest.raises(SmbProtocolError):
        WriteRequest.parse(message(head + bytes(999)))


def test_empty_bodies() -> None:
    check_empty(message(EMPTY_BODY))
    with pytest.raises(SmbProtocolError):
        check_empty(message(b"\x05\0\0\0"))


def test_both_headers() -> None:
    sync = Header(Command.READ, 5, 6, 7, 0, 0xC0000022, 1, 3, 4, 0, bytes(range(16)))
    assert Header.parse(memoryview(sync.pack())) == sync
    later = Header(Command.READ, 5, 6, 0, 1 << 40 | 3, 0x103, ASYNC_COMMAND | 1, 3, 4)
    assert Header.parse(memoryview(later.pack())) == later
    assert sync.pack()[:12] == bytes.fromhex("fe534d424000030022 0000c0".replace(" ", ""))


def test_compounds_are_split() -> None:
    one = Header(Command.CREATE, 1, next_command=72).pack() + bytes(8)
    two = Header(Command.CLOSE, 2, flags=RELATED_OPERATIONS).pack() + b"tail"
    parts = list(split_compound(memoryview(one + two), 4))
    assert [(h.command, h.message_id, len(m)) for h, m in parts] == [(5, 1, 72), (6, 2, 68)]


@pytest.mark.parametrize("next_command", [1, 63, 66, 72, 1 << 20, 0xFFFFFFF8])
def test_bad_next_command(next_command: int) -> None:
    packet = Header(Command.ECHO, 1, next_command=next_command).pack() + bytes(8)
    with pytest.raises(SmbProtocolError):
        list(split_compound(memoryview(packet), 4))


def test_endless_compound() -> None:
    packet = Header(Command.ECHO, 1, next_command=64).pack() * 100
    with pytest.raises(SmbProtocolError, match="more than 8"):
        list(split_compound(memoryview(packet), 8))


def test_negotiate_of_smbclient() -> None:
    raw = bytes.fromhex((VECTORS / "smbclient-noenc-stream0-first.hex").read_text())[4:]
    request = NegotiateRequest.parse(memoryview(raw))
    assert Dialect.SMB_3_1_1 in request.dialects
    contexts = request.contexts
    assert contexts is not None
    assert contexts.hash_algorithms == (1,)
    assert contexts.transport_flags == 1
    assert contexts.netname == "klab.test"
    assert contexts.posix
    assert contexts.ciphers == (2, 1, 4, 3)
    assert contexts.signing_algorithms == (2, 1, 0)


def test_negotiate_answer_of_smbd() -> None:
    raw = bytes.fromhex((VECTORS / "smbd-negotiate-response.hex").read_text())[4:]
    response = NegotiateResponse.parse(memoryview(raw))
    assert response.dialect == 0x0311
    assert response.max_read_size == 8 << 20
    assert response.contexts is not None
    assert response.contexts.ciphers == (2,)
    assert response.contexts.posix
    # Written again it means the same (the order of contexts is ours).
    assert NegotiateResponse.parse(message(response.pack())) == response


def test_negotiate_contexts_twice() -> None:
    count, packed = NegotiateContexts(ciphers=(2,)).pack()
    twice = packed + bytes(-len(packed) % 8) + packed
    with pytest.raises(SmbProtocolError, match="twice"):
        NegotiateContexts.parse(memoryview(twice), 0, 2 * count)


def test_smb1_negotiate() -> None:
    dialects = b"\x02NT LM 0.12\0\x02SMB 2.002\0\x02SMB 2.???\0"
    packet = b"\xffSMB\x72" + bytes(27) + b"\0" + len(dialects).to_bytes(2, "little") + dialects
    assert parse_smb1_negotiate(memoryview(packet)) == [b"NT LM 0.12", b"SMB 2.002", b"SMB 2.???"]
    for length in range(len(packet)):
        with pytest.raises(SmbProtocolError):
            parse_smb1_negotiate(memoryview(packet)[:length])


def test_error_bodies() -> None:
    assert ErrorResponse.parse(message(ERROR_BODY)) == ErrorResponse()
    link = SymlinkError(10, "..\\target", "..\\target", True)
    for contexts in (False, True):
        error = ErrorResponse(link.pack())
        parsed = ErrorResponse.parse(message(error.pack(contexts=contexts)))
        assert SymlinkError.parse(memoryview(parsed.data)) == link


def test_posix_create_context() -> None:
    response = create_contexts.PosixCreateResponse(2, 0, 0o755, uid_sid(1000), gid_sid(100))
    assert create_contexts.PosixCreateResponse.parse(memoryview(response.pack())) == response
    assert create_contexts.parse_posix_mode(memoryview(create_contexts.pack_posix_mode(0o640))) == 0o640
    assert str(uid_sid(1000)) == "S-1-5-88-1-1000"
    assert Sid.parse(memoryview(uid_sid(7).pack()), 0) == (uid_sid(7), 20)


@pytest.mark.parametrize("next_", [1, 8, 0xFFFFFFF8, 0x18])
def test_bad_create_contexts(next_: int) -> None:
    data = next_.to_bytes(4, "little") + bytes.fromhex("1000 0400 0000 0000 00000000") + b"MxAc" + bytes(4)
    with pytest.raises(SmbProtocolError):
        create_contexts.parse_contexts(memoryview(data))


def test_notifications() -> None:
    changes = [(1, "neu"), (3, "dir\\geändert"), (2, "x")]
    assert parse_notifications(memoryview(pack_notifications(changes))) == changes
    assert parse_notifications(memoryview(b"")) == []
