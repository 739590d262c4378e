"""The client's connection without input and output: what goes out, and what a bad server sends."""

from __future__ import annotations

import asyncio
import os
import socket

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quicfs.smb.client.connection import ClientConnection, Packet
from quicfs.smb.client.errors import ConnectError, ConnectProblem
from quicfs.smb.client.filesystem import SmbFileSystem
from quicfs.smb.client.operation import Answer, Operation
from quicfs.smb.crypto import PreauthHash, derive_session_keys
from quicfs.smb.errors import SmbProtocolError
from quicfs.smb.framing import MessageStream
from quicfs.smb.messages.header import (
    ASYNC_COMMAND,
    RELATED_OPERATIONS,
    SERVER_TO_REDIR,
    SIGNATURE_OFFSET,
    SIGNED,
    UNSOLICITED_MESSAGE_ID,
    Command,
    Header,
    split_compound,
)
from quicfs.smb.messages.negotiate import Capabilities, Dialect, NegotiateRequest, NegotiateResponse
from quicfs.smb.messages.negotiate_contexts import (
    Cipher,
    HashAlgorithm,
    NegotiateContexts,
    SigningAlgorithm,
    TransportFlags,
)
from quicfs.smb.messages.session import SessionSetupRequest, SessionSetupResponse
from quicfs.smb.messages.simple import EMPTY_BODY
from quicfs.smb.ntstatus import NtStatus
from quicfs.smb.signing import Signer
from quicfs.smb.transform import Sealer
from quicfs.transport.tcp_stream import TcpStream

ECHO = Operation(Command.ECHO, (EMPTY_BODY,))
KEY = bytes(range(16))


def client(*, secured: bool = False, encrypt: bool = False) -> ClientConnection:
    return ClientConnection(
        client_guid=bytes(16), host="server", secured=secured, salt=bytes(32), encrypt=encrypt
    )


def message(packet: Packet) -> memoryview:
    return memoryview(b"".join(packet.parts))


def answer_to(
    request: memoryview, body: bytes, *, status: int = 0, credits: int = 100, session: int = 0, flags: int = 0
) -> bytes:
    asked = Header.parse(request)
    header = Header(
        asked.command,
        asked.message_id,
        session or asked.session_id,
        status=status,
        flags=SERVER_TO_REDIR | flags,
        credit_charge=asked.credit_charge,
        credits=credits,
    )
    return header.pack() + body


def negotiate_body(**more: object) -> bytes:
    contexts = NegotiateContexts(
        hash_algorithms=more.pop("hashes", (HashAlgorithm.SHA_512,)),  # type: ignore[arg-type]
        salt=bytes(32),
        ciphers=more.pop("ciphers", (Cipher.AES_128_GCM,)),  # type: ignore[arg-type]
        signing_algorithms=more.pop("signing", (SigningAlgorithm.AES_GMAC,)),  # type: ignore[arg-type]
        transport_flags=more.pop("transport", None),  # type: ignore[arg-type]
        posix=bool(more.pop("posix", False)),
    )
    dialect = more.pop("dialect", Dialect.SMB_3_1_1)
    fields: dict[str, object] = {
        "capabilities": Capabilities.LARGE_MTU,
        "max_read_size": 1 << 20,
        "max_write_size": 1 << 20,
        "max_transact_size": 1 << 20,
        **more,
    }
    return NegotiateResponse(dialect, bytes(16), b"", contexts=contexts, **fields).pack()  # type: ignore[arg-type]


def negotiated(*, secured: bool = False, encrypt: bool = False, **more: object) -> ClientConnection:
    connection = client(secured=secured, encrypt=encrypt)
    request = message(connection.negotiate_request())
    packet = memoryview(answer_to(request, negotiate_body(**more)))
    (answer,) = connection.handle_packet(packet)
    connection.handle_negotiate(answer)
    return connection


class Established:
    """A connection with a session, and the keys that its server has."""

    def __init__(self, *, secured: bool = False, encrypt: bool = False, **more: object) -> None:
        self.connection = client(secured=secured, encrypt=encrypt)
        preauth = PreauthHash()
        request = message(self.connection.negotiate_request())
        response = answer_to(request, negotiate_body(**more))
        preauth.update(request)
        preauth.update(response)
        self.connection.handle_negotiate(self.connection.handle_packet(memoryview(response))[0])
        packet = self.connection.build(
            (Operation(Command.SESSION_SETUP, (SessionSetupRequest(b"token").pack(),)),)
        )
        self.connection.note_setup_request(packet)
        preauth.update(*packet.parts)
        keys = derive_session_keys(Dialect.SMB_3_1_1, KEY, preauth.value, Cipher.AES_128_GCM)
        self.signer = Signer(SigningAlgorithm.AES_GMAC, keys.signing)
        self.sealer = Sealer(Cipher.AES_128_GCM, keys.server_to_client, 77)
        final = self.signed(
            answer_to(message(packet), SessionSetupResponse(0, b"").pack(), session=77, flags=SIGNED)
        )
        (self.answer,) = self.connection.handle_packet(memoryview(final))

    def signed(self, response: bytes) -> bytes:
        signature = self.signer.sign((response,), server=True)
        return response[:SIGNATURE_OFFSET] + signature + response[SIGNATURE_OFFSET + 16 :]

    def establish(self) -> ClientConnection:
        self.connection.establish(self.answer, KEY, trusted=True, encrypt=False)
        return self.connection


def test_negotiate_says_what_the_transport_needs() -> None:
    for secured in (False, True):
        request = NegotiateRequest.parse(message(client(secured=secured).negotiate_request()))
        assert list(request.dialects) == [Dialect.SMB_3_1_1]
        assert request.security_mode == (1 if secured else 3)
        assert request.contexts
        assert request.contexts.netname == "server"
        assert request.contexts.posix
        assert request.contexts.transport_flags == (1 if secured else None)


def test_transport_security_needs_both() -> None:
    accept = TransportFlags.ACCEPT_TRANSPORT_LEVEL_SECURITY
    assert negotiated(secured=True, transport=accept).transport_security
    assert not negotiated(secured=True).transport_security
    assert not negotiated(secured=False, transport=accept).transport_security


@pytest.mark.parametrize(
    "more",
    [
        {"hashes": ()},
        {"hashes": (1, 1)},
        {"ciphers": (77,)},
        {"ciphers": (1, 2)},
        {"signing": (9,)},
        {"dialect": Dialect.SMB_3_0_2},
    ],
)
def test_negotiate_answers_that_cannot_be(more: dict[str, object]) -> None:
    with pytest.raises(SmbProtocolError):
        negotiated(**more)


def test_sizes_are_bounded_both_ways() -> None:
    connection = negotiated(max_read_size=1 << 31, max_write_size=0)
    assert (connection.max_read, connection.max_write) == (8 << 20, 4096)
    assert negotiated(capabilities=0).max_read == 65536


def test_credits_and_message_ids() -> None:
    connection = negotiated()
    before = connection.credits
    first = connection.build((Operation(Command.READ, (b"x" * 49,), 1 << 20),))
    second = connection.build((ECHO,))
    assert second.message_ids[0] - first.message_ids[0] == 16  # one for each 64 KiB
    assert connection.credits == before - 17
    assert Header.parse(message(first)).credit_charge == 16
    assert Header.parse(message(first)).credits > 16
    connection.handle_packet(memoryview(answer_to(message(second), EMPTY_BODY, credits=5)))
    assert connection.credits == before - 17 + 5
    assert connection.payload_limit(8 << 20) <= 8 << 20


def test_compounds() -> None:
    connection = negotiated()
    packet = connection.build((Operation(5, (b"x" * 61,)), Operation(16, (b"y" * 8,)), Operation(6, (b"z",))))
    messages = list(split_compound(message(packet), 10))
    assert [header.command for header, _ in messages] == [5, 16, 6]
    assert [header.next_command for header, _ in messages] == [128, 72, 0]
    assert [bool(header.flags & RELATED_OPERATIONS) for header, _ in messages] == [False, True, True]
    assert [header.message_id for header, _ in messages] == list(packet.message_ids)


def test_interim_answers_bring_credits_only_and_cancel_finds_them() -> None:
    connection = negotiated()
    packet = connection.build((Operation(Command.LOCK, (bytes(48),)),))
    (message_id,) = packet.message_ids
    interim = Header(
        Command.LOCK,
        message_id,
        status=NtStatus.PENDING,
        flags=SERVER_TO_REDIR | ASYNC_COMMAND,
        async_id=5,
        credits=3,
    )
    before = connection.credits
    assert connection.handle_packet(memoryview(interim.pack() + bytes(9))) == []
    assert connection.credits == before + 3
    assert connection.is_pending(message_id)
    cancel = Header.parse(message(connection.cancel(message_id)))
    assert (cancel.command, cancel.async_id, cancel.message_id) == (Command.CANCEL, 5, message_id)
    final = Header(
        Command.LOCK, message_id, flags=SERVER_TO_REDIR | ASYNC_COMMAND, async_id=5, status=NtStatus.CANCELLED
    )
    (answer,) = connection.handle_packet(memoryview(final.pack() + bytes(9)))
    assert answer.status == NtStatus.CANCELLED
    assert not connection.is_pending(message_id)


def test_breaks_of_oplocks_are_passed_over() -> None:
    header = Header(Command.OPLOCK_BREAK, UNSOLICITED_MESSAGE_ID, flags=SERVER_TO_REDIR)
    assert negotiated().handle_packet(memoryview(header.pack() + bytes(24))) == []


@pytest.mark.parametrize(
    "make",
    [
        lambda good: b"",
        lambda good: good[:63],
        lambda good: b"\xffSMB" + good[4:],
        lambda good: good[:16] + bytes(4) + good[20:],  # no response
        lambda good: good[:20] + b"\x08\0\0\0" + good[24:],  # next command in the header
        lambda good: good[:24] + b"\x99" * 8 + good[32:],  # another message id
        lambda good: b"\xfdSMB" + good[4:],
    ],
)
def test_answers_that_cannot_be(make: object) -> None:
    assert callable(make)
    connection = negotiated()
    good = answer_to(message(connection.build((ECHO,))), EMPTY_BODY)
    with pytest.raises(SmbProtocolError):
        connection.handle_packet(memoryview(make(good)))


def test_an_answer_counts_once() -> None:
    connection = negotiated()
    good = memoryview(answer_to(message(connection.build((ECHO,))), EMPTY_BODY))
    connection.handle_packet(good)
    with pytest.raises(SmbProtocolError, match="never made"):
        connection.handle_packet(good)


def test_the_login_must_end_with_a_signature() -> None:
    session = Established()
    session.establish()
    for spoil in (0, SIGNATURE_OFFSET, 70):
        session = Established()
        broken = bytearray(session.answer.message)
        broken[spoil if spoil else 16] ^= 8
        header = Header.parse(memoryview(broken))
        session.answer = Answer(header, memoryview(bytes(broken)))
        with pytest.raises(SmbProtocolError, match="not signed"):
            session.establish()


def test_signing() -> None:
    session = Established()
    connection = session.establish()
    request = message(connection.build((ECHO, ECHO)))
    for header, part in split_compound(request, 2):
        assert header.flags & SIGNED
        assert session.signer.verify(part, server=False)
    one = message(connection.build((ECHO,)))
    with pytest.raises(SmbProtocolError, match="without a signature"):
        connection.handle_packet(memoryview(answer_to(one, EMPTY_BODY)))
    with pytest.raises(SmbProtocolError, match="wrong signature"):
        connection.handle_packet(memoryview(answer_to(one, EMPTY_BODY, flags=SIGNED)))
    good = session.signed(answer_to(one, EMPTY_BODY, flags=SIGNED))
    assert len(connection.handle_packet(memoryview(good))) == 1


def test_on_a_secured_channel_only_the_tree_connect_is_signed() -> None:
    connection = Established(secured=True).establish()
    assert not Header.parse(message(connection.build((ECHO,)))).flags & SIGNED
    tree = connection.build((Operation(Command.TREE_CONNECT, (bytes(20),)),))
    assert Header.parse(message(tree)).flags & SIGNED


def test_encryption() -> None:
    session = Established(encrypt=True)
    connection = session.establish()
    request = message(connection.build((ECHO,)))
    assert bytes(request[:4]) == b"\xfdSMB"
    header = Header(Command.ECHO, 2, 77, flags=SERVER_TO_REDIR, credits=1)
    answer = header.pack() + EMPTY_BODY
    with pytest.raises(SmbProtocolError, match="in the clear"):
        connection.handle_packet(memoryview(answer))
    sealed = b"".join(session.sealer.seal((answer,)))
    with pytest.raises(SmbProtocolError, match="changed on the way"):
        connection.handle_packet(memoryview(sealed[:-1] + bytes([sealed[-1] ^ 1])))
    assert len(connection.handle_packet(memoryview(sealed))) == 1


@given(st.binary(max_size=300), st.booleans())
def test_noise_from_the_server(noise: bytes, headed: bool) -> None:
    connection = negotiated()
    request = message(connection.build((ECHO,)))
    packet = answer_to(request, noise) if headed else noise
    try:
        connection.handle_packet(memoryview(packet))
    except SmbProtocolError:
        pass


@settings(max_examples=25, deadline=None)
@given(st.data())
def test_a_server_of_noise_gives_a_sentence(data: st.DataObject) -> None:
    """Whatever a server says, connecting ends in ConnectError, never in a traceback or a wait."""
    replies = data.draw(st.lists(st.binary(max_size=200), min_size=1, max_size=3))
    frame = data.draw(st.booleans())

    async def main() -> None:
        ours, theirs = socket.socketpair()

        async def serve(stream: TcpStream) -> None:
            messages = MessageStream(stream)
            for reply in replies:
                request = await messages.read_message()
                if request is None:
                    return
                if frame:
                    await messages.write_message(answer_to(request, reply))
                else:
                    await stream.send(reply)
            await stream.aclose()

        stream = TcpStream(theirs)
        server = asyncio.create_task(serve(stream))

        async def connect() -> TcpStream:
            return TcpStream(ours)

        fs = SmbFileSystem(connect, "server", "share", timeout=1)
        with pytest.raises(ConnectError):
            await fs.connect()
        await fs.close()
        server.cancel()
        await asyncio.gather(server, return_exceptions=True)
        await stream.aclose()

    asyncio.run(main())


def test_a_server_that_speaks_something_else_is_a_sentence() -> None:
    async def main() -> None:
        ours, theirs = socket.socketpair()
        stream = TcpStream(theirs)
        await stream.send(b"HTTP/1.1 400 Bad Request\r\n\r\n")

        async def connect() -> TcpStream:
            return TcpStream(ours)

        fs = SmbFileSystem(connect, "server", "share", timeout=1)
        with pytest.raises(ConnectError, match="not a Direct TCP header") as caught:
            await fs.connect()
        assert caught.value.problem is ConnectProblem.PROTOCOL
        await fs.close()
        await stream.aclose()

    asyncio.run(main())


def test_salt_and_guid_are_ours() -> None:
    guid, salt = os.urandom(16), os.urandom(32)
    connection = ClientConnection(client_guid=guid, host="h", secured=False, salt=salt, encrypt=False)
    request = NegotiateRequest.parse(message(connection.negotiate_request()))
    assert request.client_guid == guid
    assert request.contexts
    assert request.contexts.salt == salt
