"""Calls and replies byte for byte (RFC 5531 §9)."""

from __future__ import annotations

import pytest

from quicfs.nfs.rpc.message import (
    AcceptStat,
    AuthNone,
    AuthStat,
    AuthSys,
    Credential,
    RejectStat,
    RpcFault,
    accepted_header,
    call_header,
    fault_reply,
    peek,
    unpack_call,
    unpack_reply,
)
from quicfs.nfs.xdr import XdrError

CREDENTIAL = AuthSys(1, "desk", 1000, 100, (4, 24))
# xid 0x11223344, call, RPC 2, NFS 4, COMPOUND; AUTH_SYS of 32 bytes; verifier NONE
CALL = bytes.fromhex(
    "11223344 00000000 00000002 000186a3 00000004 00000001"
    "00000001 00000020 00000001 00000004 6465736b 000003e8 00000064 00000002 00000004 00000018"
    "00000000 00000000"
)


def test_a_call() -> None:
    assert len(CALL) == 72
    assert call_header(0x11223344, 100003, 4, 1, CREDENTIAL) == CALL
    call = unpack_call(memoryview(CALL + b"args"))
    assert (call.xid, call.program, call.version, call.procedure) == (0x11223344, 100003, 4, 1)
    assert call.credential == CREDENTIAL
    assert call.args.remaining == 4


@pytest.mark.parametrize(
    "credential",
    [AuthNone(), CREDENTIAL, AuthSys(0xFFFFFFFF, "", 0, 0), AuthSys(0, "a" * 255, 1, 2, (3,) * 16)],
)
def test_credentials(credential: Credential) -> None:
    call = unpack_call(memoryview(call_header(1, 2, 3, 4, credential)))
    assert call.credential == credential
    call.args.done()


@pytest.mark.parametrize("credential", [AuthSys(0, "a" * 256, 1, 2), AuthSys(0, "a", 1, 2, (3,) * 17)])
def test_credentials_that_do_not_fit(credential: Credential) -> None:
    with pytest.raises(XdrError):
        call_header(1, 2, 3, 4, credential)


@pytest.mark.parametrize(
    ("at", "value", "stat"),
    [
        (8, 3, RejectStat.RPC_MISMATCH),
        (24, 6, AuthStat.BADCRED),
        (28, 401, AuthStat.BADCRED),
        (28, 0xFFFFFFFF, AuthStat.BADCRED),
        (36, 256, AuthStat.BADCRED),
        (52, 17, AuthStat.BADCRED),
        (52, 1, AuthStat.BADCRED),
        (68, 401, AuthStat.BADVERF),
    ],
)
def test_calls_that_are_denied(at: int, value: int, stat: AuthStat | RejectStat) -> None:
    changed = bytearray(CALL)
    changed[at : at + 4] = value.to_bytes(4, "big")
    with pytest.raises(RpcFault) as caught:
        unpack_call(memoryview(changed))
    assert caught.value.stat is stat


@pytest.mark.parametrize("size", range(0, len(CALL), 4))
def test_calls_that_end_too_early(size: int) -> None:
    with pytest.raises(XdrError):
        unpack_call(memoryview(CALL[:size]))


def test_a_success() -> None:
    reply = unpack_reply(memoryview(accepted_header(7) + b"okay"))
    assert (reply.xid, reply.fault, reply.results.remaining) == (7, None, 4)
    assert peek(memoryview(accepted_header(7))) == (7, 1)


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        (RpcFault(AcceptStat.PROG_UNAVAIL), "00000000 00000000 00000000 00000001"),
        (RpcFault(AcceptStat.PROG_MISMATCH, 3, 4), "00000000 00000000 00000000 00000002 00000003 00000004"),
        (RpcFault(AcceptStat.GARBAGE_ARGS), "00000000 00000000 00000000 00000004"),
        (RpcFault(RejectStat.RPC_MISMATCH, 2, 2), "00000001 00000000 00000002 00000002"),
        (RpcFault(AuthStat.TOOWEAK), "00000001 00000001 00000005"),
    ],
)
def test_faults(fault: RpcFault, words: str) -> None:
    packed = fault_reply(9, fault)
    assert packed == bytes.fromhex("00000009 00000001" + words)
    reply = unpack_reply(memoryview(packed))
    assert reply.fault is not None
    assert (reply.fault.stat, reply.fault.low, reply.fault.high) == (fault.stat, fault.low, fault.high)
    reply.results.done()


@pytest.mark.parametrize(
    "words",
    [
        "",
        "00000002",
        "00000000 00000000 00000191",
        "00000000 00000000 00000000 00000009",
        "00000001 00000001 00000063",
    ],
)
def test_replies_that_make_no_sense(words: str) -> None:
    with pytest.raises(XdrError):
        unpack_reply(memoryview(bytes.fromhex("00000009 00000001" + words)))
