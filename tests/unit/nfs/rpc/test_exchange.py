"""Calls and replies on a stream in memory."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from quicfs.nfs import limits
from quicfs.nfs.rpc.client import RpcClient, RpcError, RpcLost
from quicfs.nfs.rpc.message import AcceptStat, AuthNone, AuthStat, AuthSys, Call, DropCall
from quicfs.nfs.rpc.service import Peer, Program, serve
from quicfs.nfs.xdr import Packer, XdrError
from tests.unit.nfs.rpc.streams import Echo, MemoryStream, opaque, stream_pair

NOBODY = AuthNone()


class Rig:
    def __init__(self, *programs: Program) -> None:
        self.near, self.far = stream_pair()
        self.peer = Peer("the client")
        self.client = RpcClient(self.near)
        self.serving = asyncio.create_task(serve(self.far, programs, self.peer))

    async def call(self, procedure: int, args: Packer | None = None, *, version: int = 2) -> bytes:
        got = await self.client.call(Echo.number, version, procedure, NOBODY, args or Packer(), timeout=20)
        return bytes(got.data[got.position :])


@asynccontextmanager
async def rig(*programs: Program) -> AsyncIterator[Rig]:
    made = Rig(*programs)
    try:
        yield made
    finally:
        await made.client.aclose()
        made.serving.cancel()
        await asyncio.gather(made.serving, return_exceptions=True)


def test_a_call_and_its_reply() -> None:
    async def main() -> None:
        echo = Echo()
        async with rig(echo) as made:
            credential = AuthSys(7, "desk", 1000, 100, (4, 24))
            got = await made.client.call(Echo.number, 3, 1, credential, opaque(b"hello"))
            assert got.opaque(100) == b"hello"
            got.done()
            (call,) = echo.calls
            assert (call.credential, call.version) == (credential, 3)
            assert echo.peers == [made.peer]

    asyncio.run(main())


def test_large_payloads() -> None:
    async def main() -> None:
        async with rig(Echo()) as made:
            data = bytes(range(256)) * 4096
            got = await made.client.call(Echo.number, 2, 1, NOBODY, opaque(data))
            assert got.opaque(1 << 20) == data

    asyncio.run(main())


def test_calls_that_do_not_wait_share_a_task_and_a_write() -> None:
    async def main() -> None:
        echo = Echo()
        async with rig(echo) as made:
            answers = await asyncio.gather(*(made.call(1, opaque(b"%d" % i)) for i in range(20)))
            assert [answer[4:6].rstrip(b"\0") for answer in answers] == [b"%d" % i for i in range(20)]
            assert len(echo.tasks) == 1
            burst = b"".join(made.near.writes)
            made.far.writes.clear()
            made.far.arrive(burst)
            await made.call(0)
            assert len(made.far.writes) == 2

    asyncio.run(main())


def test_a_call_that_waits_holds_up_nobody() -> None:
    async def main() -> None:
        echo = Echo()
        async with rig(echo) as made:
            slow = [asyncio.create_task(made.call(2)) for _ in range(3)]
            burst = asyncio.gather(*(made.call(1, opaque(b"x")) for _ in range(10)))
            await burst
            assert not any(task.done() for task in slow)
            echo.go.set()
            await asyncio.gather(*slow)
            await made.call(0)

    asyncio.run(main())


def test_many_calls_that_wait_stop_the_reading() -> None:
    async def main() -> None:
        echo = Echo()
        async with rig(echo) as made:
            slow = [asyncio.create_task(made.call(2)) for _ in range(2 * limits.MAX_CALLS)]
            for _ in range(4 * limits.MAX_CALLS):
                await asyncio.sleep(0)
            assert len(echo.calls) <= limits.MAX_CALLS + 1
            echo.go.set()
            await asyncio.gather(*slow)
            assert await made.call(1, opaque(b"")) == bytes(4)

    asyncio.run(main())


@pytest.mark.parametrize(
    ("program", "version", "procedure", "status"),
    [
        (Echo.number, 2, 99, AcceptStat.PROC_UNAVAIL),
        (Echo.number, 5, 0, AcceptStat.PROG_MISMATCH),
        (Echo.number + 1, 2, 0, AcceptStat.PROG_UNAVAIL),
    ],
)
def test_what_is_not_there(program: int, version: int, procedure: int, status: AcceptStat) -> None:
    async def main() -> None:
        async with rig(Echo()) as made:
            with pytest.raises(RpcError) as caught:
                await made.client.call(program, version, procedure, NOBODY, Packer())
            assert caught.value.status is status
            if status is AcceptStat.PROG_MISMATCH:
                assert (caught.value.low, caught.value.high) == (2, 3)

    asyncio.run(main())


def test_faults_of_a_program() -> None:
    async def garbage(call: Call, peer: Peer) -> Packer:
        raise XdrError("no")

    async def broken(call: Call, peer: Peer) -> Packer:
        raise AuthFault

    class AuthFault(Exception):
        pass

    async def main() -> None:
        echo = Echo()
        echo.procedures = {7: garbage}
        async with rig(echo) as made:
            with pytest.raises(RpcError) as caught:
                await made.call(7)
            assert caught.value.status is AcceptStat.GARBAGE_ARGS
            await made.call(0)

    asyncio.run(main())


def test_a_dropped_call_ends_the_stream() -> None:
    async def drop(call: Call, peer: Peer) -> Packer:
        raise DropCall("in the way")

    async def main() -> None:
        echo = Echo()
        echo.procedures = {7: drop}
        async with rig(echo) as made:
            with pytest.raises(RpcLost) as caught:
                await made.call(7)
            assert caught.value.sent
            await made.serving
            assert made.peer.closed

    asyncio.run(main())


def test_calls_in_flight_are_lost_with_the_stream() -> None:
    async def main() -> None:
        echo = Echo()
        closed: list[Peer] = []
        async with rig(echo) as made:
            made.peer.on_close(closed.append)
            call = asyncio.create_task(made.call(2))
            await asyncio.sleep(0.01)
            made.near.breaks()
            made.far.breaks()
            with pytest.raises(RpcLost) as caught:
                await call
            assert caught.value.sent
            with pytest.raises(RpcLost) as caught:
                await made.call(0)
            assert not caught.value.sent
            assert closed == [made.peer]
            assert not made.serving.done()  # what it does is done to its end
            echo.go.set()
            await made.serving

    asyncio.run(main())


def test_a_client_that_ends_its_direction_still_gets_its_replies() -> None:
    async def main() -> None:
        echo = Echo()
        async with rig(echo) as made:
            call = asyncio.create_task(made.call(2))
            await asyncio.sleep(0.01)
            made.far.end()
            await asyncio.sleep(0.01)
            echo.go.set()
            assert await call == b""
            await made.serving
            assert made.far.closed

    asyncio.run(main())


def test_a_timeout_loses_its_call_only() -> None:
    async def main() -> None:
        echo = Echo()
        async with rig(echo) as made:
            with pytest.raises(TimeoutError):
                await made.client.call(Echo.number, 2, 2, NOBODY, Packer(), timeout=0.01)
            echo.go.set()
            assert await made.call(1, opaque(b"abc")) == b"\0\0\0\3abc\0"
            assert made.client.outstanding == 0

    asyncio.run(main())


@pytest.mark.parametrize("flavor", [2, 6, 7, 390_003])
def test_flavors_that_nobody_speaks(flavor: int) -> None:
    """RFC 9289 §4.1: a probe for STARTTLS gets AUTH_BADCRED where there is none."""

    async def main() -> None:
        async with rig(Echo()) as made:
            words = (77, 0, 2, Echo.number, 2, 0, flavor, 0, 0, 0)
            message = b"".join(word.to_bytes(4, "big") for word in words)
            made.far.arrive((0x80000000 | len(message)).to_bytes(4, "big") + message)
            for _ in range(10):
                await asyncio.sleep(0)
            reply = b"".join(word.to_bytes(4, "big") for word in (77, 1, 1, 1, AuthStat.BADCRED))
            assert made.far.writes == [(0x80000000 | len(reply)).to_bytes(4, "big") + reply]

    asyncio.run(main())


def test_another_version_of_rpc() -> None:
    async def main() -> None:
        async with rig(Echo()) as made:
            message = b"".join(word.to_bytes(4, "big") for word in (77, 0, 3, Echo.number, 2, 0, 0, 0, 0, 0))
            made.far.arrive((0x80000000 | len(message)).to_bytes(4, "big") + message)
            for _ in range(10):
                await asyncio.sleep(0)
            reply = b"".join(word.to_bytes(4, "big") for word in (77, 1, 1, 0, 2, 2))
            assert made.far.writes == [(0x80000000 | len(reply)).to_bytes(4, "big") + reply]

    asyncio.run(main())


@pytest.mark.parametrize(
    "garbage",
    [
        b"\x80\0\0\0",  # an empty message
        b"\x80\0\0\4\0\0\0\1",  # no direction
        b"\x80\0\0\x0c" + b"\0\0\0\1" + b"\0\0\0\2" + b"\0\0\0\2",  # neither call nor reply
        b"\x80\0\0\x0c" + b"\0\0\0\1" + b"\0\0\0\0" + b"\0\0\0\2",  # a call that ends
        b"\xff\xff\xff\xff",  # 2 GiB
        b"\0\0\0\0" * (limits.MAX_FRAGMENTS + 1),
    ],
)
def test_garbage_ends_the_stream(garbage: bytes) -> None:
    async def main() -> None:
        async with rig(Echo()) as made:
            made.far.arrive(garbage)
            await asyncio.wait_for(made.serving, 10)
            assert made.far.closed

    asyncio.run(main())


def test_replies_that_nobody_waits_for_are_discarded() -> None:
    async def main() -> None:
        async with rig(Echo()) as made:
            reply = b"\x80\0\0\x18" + b"".join(word.to_bytes(4, "big") for word in (5, 1, 0, 0, 0, 0))
            made.far.arrive(reply * limits.MAX_MISDIRECTED)
            made.near.arrive(reply * 1000)
            assert await made.call(0) == b""
            made.far.arrive(reply)
            await asyncio.wait_for(made.serving, 10)

    asyncio.run(main())


def test_both_directions_on_one_stream() -> None:
    """As on TCP."""

    class Duplex(Peer):
        def __init__(self, stream: MemoryStream) -> None:
            super().__init__("duplex")
            self.back = RpcClient(stream, peer=self, shared=True)

        @property
        def requester(self) -> RpcClient:
            return self.back

    async def main() -> None:
        near, far = stream_pair()
        ours, theirs = Echo(), Echo()
        peer = Duplex(far)
        serving = asyncio.create_task(serve(far, [theirs], peer))
        client = RpcClient(near, programs=[ours])
        got = await client.call(Echo.number, 2, 1, NOBODY, opaque(b"there"))
        assert got.opaque(9) == b"there"
        got = await peer.back.call(Echo.number, 2, 1, NOBODY, opaque(b"back"))
        assert got.opaque(9) == b"back"
        waits = asyncio.create_task(peer.back.call(Echo.number, 2, 2, NOBODY, Packer()))
        await asyncio.sleep(0.01)
        await client.aclose()
        with pytest.raises(RpcLost):
            await waits
        await serving
        assert not peer.back.alive

    asyncio.run(main())


def test_a_stream_that_cannot_be_sent_on_is_lost_at_once() -> None:
    async def main() -> None:
        async with rig(Echo()) as made:
            ended: list[RpcClient] = []
            made.client.on_close(ended.append)
            made.near.breaks("reset")
            # Before the reader has had a turn to hear of it.
            with pytest.raises(RpcLost):
                await made.client.call(Echo.number, 2, 1, NOBODY, Packer())
            assert not made.client.alive and ended == [made.client]

    asyncio.run(main())
