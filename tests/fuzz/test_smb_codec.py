"""Whatever bytes come: a parser of SMB returns or raises SmbProtocolError, in reasonable time."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quicfs.smb.errors import SmbProtocolError
from quicfs.smb.fscc import file_info, filesystem, posix, reparse, security
from quicfs.smb.fscc.directory import ENTRY_PACKERS, parse_entries
from quicfs.smb.fscc.sid import Sid
from quicfs.smb.messages import create_contexts, validate
from quicfs.smb.messages.change_notify import ChangeNotifyRequest, parse_notifications
from quicfs.smb.messages.close import CloseRequest, CloseResponse, FlushRequest
from quicfs.smb.messages.create import CreateRequest, CreateResponse
from quicfs.smb.messages.error import ErrorResponse, SymlinkError
from quicfs.smb.messages.header import Header, split_compound
from quicfs.smb.messages.info import QueryInfoRequest, SetInfoRequest
from quicfs.smb.messages.ioctl import IoctlRequest, IoctlResponse
from quicfs.smb.messages.lock import LockRequest
from quicfs.smb.messages.negotiate import NegotiateRequest, NegotiateResponse, parse_smb1_negotiate
from quicfs.smb.messages.negotiate_contexts import NegotiateContexts
from quicfs.smb.messages.oplock import LeaseBreakAck, LeaseBreakNotification, OplockBreak
from quicfs.smb.messages.output import parse_output
from quicfs.smb.messages.query_directory import QueryDirectoryRequest
from quicfs.smb.messages.read import ReadRequest, parse_read_response
from quicfs.smb.messages.session import SessionSetupRequest, SessionSetupResponse
from quicfs.smb.messages.simple import check_empty
from quicfs.smb.messages.tree import TreeConnectRequest, TreeConnectResponse
from quicfs.smb.messages.write import WriteRequest, parse_write_response
from quicfs.smb.server.wildcard import matcher
from quicfs.smb.transform import Opener, transform_session_id

Parser = Callable[[memoryview], Any]

# With the StructureSize that gets a body past the first check.
MESSAGES: list[tuple[Parser, int]] = [
    (NegotiateRequest.parse, 36),
    (NegotiateResponse.parse, 65),
    (SessionSetupRequest.parse, 25),
    (SessionSetupResponse.parse, 9),
    (TreeConnectRequest.parse, 9),
    (TreeConnectResponse.parse, 16),
    (CreateRequest.parse, 57),
    (CreateResponse.parse, 89),
    (CloseRequest.parse, 24),
    (CloseResponse.parse, 60),
    (FlushRequest.parse, 24),
    (ReadRequest.parse, 49),
    (parse_read_response, 17),
    (WriteRequest.parse, 49),
    (parse_write_response, 17),
    (LockRequest.parse, 48),
    (IoctlRequest.parse, 57),
    (IoctlResponse.parse, 49),
    (QueryDirectoryRequest.parse, 33),
    (parse_output, 9),
    (ChangeNotifyRequest.parse, 32),
    (QueryInfoRequest.parse, 41),
    (SetInfoRequest.parse, 33),
    (OplockBreak.parse, 24),
    (LeaseBreakNotification.parse, 44),
    (LeaseBreakAck.parse, 36),
    (ErrorResponse.parse, 9),
    (check_empty, 4),
]
STRUCTURES: list[Parser] = [
    Header.parse,
    lambda data: list(split_compound(data, 16)),
    parse_smb1_negotiate,
    lambda data: NegotiateContexts.parse(data, 0, 8),
    create_contexts.parse_contexts,
    create_contexts.PosixCreateResponse.parse,
    create_contexts.MaximalAccess.parse,
    create_contexts.parse_on_disk_id,
    SymlinkError.parse,
    parse_notifications,
    validate.ValidateNegotiateRequest.parse,
    security.SecurityDescriptor.parse,
    lambda data: Sid.parse(data, 0),
    reparse.parse_symlink,
    posix.PosixInfo.parse,
    posix.PosixFsInfo.parse,
    file_info.AllInfo.parse,
    file_info.RenameInfo.parse,
    file_info.parse_streams,
    file_info.parse_name,
    filesystem.FsVolumeInfo.parse,
    filesystem.FsAttributeInfo.parse,
    lambda data: (transform_session_id(data), Opener(2, bytes(16)).open(data)),
    *[lambda data, kind=kind: list(parse_entries(kind, data)) for kind in ENTRY_PACKERS],
]


def survives(parse: Parser, data: bytes) -> None:
    try:
        parse(memoryview(data))
    except SmbProtocolError:
        pass


@pytest.mark.parametrize(("parse", "size"), MESSAGES)
def test_messages(parse: Parser, size: int) -> None:
    @settings(max_examples=150, deadline=None)
    @given(st.binary(max_size=200), st.booleans())
    def run(data: bytes, honest: bool) -> None:
        body = size.to_bytes(2, "little") + data if honest else data
        survives(parse, Header(0, 0).pack() + body)

    run()


@pytest.mark.parametrize("parse", STRUCTURES)
def test_structures(parse: Parser) -> None:
    @settings(max_examples=150, deadline=None)
    @given(
        st.binary(max_size=200),
        st.sampled_from([b"", b"\xfeSMB@\0", b"\xfdSMB", b"\x01\0\x04\x80", b"\x0c\0\0\xa0"]),
    )
    def run(data: bytes, start: bytes) -> None:
        survives(parse, start + data)

    run()


@settings(max_examples=300, deadline=None)
@given(st.text('ab.*?<>"', max_size=40), st.text("ab.", max_size=60))
def test_patterns_end(pattern: str, name: str) -> None:
    matcher(pattern, fold_case=True)(name)
