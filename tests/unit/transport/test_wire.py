"""The messages between consumer and agent, against captures of Linux, and the channel that carries them."""

from __future__ import annotations

import asyncio
import os
import re
import socket
import struct
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quicfs.transport.uapi import AuthMode, CryptoLevel, HandlerClass, MessageType, SockOpt
from quicfs.transport.wire import descriptor, netlink, nlmsg
from quicfs.transport.wire.channel import MAX_QUEUED, Channel

VECTORS = Path(__file__).parents[2] / "vectors"
NLM_F_ACK = 4


def captured() -> list[bytes]:
    found = []
    for name in ("nl-mtls.txt", "nl-uml.txt"):
        found += [bytes.fromhex(h) for h in re.findall(r"^\s+hex (\w+)$", (VECTORS / name).read_text(), re.M)]
    return found


CAPTURED = captured()
READY, ACCEPT_V0, REPLY_SERVER, REPLY_CLIENT = (CAPTURED[i] for i in (2, 4, 5, 7))


def test_there_are_captures() -> None:
    assert len(CAPTURED) == 28


@pytest.mark.parametrize("raw", CAPTURED, ids=range(len(CAPTURED)))
def test_captured_messages_build_again(raw: bytes) -> None:
    header, message = netlink.parse(raw, family=0x1C)
    assert not isinstance(message, netlink.Error)
    if header.flags & NLM_F_ACK:  # probes with attributes that nobody knows
        assert isinstance(message, netlink.Done)
        return
    again = netlink.build(message, family=header.type, seq=header.seq, pid=header.pid, version=header.version)
    assert again == raw


def test_captured_contents() -> None:
    assert netlink.parse(READY)[1] == netlink.Ready(HandlerClass.TLSHD)
    assert netlink.parse(ACCEPT_V0)[1] == netlink.Accept(HandlerClass.TLSHD)
    assert netlink.parse(REPLY_SERVER)[1] == netlink.Request(
        4, MessageType.SERVERHELLO, auth_mode=AuthMode.X509
    )
    assert netlink.parse(REPLY_CLIENT)[1] == netlink.Request(
        4, MessageType.CLIENTHELLO, "klab.test", auth_mode=AuthMode.X509
    )
    statuses = {m.status for _, m in map(netlink.parse, CAPTURED) if isinstance(m, netlink.Done)}
    assert statuses == {0, 5, 110}


def test_request_attribute_order() -> None:
    raw = netlink.build(
        netlink.Request(
            9, MessageType.CLIENTHELLO, "h", 5000, 77, AuthMode.X509, (1, 2), (netlink.Certificate(3, 4),)
        )
    )
    types, at = [], 20
    while at < len(raw):
        length, kind = (
            int.from_bytes(raw[at : at + 2], "little"),
            int.from_bytes(raw[at + 2 : at + 4], "little"),
        )
        types.append(kind & 0x3FFF)
        at += (length + 3) & ~3
    assert types == [1, 3, 8, 4, 9, 5, 6, 6, 7]


serials = st.integers(0, 0x7FFFFFFF)
requests = st.builds(
    netlink.Request,
    sockfd=serials,
    message_type=st.integers(1, 2),
    peername=st.text("abcdefghijklmnopqrstuvwxyz0123456789.-:", max_size=255),
    timeout_ms=serials,
    keyring=serials,
    auth_mode=st.integers(1, 3),
    peer_identities=st.lists(serials, max_size=8).map(tuple),
    certificates=st.lists(st.builds(netlink.Certificate, serials, serials), max_size=3).map(tuple),
)
dones = st.builds(netlink.Done, st.integers(0, 4095), serials, st.lists(serials, max_size=8).map(tuple))
errors = st.builds(netlink.Error, st.integers(1, 4095), st.integers(0, 0xFFFFFFFF))


@given(st.one_of(requests, dones, errors), st.integers(0, 0xFFFFFFFF))
def test_round_trip(message: netlink.Message, seq: int) -> None:
    header, again = netlink.parse(netlink.build(message, seq=seq))
    assert again == message
    assert header.seq == seq


@given(st.one_of(st.binary(max_size=200), st.sampled_from(CAPTURED)), st.data())
def test_garbage_is_a_value_error(raw: bytes, data: st.DataObject) -> None:
    """Cut, stretched and overwritten messages are read or refused, never anything else."""
    mutable = bytearray(raw[: data.draw(st.integers(0, len(raw)))])
    mutable += data.draw(st.binary(max_size=12))
    for _ in range(data.draw(st.integers(0, 4)) if mutable else 0):
        mutable[data.draw(st.integers(0, len(mutable) - 1))] = data.draw(st.integers(0, 255))
    if len(mutable) >= 6 and data.draw(st.booleans()):
        mutable[:6] = len(mutable).to_bytes(4, "little") + b"\x1c\0"
    try:
        netlink.parse(bytes(mutable))
    except ValueError:
        pass


@pytest.mark.parametrize(
    ("raw", "why"),
    [
        (b"", "0 bytes"),
        (READY[:-1], "claims"),
        (b"\xff\xff\xff\x7f" + READY[4:], "claims"),
        (READY[:4] + b"\x22\x00" + READY[6:], "family"),
        (READY[:16] + b"\x09" + READY[17:], "command 9"),
        (READY[:22] + b"\x07\x00" + READY[24:], "HANDLER_CLASS is missing"),
        (netlink.build(netlink.Request(1, peername="h" * 256)), "name is too long"),
        (netlink.build(netlink.Done(0, 1, (1,) * 65)), "too many"),
    ],
)
def test_refused(raw: bytes, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        netlink.parse(raw)


def test_number_that_does_not_fit() -> None:
    with pytest.raises(ValueError, match="Request"):
        netlink.build(netlink.Request(1 << 40))


RECORDS = [
    descriptor.Record(descriptor.Op.GETSOCKOPT, optname=SockOpt.ALPN, seq=1),
    descriptor.Record(descriptor.Op.SETSOCKOPT, optname=SockOpt.CRYPTO_SECRET, seq=2, payload=b"s" * 56),
    descriptor.Record(descriptor.Op.SENDMSG, level=CryptoLevel.HANDSHAKE, seq=3, payload=b"finished"),
    descriptor.Record(descriptor.Op.REPLY, seq=1, payload=b"smb"),
    descriptor.Record(descriptor.Op.REPLY, seq=2, errno=22),
    descriptor.Record(descriptor.Op.RECVMSG, level=CryptoLevel.INITIAL, payload=b"hello"),
]


@pytest.mark.parametrize("record", RECORDS, ids=lambda r: r.op.name)
def test_descriptor_round_trip(record: descriptor.Record) -> None:
    assert descriptor.parse(descriptor.build(record)) == [record]


def test_descriptor_records_travel_together() -> None:
    (message,) = descriptor.messages(map(descriptor.build, RECORDS))
    assert descriptor.parse(message) == RECORDS
    many = list(descriptor.messages([descriptor.build(RECORDS[2])] * (descriptor.MAX_RECORDS + 1)))
    assert [len(descriptor.parse(message)) for message in many] == [descriptor.MAX_RECORDS, 1]
    assert list(descriptor.messages([])) == []


def test_descriptor_header_layout() -> None:
    raw = descriptor.build(RECORDS[2])
    assert raw == struct.pack("=BBHIII", 3, 2, 0, 3, 0, 8) + b"finished"


@pytest.mark.parametrize(
    ("raw", "why"),
    [
        (b"", "0 bytes"),
        (bytes(15), "15 bytes"),
        (bytes(16), "operation 0"),
        (struct.pack("=BBHIII", 6, 0, 0, 1, 0, 0), "operation 6"),
        (struct.pack("=BBHIII", 3, 4, 0, 1, 0, 1) + b"x", "level 4"),
        (struct.pack("=BBHIII", 5, 1, 0, 0, 0, 0), "CRYPTO data of 0"),
        (struct.pack("=BBHIII", 1, 0, 11, 1, 0, 1) + b"x", "no value"),
        (struct.pack("=BBHIII", 2, 0, 11, 1, 0, 2) + b"x", "payload of 2"),
        (struct.pack("=BBHIII", 2, 0, 11, 1, 0, 16385) + bytes(16385), "payload of 16385"),
        (descriptor.build(RECORDS[0]) + b"x", "bytes"),
        (descriptor.build(RECORDS[0]) * (descriptor.MAX_RECORDS + 1), "64 records"),
    ],
)
def test_descriptor_refused(raw: bytes, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        descriptor.parse(raw)


@given(st.lists(st.sampled_from(RECORDS), max_size=4), st.binary(max_size=64), st.integers(0, 200))
def test_descriptor_garbage(records: list[descriptor.Record], tail: bytes, cut: int) -> None:
    raw = (b"".join(map(descriptor.build, records)) + tail)[:cut]
    try:
        parsed = descriptor.parse(raw)
    except ValueError:
        return
    assert b"".join(map(descriptor.build, parsed)) == raw


def test_long_crypto_data_is_split() -> None:
    data = os.urandom(2 * descriptor.MAX_PAYLOAD + 1)
    records = descriptor.build_crypto(descriptor.Op.SENDMSG, 2, data, seq=7)
    parsed = [record for message in descriptor.messages(records) for record in descriptor.parse(message)]
    assert [record.seq for record in parsed] == [7, 8, 9]
    assert b"".join(record.payload for record in parsed) == data
    with pytest.raises(ValueError, match="at most"):
        descriptor.build(descriptor.Record(descriptor.Op.SENDMSG, payload=data))


class Ends:
    """A channel, the plain socket at its other end, and what the channel reported."""

    def __init__(self, max_message: int = 100) -> None:
        ours, self.peer = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.peer.settimeout(5)
        self.got: list[tuple[bytes, list[int]]] = []
        self.closed: asyncio.Future[Exception | None] = asyncio.get_running_loop().create_future()
        self.channel = Channel(ours, self._message, self.closed.set_result, max_message=max_message)

    def _message(self, data: bytes, fds: list[int]) -> None:
        self.got.append((data, fds))
        if data == b"bad":
            raise ValueError("not the protocol")

    def close(self) -> None:
        self.channel.close()
        self.peer.close()


def test_channel_messages_and_descriptors() -> None:
    async def main() -> None:
        ends = Ends()
        reader, writer = os.pipe()
        socket.send_fds(ends.peer, [b"one"], [writer])
        ends.peer.send(b"two")
        ends.channel.read_ready()
        (one, fds), (two, none) = ends.got
        assert (one, two, none) == (b"one", b"two", [])
        assert not os.get_inheritable(fds[0])
        ends.channel.send(b"three", (reader,))
        data, got, _, _ = socket.recv_fds(ends.peer, 100, 4)
        assert data == b"three"
        for fd in (reader, writer, *fds, *got):
            os.close(fd)
        ends.peer.close()
        assert await asyncio.wait_for(ends.closed, 5) is None
        with pytest.raises(BrokenPipeError):
            ends.channel.send(b"x")
        ends.close()

    asyncio.run(main())


@pytest.mark.parametrize("data", [b"x" * 101, b"x" * 5000, b"bad"])
def test_channel_closes_on_violation(data: bytes) -> None:
    async def main() -> None:
        ends = Ends()
        ends.peer.send(data)
        assert isinstance(await asyncio.wait_for(ends.closed, 5), ValueError)
        assert ends.peer.recv(10) == b""
        ends.close()

    asyncio.run(main())


def test_channel_queues_and_then_refuses() -> None:
    async def main() -> None:
        ends = Ends(max_message=8192)
        sent = 0
        with pytest.raises(OSError, match="does not read"):
            while True:
                ends.channel.send(b"%08d" % sent + bytes(8184))
                sent += 1
        assert sent * 8192 > MAX_QUEUED
        ends.peer.setblocking(False)
        loop = asyncio.get_running_loop()
        for i in range(sent):
            data = await asyncio.wait_for(loop.sock_recv(ends.peer, 8192), 5)
            assert int(data[:8]) == i
        ends.channel.send(b"again")
        assert await loop.sock_recv(ends.peer, 100) == b"again"
        ends.close()

    asyncio.run(main())


def test_channel_reads_what_came_before_a_reset() -> None:
    """The other end closes with messages unread: what it had sent still counts."""

    async def main() -> None:
        ends = Ends()
        ends.channel.send(b"unread")
        ends.peer.send(b"last word")
        ends.peer.close()
        assert await asyncio.wait_for(ends.closed, 5) is None
        assert ends.got == [(b"last word", [])]

    asyncio.run(main())


@given(
    first=st.builds(netlink.Request, st.integers(0, 2**31 - 1), peername=st.sampled_from(["", "a.example"]))
    | st.builds(netlink.Done, st.sampled_from([0, 5]), st.integers(-(2**31), 2**31 - 1)),
    seq=st.integers(0, 2**32 - 1),
)
def test_what_is_remembered_of_a_message_leaves_its_numbers_out(
    first: netlink.Request | netlink.Done, seq: int
) -> None:
    raw = netlink.build(first, seq=seq)
    assert raw == nlmsg.encode(first, netlink.MODEL_FAMILY, seq, 0, netlink.FAMILY_VERSION)
    assert netlink.parse(raw) == nlmsg.decode(raw, netlink.MODEL_FAMILY)


@pytest.mark.parametrize(
    "raw",
    [
        REPLY_CLIENT[:20] + REPLY_CLIENT[28:36] + REPLY_CLIENT[20:28] + REPLY_CLIENT[36:],
        ACCEPT_V0,
        netlink.build(netlink.Error(11, 0x00010008), seq=7),
    ],
    ids=["another-order", "no-descriptor", "error"],
)
def test_messages_of_another_form_are_read_like_any(raw: bytes) -> None:
    assert netlink.parse(raw) == nlmsg.decode(raw, netlink.MODEL_FAMILY)


@pytest.mark.parametrize("number", [-(2**31) - 1, 2**31])
def test_descriptor_numbers_that_do_not_fit_are_refused(number: int) -> None:
    with pytest.raises(ValueError):
        netlink.build(netlink.Request(number))
    with pytest.raises(ValueError):
        netlink.build(netlink.Accept(), seq=2**32)
