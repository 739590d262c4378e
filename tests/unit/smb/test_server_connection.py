"""NEGOTIATE, sessions, signatures, credits, compounds, and what ends a connection."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from quicfs.smb import limits
from quicfs.smb.errors import SmbProtocolError
from quicfs.smb.messages.close import CloseRequest
from quicfs.smb.messages.create import RELATED_FILE_ID, CreateRequest
from quicfs.smb.messages.header import ASYNC_COMMAND, SIGNED, Command, Header
from quicfs.smb.messages.info import InfoType, QueryInfoRequest
from quicfs.smb.messages.ioctl import Fsctl, IoctlRequest, IoctlResponse
from quicfs.smb.messages.negotiate import NegotiateRequest
from quicfs.smb.messages.negotiate_contexts import NegotiateContexts
from quicfs.smb.messages.read import ReadRequest, parse_read_response
from quicfs.smb.messages.session import SESSION_FLAG_BINDING, SessionSetupRequest
from quicfs.smb.messages.simple import EMPTY_BODY
from quicfs.smb.messages.tree import TreeConnectRequest
from quicfs.smb.messages.validate import ValidateNegotiateRequest, ValidateNegotiateResponse
from quicfs.smb.messages.write import WriteRequest
from quicfs.smb.ntstatus import NtStatus
from quicfs.smb.server.window import MessageWindow
from quicfs.vfs import Attr, Node, StatFs
from quicfs.vfs.local import LocalTree
from quicfs.vfs.local_node import LocalNode
from tests.unit.smb.raw_client import ALL, GUID, READ, site


def test_negotiate_prefers_3_1_1_and_takes_the_posix_extensions(tmp_path: Path) -> None:
    async def main() -> None:
        async with site(tmp_path) as here:
            response = await here.raw(secured=False).negotiate((0x0202, 0x0210, 0x0300, 0x0311))
            assert response.dialect == 0x0311
            assert response.security_mode == 3
            assert response.max_read_size == response.max_write_size == 8 << 20
            contexts = response.contexts
            assert contexts is not None
            assert contexts.posix
            assert contexts.ciphers == (2,)
            assert contexts.signing_algorithms == (2,)
            assert contexts.transport_flags is None  # TCP is no secure transport
            assert contexts.salt != bytes(32)
            secured = await here.raw().negotiate()
            assert secured.contexts is not None
            assert secured.contexts.transport_flags == 1

    asyncio.run(main())


@pytest.mark.parametrize("dialect", [0x0202, 0x0210, 0x0300, 0x0302])
def test_older_dialects_on_tcp_only(tmp_path: Path, dialect: int) -> None:
    async def main() -> None:
        async with site(tmp_path) as here:
            client = here.raw(secured=False)
            assert (await client.negotiate((dialect,))).dialect == dialect
            assert await client.setup() == 0
            assert await client.connect() == 0
            assert await client.close(await client.opened("file")) == 0
            refused = here.raw()
            body = NegotiateRequest((dialect,), GUID).pack()
            answer = await refused.ask(Command.NEGOTIATE, body)
            assert answer.status == NtStatus.NOT_SUPPORTED

    asyncio.run(main())


@pytest.mark.parametrize(
    ("contexts", "status"),
    [
        (NegotiateContexts(), NtStatus.INVALID_PARAMETER),
        (NegotiateContexts((7,), b"salt"), NtStatus.SMB_NO_PREAUTH_INTEGRITY_HASH_OVERLAP),
    ],
)
def test_negotiate_without_preauth_integrity(
    tmp_path: Path, contexts: NegotiateContexts, status: int
) -> None:
    async def main() -> None:
        async with site(tmp_path) as here:
            body = NegotiateRequest((0x0311,), GUID, contexts=contexts).pack()
            assert (await here.raw().ask(Command.NEGOTIATE, body)).status == status

    asyncio.run(main())


def test_smb1_negotiate_leads_to_smb2(tmp_path: Path) -> None:
    async def main() -> None:
        async with site(tmp_path) as here:
            client = here.raw(secured=False)
            dialects = b"\x02NT LM 0.12\0\x02SMB 2.002\0\x02SMB 2.???\0"
            await client.send_raw(
                b"\xffSMB\x72" + bytes(27) + b"\0" + len(dialects).to_bytes(2, "little") + dialects
            )
            (answer,) = await client.read()
            assert answer.message[68:70] == b"\xff\x02"
            client.message_id = 1
            assert (await client.negotiate()).dialect == 0x0311

    asyncio.run(main())


def test_a_wrong_password_and_a_second_try(tmp_path: Path) -> None:
    async def main() -> None:
        async with site(tmp_path) as here:
            client = here.raw()
            await client.negotiate()
            assert await client.setup(b"wrong") == NtStatus.LOGON_FAILURE
            assert await client.connect() == NtStatus.USER_SESSION_DELETED
            client.session_id = 0
            assert await client.setup() == 0

    asyncio.run(main())


def test_guests_and_anonymous(tmp_path: Path) -> None:
    async def main() -> None:
        async with site(tmp_path, guest=True) as here:
            guest = await here.client(secured=False, user=b"guest")
            assert await guest.close(await guest.opened("by a guest")) == 0
            nobody = here.raw(secured=False)
            await nobody.negotiate()
            assert await nobody.setup(b"") == 0
            assert await nobody.connect() == NtStatus.ACCESS_DENIED
            assert await nobody.connect("IPC$") == 0

    asyncio.run(main())


def test_unsigned_requests_on_tcp_are_refused(tmp_path: Path) -> None:
    async def main() -> None:
        async with site(tmp_path) as here:
            client = await here.client(secured=False)
            client.signer, signer = None, client.signer
            assert (await client.create("x"))[0] == NtStatus.ACCESS_DENIED
            client.signer = signer
            assert (await client.create("x"))[0] == 0
            message = bytearray(client.sign(client.header(Command.ECHO).pack() + EMPTY_BODY))
            message[50] ^= 1
            await client.send_raw(bytes(message))
            assert (await client.read())[0].status == NtStatus.ACCESS_DENIED

    asyncio.run(main())


def test_encryption_where_it_is_required(tmp_path: Path) -> None:
    async def main() -> None:
        async with site(tmp_path, guest=True, encryption_required=True) as here:
            client = here.raw(secured=False)
            await client.negotiate()
            assert await client.setup() == 0
            assert client.session_flags == 4
            assert await client.connect() == NtStatus.ACCESS_DENIED
            client.encrypt()
            assert await client.connect() == 0
            file_id = await client.opened("file")
            answers = await client.compound(
                (Command.ECHO, EMPTY_BODY), (Command.CLOSE, CloseRequest(file_id).pack())
            )
            assert [answer.status for answer in answers] == [0, 0]
            guest = here.raw(secured=False)
            await guest.negotiate()
            assert await guest.setup(b"guest") == NtStatus.ACCESS_DENIED
            # A stream that is encrypted itself needs none of it.
            assert (await (await here.client()).create("file"))[0] == 0

    asyncio.run(main())


def test_encryption_where_the_client_wants_it(tmp_path: Path) -> None:
    async def main() -> None:
        async with site(tmp_path) as here:
            one, two = await here.client(secured=False), await here.client(secured=False, user=b"bob")
            one.encrypt()
            assert (await one.create("file"))[0] == 0
            # A message for one session inside the encryption of another.
            own, one.session_id = one.session_id, two.session_id
            await one.send_raw(one.header(Command.ECHO).pack() + EMPTY_BODY)
            assert await one.read_packet() is None
            assert own != two.session_id
            # A changed message.
            two.encrypt()
            assert two.sealer is not None
            packet = bytearray(b"".join(two.sealer.seal((two.header(Command.ECHO).pack() + EMPTY_BODY,))))
            packet[-1] ^= 1
            two.sealer = None
            await two.send_raw(bytes(packet))
            assert await two.read_packet() is None

    asyncio.run(main())


def test_who_does_not_log_in_does_not_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        async with site(tmp_path) as here:
            client = await here.client()
            monkeypatch.setattr(limits, "NEGOTIATE_TIMEOUT_S", 1.0)
            silent, half = here.raw(), here.raw()
            await half.negotiate()
            await half.ask(Command.SESSION_SETUP, SessionSetupRequest(b"hello").pack())
            assert await silent.read_packet() is None
            assert await half.read_packet() is None
            assert (await client.ask(Command.ECHO, EMPTY_BODY)).status == 0

    asyncio.run(main())


def test_validate_negotiate(tmp_path: Path) -> None:
    async def main() -> None:
        async with site(tmp_path) as here:
            client = here.raw(secured=False)
            negotiated = await client.negotiate((0x0300, 0x0302))
            await client.setup()
            await client.connect("IPC$")

            def body(dialects: tuple[int, ...]) -> bytes:
                said = ValidateNegotiateRequest(0x44, GUID, 1, dialects).pack()
                return IoctlRequest(Fsctl.VALIDATE_NEGOTIATE_INFO, input=said).pack()

            answer = await client.ask(Command.IOCTL, body((0x0300, 0x0302)))
            assert answer.status == 0
            output = memoryview(IoctlResponse.parse(answer.message).output)
            found = ValidateNegotiateResponse.parse(output)
            assert (found.dialect, found.guid) == (0x0302, negotiated.server_guid)
            assert (found.capabilities, found.security_mode) == (
                negotiated.capabilities,
                negotiated.security_mode,
            )
            # Somebody took a dialect out of what the client had offered.
            await client.start(Command.IOCTL, body((0x0300, 0x0302, 0x0311)))
            assert await client.read_packet() is None

    asyncio.run(main())


def test_connections_are_limited(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "MAX_CONNECTIONS", 2)

    async def main() -> None:
        async with site(tmp_path) as here:
            first, _ = await here.client(), await here.client()
            assert await here.raw().read_packet() is None
            await first.stream.aclose()
            assert await first.read_packet() is None
            assert (await here.client()).session_id

    asyncio.run(main())


def test_sessions_trees_and_opens_are_limited(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "MAX_SESSIONS", 3)
    monkeypatch.setattr(limits, "MAX_TREES", 3)
    monkeypatch.setattr(limits, "MAX_OPENS", 3)

    async def main() -> None:
        async with site(tmp_path) as here:
            client = await here.client()
            for _ in range(2):
                assert await client.connect() == 0
            assert await client.connect() == NtStatus.INSUFFICIENT_RESOURCES
            opens = [await client.opened("file") for _ in range(3)]
            assert (await client.create("file"))[0] == NtStatus.TOO_MANY_OPENED_FILES
            await client.close(opens[0])
            assert (await client.create("file"))[0] == 0
            client.session_id = 0
            for _ in range(2):
                answer = await client.ask(Command.SESSION_SETUP, SessionSetupRequest(b"hello").pack())
                assert answer.status == NtStatus.MORE_PROCESSING_REQUIRED
            answer = await client.ask(Command.SESSION_SETUP, SessionSetupRequest(b"hello").pack())
            assert answer.status == NtStatus.INSUFFICIENT_RESOURCES

    asyncio.run(main())


def test_credits_and_message_ids() -> None:
    window = MessageWindow()
    window.consume(0, 1)
    assert window.grant(10) == 10
    window.consume(3, 2)
    window.consume(1, 2)
    window.consume(5, 1)
    assert window.available == 5
    for message_id in (0, 4, 11, 1 << 63):
        with pytest.raises(SmbProtocolError):
            window.consume(message_id, 1)
    assert window.grant(1 << 20) <= 1024
    assert window.available == 1024
    assert window.grant(5) == 0


def test_an_id_that_is_never_used_does_not_grow_the_window_for_ever() -> None:
    window = MessageWindow()
    window.grant(10)
    used = 1
    try:
        while used < 100_000:
            window.consume(used, 1)
            window.grant(1)
            used += 1
    except SmbProtocolError:
        pass
    assert used < 5000


def test_multi_credit_must_be_paid(tmp_path: Path) -> None:
    async def main() -> None:
        async with site(tmp_path) as here:
            client = await here.client()
            file_id = await client.opened("big")
            data = bytes(1 << 20)
            body = WriteRequest(file_id, 0, data).pack_head() + data
            assert (await client.ask(Command.WRITE, body)).status == NtStatus.INVALID_PARAMETER
            assert (await client.ask(Command.WRITE, body, charge=16)).status == 0
            read = ReadRequest(file_id, 0, 1 << 20).pack()
            assert (await client.ask(Command.READ, read)).status == NtStatus.INVALID_PARAMETER
            assert (await client.ask(Command.READ, read, charge=16)).status == 0
            too_much = ReadRequest(file_id, 0, (8 << 20) + 1).pack()
            assert (await client.ask(Command.READ, too_much, charge=20)).status == NtStatus.INVALID_PARAMETER

    asyncio.run(main())


def test_related_compound(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"content")
    create = CreateRequest("file", READ, 7, 1).pack()
    query = QueryInfoRequest(RELATED_FILE_ID, InfoType.FILE, 5).pack()
    close = CloseRequest(RELATED_FILE_ID).pack()

    async def main() -> None:
        async with site(tmp_path) as here:
            for secured in (True, False):
                client = await here.client(secured=secured)
                answers = await client.compound(
                    (Command.CREATE, create), (Command.QUERY_INFO, query), (Command.CLOSE, close)
                )
                assert [answer.status for answer in answers] == [0, 0, 0]
                missing = CreateRequest("missing", READ, 7, 1).pack()
                answers = await client.compound(
                    (Command.CREATE, missing), (Command.QUERY_INFO, query), (Command.CLOSE, close)
                )
                assert {answer.status for answer in answers} == {NtStatus.OBJECT_NAME_NOT_FOUND}
                answers = await client.compound(
                    (Command.CREATE, create), (Command.ECHO, EMPTY_BODY), related=False
                )
                assert [answer.status for answer in answers] == [0, 0]

    asyncio.run(main())


def test_large_responses_of_one_compound_come_apart(tmp_path: Path) -> None:
    content = bytes(range(256)) * (6 << 12)
    (tmp_path / "file").write_bytes(content)

    async def main() -> None:
        async with site(tmp_path) as here:
            client = await here.client()
            file_id = await client.opened("file")
            while client.credits < 400:
                await client.ask(Command.ECHO, EMPTY_BODY)
            read = ReadRequest(file_id, 0, len(content)).pack()
            answers = await client.compound(*[(Command.READ, read)] * 3, related=False, charge=96)
            assert [answer.status for answer in answers] == [0, 0, 0]
            assert all(parse_read_response(answer.message) == content for answer in answers)

    asyncio.run(main())


def test_a_slow_request_is_said_to_be_pending(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "INTERIM_AFTER_S", 0.02)
    go_on = asyncio.Event()

    class SlowTree(LocalTree):
        async def statfs(self) -> StatFs:
            await go_on.wait()
            return await super().statfs()

    async def main() -> None:
        async with site(tmp_path, tree=SlowTree(tmp_path)) as here:
            client = await here.client(secured=False)
            root = await client.directory("")
            size = QueryInfoRequest(root, InfoType.FILESYSTEM, 3).pack()
            await client.start(Command.QUERY_INFO, size)
            (interim,) = await client.read()
            assert interim.status == NtStatus.PENDING
            assert interim.header.flags & ASYNC_COMMAND
            assert not interim.header.flags & SIGNED
            assert (await client.ask(Command.ECHO, EMPTY_BODY)).status == 0  # others go on
            go_on.set()
            (final,) = await client.read()
            assert final.status == 0
            assert final.header.async_id == interim.header.async_id
            assert final.header.credits == 0

    asyncio.run(main())


@pytest.mark.parametrize("end", [Command.TREE_DISCONNECT, Command.LOGOFF])
def test_a_create_that_comes_back_after_its_tree_ended(tmp_path: Path, end: int) -> None:
    asked, go_on = asyncio.Event(), asyncio.Event()

    class SlowTree(LocalTree):
        async def lookup(self, directory: Node, path: str, *, follow: bool = False) -> tuple[LocalNode, Attr]:
            if path == "slow":
                asked.set()
                await go_on.wait()
            return await super().lookup(directory, path, follow=follow)

    async def main() -> None:
        async with site(tmp_path, tree=SlowTree(tmp_path)) as here:
            client = await here.client()
            await client.start(Command.CREATE, CreateRequest("slow", ALL, 7, 3).pack())
            await asked.wait()
            assert (await client.ask(end, EMPTY_BODY)).status == 0
            go_on.set()
            (answer,) = await client.read()
            assert answer.status == NtStatus.NETWORK_NAME_DELETED

    asyncio.run(main())


def test_a_related_request_that_comes_first(tmp_path: Path) -> None:
    async def main() -> None:
        async with site(tmp_path) as here:
            client = await here.client()
            header = client.header(Command.CLOSE, flags=4)
            await client.send_raw(client.sign(header.pack() + CloseRequest(RELATED_FILE_ID).pack()))
            assert (await client.read())[0].status == NtStatus.INVALID_PARAMETER

    asyncio.run(main())


def test_compound_after_tree_disconnect(tmp_path: Path) -> None:
    create = CreateRequest("file", ALL, 7, 3).pack()

    async def main() -> None:
        async with site(tmp_path) as here:
            client = await here.client()
            answers = await client.compound(
                (Command.TREE_DISCONNECT, EMPTY_BODY), (Command.CREATE, create), (Command.CREATE, create)
            )
            assert [answer.status for answer in answers] == [
                0,
                NtStatus.NETWORK_NAME_DELETED,
                NtStatus.NETWORK_NAME_DELETED,
            ]
            assert await client.connect() == 0
            answers = await client.compound((Command.LOGOFF, EMPTY_BODY), (Command.CREATE, create))
            assert answers[1].status == NtStatus.USER_SESSION_DELETED
            assert not (tmp_path / "file").exists()

    asyncio.run(main())


def test_tree_connect_and_create_in_one_compound(tmp_path: Path) -> None:
    async def main() -> None:
        async with site(tmp_path) as here:
            client = here.raw()
            await client.negotiate()
            await client.setup()
            answers = await client.compound(
                (Command.TREE_CONNECT, TreeConnectRequest("\\\\server\\share").pack()),
                (Command.CREATE, CreateRequest("new", ALL, 7, 2).pack()),
                (Command.CLOSE, CloseRequest(RELATED_FILE_ID).pack()),
            )
            assert [answer.status for answer in answers] == [0, 0, 0]
            assert (tmp_path / "new").exists()

    asyncio.run(main())


def test_opens_belong_to_their_session_and_tree(tmp_path: Path) -> None:
    async def main() -> None:
        async with site(tmp_path) as here:
            one, two = await here.client(), await here.client(user=b"bob")
            file_id = await one.opened("secret")
            assert await two.close(file_id) == NtStatus.FILE_CLOSED
            tree = one.tree_id
            assert await one.connect() == 0
            assert await one.close(file_id) == NtStatus.FILE_CLOSED
            one.tree_id = tree
            assert await one.close(file_id) == 0
            assert await one.close(file_id) == NtStatus.FILE_CLOSED

    asyncio.run(main())


def test_a_reconnecting_client_replaces_its_session_and_no_other(tmp_path: Path) -> None:
    async def main() -> None:
        async with site(tmp_path) as here:
            old = await here.client()
            file_id = await old.opened("mine", share=0)
            stranger = here.raw()
            await stranger.negotiate()
            assert await stranger.setup(b"mallory", previous=old.session_id) == 0
            assert (await old.ask(Command.ECHO, EMPTY_BODY)).status == 0
            assert await old.close(file_id) == 0
            await old.opened("mine", share=0)
            new = here.raw()
            await new.negotiate()
            assert await new.setup(b"alice", previous=old.session_id) == 0
            assert await new.connect() == 0
            assert (await new.create("mine", share=0))[0] == 0

    asyncio.run(main())


def test_session_binding_is_refused(tmp_path: Path) -> None:
    async def main() -> None:
        async with site(tmp_path) as here:
            victim = await here.client()
            other = here.raw()
            await other.negotiate()
            other.session_id = victim.session_id
            body = SessionSetupRequest(b"x", SESSION_FLAG_BINDING).pack()
            answer = await other.ask(Command.SESSION_SETUP, body)
            assert answer.status == NtStatus.REQUEST_NOT_ACCEPTED
            body = SessionSetupRequest(b"x").pack()
            assert (await other.ask(Command.SESSION_SETUP, body)).status == NtStatus.USER_SESSION_DELETED
            assert (await victim.ask(Command.ECHO, EMPTY_BODY)).status == 0

    asyncio.run(main())


def test_reauthentication(tmp_path: Path) -> None:
    async def main() -> None:
        async with site(tmp_path) as here:
            client = await here.client()
            file_id = await client.opened("file")
            for user, status in ((b"alice", 0), (b"bob", NtStatus.ACCESS_DENIED)):
                await client.ask(Command.SESSION_SETUP, SessionSetupRequest(b"hello").pack())
                answer = await client.ask(Command.SESSION_SETUP, SessionSetupRequest(user).pack())
                assert answer.status == status
                if not status:
                    assert await client.close(file_id) == 0

    asyncio.run(main())


ENDINGS = {
    "not SMB at all": b"GET / HTTP/1.1\r\n",
    "SMB1 only": b"\xffSMB\x72" + bytes(28) + b"\x0c\0\x02NT LM 0.12\0",
    "truncated header": Header(Command.NEGOTIATE, 0).pack()[:63],
    "request before NEGOTIATE": Header(Command.ECHO, 0).pack() + EMPTY_BODY,
    "unknown command": Header(99, 0).pack() + EMPTY_BODY,
    "a response": Header(Command.NEGOTIATE, 0, flags=1).pack() + EMPTY_BODY,
    "message id out of the window": Header(Command.NEGOTIATE, 77).pack() + EMPTY_BODY,
    "encrypted for nobody": b"\xfdSMB" + bytes(32) + b"\x04\0\0\0\0\0\x01\0" + bytes(8) + b"abcd",
    "bad next command": Header(Command.NEGOTIATE, 0, next_command=3).pack() + EMPTY_BODY,
    "empty": b"",
}


@pytest.mark.parametrize("packet", ENDINGS.values(), ids=ENDINGS.keys())
def test_what_ends_the_connection(tmp_path: Path, packet: bytes, caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        async with site(tmp_path) as here:
            for _ in range(3):
                client = here.raw()
                await client.send_raw(packet)
                assert await client.read_packet() is None
            assert await (await here.client()).connect() == 0  # service goes on

    asyncio.run(main())
    warnings = [record for record in caplog.records if record.levelname == "WARNING"]
    assert len(warnings) == 1, "said once for each source"
    assert not any(record.exc_info for record in caplog.records)


def test_oversized_messages_end_the_connection_unread(tmp_path: Path) -> None:
    async def main() -> None:
        async with site(tmp_path) as here:
            stranger = here.raw()
            await stranger.stream.send((1 << 20).to_bytes(4, "big"))
            assert await stranger.read_packet() is None
            client = await here.client()
            await client.stream.send(((1 << 24) - 1).to_bytes(4, "big"))
            assert await client.read_packet() is None

    asyncio.run(main())


def test_negotiate_twice_ends_the_connection(tmp_path: Path) -> None:
    async def main() -> None:
        async with site(tmp_path) as here:
            client = await here.client()
            body = NegotiateRequest((0x0202,), GUID).pack()
            await client.send_raw(client.header(Command.NEGOTIATE).pack() + body)
            assert await client.read_packet() is None

    asyncio.run(main())


def test_opens_are_closed_with_the_stream(tmp_path: Path) -> None:
    async def main() -> None:
        async with site(tmp_path) as here:
            first = await here.client()
            await first.opened("exclusive", share=0)
            second = await here.client(user=b"bob")
            assert (await second.create("exclusive"))[0] == NtStatus.SHARING_VIOLATION
            await first.stream.aclose()
            assert await first.read_packet() is None
            assert (await second.create("exclusive"))[0] == 0

    asyncio.run(main())
