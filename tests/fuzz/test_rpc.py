"""RPC and hostile input: whatever comes, an answer or the end of the stream, and never an exception."""

from __future__ import annotations

import asyncio
import struct

from hypothesis import given, settings
from hypothesis import strategies as st

from quicfs.nfs.rpc.client import RpcClient, RpcError, RpcLost
from quicfs.nfs.rpc.message import AuthNone, AuthSys, RpcFault, call_header, unpack_call, unpack_reply
from quicfs.nfs.rpc.service import Peer, serve
from quicfs.nfs.xdr import XdrError
from tests.unit.nfs.rpc.streams import Echo, opaque, stream_pair

CALL = (
    call_header(7, Echo.number, 2, 1, AuthSys(1, "desk", 1000, 100, (4, 24)))
    + struct.pack(">I", 8)
    + bytes(8)
)


@settings(max_examples=400, deadline=None)
@given(data=st.binary(max_size=300))
def test_messages(data: bytes) -> None:
    for unpack in (unpack_call, unpack_reply):
        try:
            unpack(memoryview(data))
        except (XdrError, RpcFault):
            pass


@settings(max_examples=400, deadline=None)
@given(at=st.integers(0, len(CALL) - 1), value=st.binary(min_size=1, max_size=8))
def test_changed_calls(at: int, value: bytes) -> None:
    changed = CALL[:at] + value + CALL[at + len(value) :]
    try:
        unpack_call(memoryview(changed))
    except (XdrError, RpcFault):
        pass


streams = st.lists(
    st.one_of(
        st.binary(max_size=100),
        st.builds(lambda data: struct.pack(">I", len(data) | 0x80000000) + data, st.binary(max_size=100)),
        st.builds(
            lambda at, value: (
                struct.pack(">I", len(CALL) | 0x80000000) + CALL[:at] + value + CALL[at + len(value) :]
            ),
            st.integers(0, len(CALL) - 8),
            st.binary(min_size=1, max_size=8),
        ),
    ),
    max_size=8,
)


@settings(max_examples=200, deadline=None)
@given(pieces=streams)
def test_a_server(pieces: list[bytes]) -> None:
    async def main() -> None:
        near, far = stream_pair()
        echo = Echo()
        echo.go.set()
        for piece in pieces:
            far.arrive(piece)
        far.end()
        async with asyncio.timeout(20):
            await serve(far, [echo], Peer("hostile"))
        assert near is far.other

    asyncio.run(main())


@settings(max_examples=200, deadline=None)
@given(pieces=streams, header=st.binary(max_size=40))
def test_a_client(pieces: list[bytes], header: bytes) -> None:
    async def main() -> None:
        near, far = stream_pair()
        client = RpcClient(near)
        call = asyncio.create_task(client.call(Echo.number, 2, 1, AuthNone(), opaque(b"x"), timeout=20))
        await asyncio.sleep(0)
        for piece in pieces:
            near.arrive(piece)
        if near.writes:
            reply = near.writes[0][4:8] + struct.pack(">I", 1) + header
            near.arrive(struct.pack(">I", len(reply) | 0x80000000) + reply)
        near.end()
        try:
            await call
        except (RpcError, RpcLost):
            pass
        await client.aclose()
        assert far.other is near

    asyncio.run(main())
