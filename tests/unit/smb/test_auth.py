"""The authenticator: SPNEGO around NTLM, guests, anonymous sessions, reflection."""

from __future__ import annotations

import asyncio
import logging
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from impacket import ntlm, spnego

from quicfs.smb.auth import NtlmAuthenticator, NtlmExchange, is_local_address
from quicfs.smb.auth_api import Authenticator, AuthExchange
from quicfs.smb.client.logon import Logon, LogonRefused
from quicfs.smb.errors import SmbProtocolError
from quicfs.smb.ntlm import Credentials, NtlmInitiator, TargetNames
from quicfs.smb.ntstatus import NtStatus
from quicfs.smb.spnego import NTLMSSP, NegState, NegTokenInit, NegTokenResp, parse
from quicfs.smb.users import nt_hash
from tests.unit.smb.raw_client import site

KERBEROS = "1.2.840.113554.1.2.2"
MORE = NtStatus.MORE_PROCESSING_REQUIRED


class Users:
    def find(self, name: str) -> bytes | None:
        return nt_hash("secret") if name.upper() == "ALICE" else None


AUTHENTICATOR = NtlmAuthenticator(Users(), TargetNames("server", dns_computer="server.example"))


def exchange(*, peer: str = "127.0.0.1:50000", allow_guest: bool = False) -> NtlmExchange:
    return AUTHENTICATOR.new_exchange(peer=peer, allow_guest=allow_guest)


def logon(user: str = "alice", password: str = "secret") -> Logon:
    return Logon(Credentials(user, password), "server.example")


def run(client: Logon, server: AuthExchange) -> NtStatus:
    token = client.first(AUTHENTICATOR.negotiate_token())
    status, answer = server.step(token)
    assert status is MORE
    status, answer = server.step(client.answer(answer))
    if status is NtStatus.SUCCESS:
        client.finish(answer)
    return status


def test_it_is_an_authenticator() -> None:
    authenticator: Authenticator = AUTHENTICATOR
    assert authenticator.new_exchange(peer="").user == ""


def test_our_client_logs_in_and_both_check_the_list_of_mechanisms() -> None:
    client, server = logon(), exchange()
    assert run(client, server) is NtStatus.SUCCESS
    assert (server.user, server.is_guest, server.is_anonymous) == ("alice", False, False)
    assert server.session_key == client.session_key
    assert client.mechanisms_proved


def test_impackets_spnego_logs_in() -> None:
    server = exchange()
    init = spnego.SPNEGO_NegTokenInit()
    init["MechTypes"] = [spnego.TypesMech["NTLMSSP - Microsoft NTLM Security Support Provider"]]
    first = ntlm.getNTLMSSPType1("here", "", True)
    init["MechToken"] = first.getData()
    status, answer = server.step(init.getData())
    assert status is MORE
    challenge = spnego.SPNEGO_NegTokenResp(answer)["ResponseToken"]
    last, key = ntlm.getNTLMSSPType3(first, challenge, "ALICE", "secret", "")
    resp = spnego.SPNEGO_NegTokenResp()
    resp["ResponseToken"] = last.getData()
    assert server.step(resp.getData())[0] is NtStatus.SUCCESS
    assert server.session_key == key


def ntlm_client(user: str = "alice", password: str = "secret") -> NtlmInitiator:
    return NtlmInitiator(Credentials(user, password), "server", 0, os.urandom)


def test_ntlm_without_spnego() -> None:
    client, server = ntlm_client(), exchange()
    status, challenge = server.step(client.negotiate())
    assert status is MORE
    assert challenge.startswith(b"NTLMSSP\0")
    assert server.step(client.authenticate(challenge)) == (NtStatus.SUCCESS, b"")
    assert server.session_key == client.session_key


def kerberos_first(*, mic: bool) -> tuple[NtStatus, bytes]:
    client, server = ntlm_client(), exchange()
    init = NegTokenInit([KERBEROS, NTLMSSP], b"a ticket")
    status, answer = server.step(init.encode())
    assert status is MORE
    assert parse(answer) == NegTokenResp(NegState.REQUEST_MIC, NTLMSSP)
    status, answer = server.step(NegTokenResp(token=client.negotiate()).encode())
    assert status is MORE
    resp = parse(answer)
    assert isinstance(resp, NegTokenResp)
    assert resp.token
    last = client.authenticate(resp.token)
    assert client.context
    signature = client.context.sign(init.mech_list(), by_client=True) if mic else None
    return server.step(NegTokenResp(token=last, mic=signature).encode())


def test_another_mechanism_preferred() -> None:
    assert kerberos_first(mic=True)[0] is NtStatus.SUCCESS
    assert kerberos_first(mic=False)[0] is NtStatus.LOGON_FAILURE


def test_no_ntlm_offered() -> None:
    assert exchange().step(NegTokenInit([KERBEROS], b"x").encode()) == (NtStatus.LOGON_FAILURE, b"")


def test_a_list_of_mechanisms_changed_on_the_way() -> None:
    client, server = ntlm_client(), exchange()
    _, answer = server.step(NegTokenInit([NTLMSSP, KERBEROS], client.negotiate()).encode())
    resp = parse(answer)
    assert isinstance(resp, NegTokenResp)
    assert resp.token
    last = client.authenticate(resp.token)
    assert client.context
    sent = NegTokenInit([NTLMSSP]).mech_list()
    token = NegTokenResp(token=last, mic=client.context.sign(sent, by_client=True)).encode()
    assert server.step(token)[0] is NtStatus.LOGON_FAILURE


def test_unknown_users_and_wrong_passwords_look_alike(caplog: pytest.LogCaptureFixture) -> None:
    answers = set()
    for user, password in (("mallory", "secret"), ("alice", "wrong"), ("alice", "")):
        client, server = logon(user, password), exchange()
        server_answer = server.step(client.first(b""))
        answers.add(server.step(client.answer(server_answer[1])))
        assert (server.user, server.session_key) == ("", bytes(16))
    assert answers == {(NtStatus.LOGON_FAILURE, b"")}
    assert len(caplog.records) == 3


def test_guests() -> None:
    server = exchange(allow_guest=True)
    assert run(logon("mallory", "x"), server) is NtStatus.SUCCESS
    assert (server.user, server.is_guest, server.session_key) == ("guest", True, bytes(16))
    server = exchange(allow_guest=True)
    assert run(logon("", ""), server) is NtStatus.SUCCESS
    assert (server.user, server.is_guest, server.is_anonymous) == ("guest", True, False)
    server = exchange(allow_guest=True)
    assert run(logon("alice", "wrong"), server) is NtStatus.LOGON_FAILURE


def test_anonymous_sessions() -> None:
    server = exchange()
    assert run(logon("", ""), server) is NtStatus.SUCCESS
    assert (server.user, server.is_anonymous, server.session_key) == ("", True, bytes(16))
    closed = NtlmAuthenticator(Users(), TargetNames("server"), anonymous=False)
    assert run(logon("", ""), closed.new_exchange(peer="")) is NtStatus.LOGON_FAILURE


def test_a_reflected_proof_is_refused(caplog: pytest.LogCaptureFixture) -> None:
    # Our own client was lured to 192.0.2.7, which brings its answer to our server.
    with caplog.at_level(logging.WARNING):
        assert run(logon(), exchange(peer="192.0.2.7:443")) is NtStatus.LOGON_FAILURE
    assert "reflected" in caplog.text


@pytest.mark.parametrize(
    ("peer", "local"),
    [
        ("127.0.0.1:1", True),
        ("127.3.2.1:1", True),
        ("192.0.2.7:443", False),
        ("[2001:db8::1]:443", False),
        ("[::ffff:127.0.0.1]:9", True),
        ("[::ffff:192.0.2.7]:9", False),
        ("in memory", True),
    ],
)
def test_local_addresses(peer: str, local: bool) -> None:
    assert is_local_address(peer) is local


def test_the_client_checks_the_servers_signature() -> None:
    client, server = logon(), exchange()
    _, answer = server.step(client.first(b""))
    _, answer = server.step(client.answer(answer))
    good = parse(answer)
    assert isinstance(good, NegTokenResp)
    assert good.mic
    bad = NegTokenResp(NegState.ACCEPT_COMPLETED, mic=good.mic[:-1] + bytes([good.mic[-1] ^ 1]))
    with pytest.raises(LogonRefused, match="mechanisms"):
        client.finish(bad.encode())


def test_the_client_wants_ntlm() -> None:
    with pytest.raises(LogonRefused, match="NTLM"):
        logon().first(NegTokenInit([KERBEROS]).encode(hints=True))
    client = logon()
    client.first(b"")
    with pytest.raises(LogonRefused):
        client.answer(NegTokenResp(NegState.REJECT).encode())
    client = logon()
    client.first(b"")
    with pytest.raises(SmbProtocolError):
        client.answer(b"\x30\x00")


@given(st.binary(max_size=200), st.sampled_from([b"", b"NTLMSSP\0", b"\x60\x20", b"\xa1\x20"]))
def test_noise_gets_an_answer(noise: bytes, head: bytes) -> None:
    assert exchange().step(head + noise)[0] in {NtStatus.INVALID_PARAMETER, NtStatus.LOGON_FAILURE}


@given(st.data())
def test_damaged_tokens_get_an_answer(data: st.DataObject) -> None:
    client, server = logon(), exchange()
    token = bytearray(client.first(b""))
    which = data.draw(st.booleans())
    if which:
        token = bytearray(client.answer(server.step(bytes(token))[1]))
    at = data.draw(st.integers(0, len(token) - 1))
    token[at] ^= data.draw(st.integers(1, 255))
    status, _ = server.step(bytes(token))
    assert not which or status in {NtStatus.INVALID_PARAMETER, NtStatus.LOGON_FAILURE, NtStatus.SUCCESS}


def test_tokens_that_are_too_long() -> None:
    assert exchange().step(bytes(1 << 20)) == (NtStatus.INVALID_PARAMETER, b"")


def test_a_relayed_login_gets_no_share_even_on_a_secured_channel(tmp_path: Path) -> None:
    async def main() -> None:
        async with site(tmp_path) as here:
            relay = here.raw(secured=True)
            await relay.negotiate()
            assert await relay.setup() == NtStatus.SUCCESS
            relay.signer = None  # the victim's key stayed with the victim
            assert await relay.connect() == NtStatus.ACCESS_DENIED

    asyncio.run(main())
