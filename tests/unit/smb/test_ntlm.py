"""NTLMv2: the specification's own example, impacket as the other end, and what must be refused."""

from __future__ import annotations

import os
import struct
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st
from impacket import ntlm

from quicfs.smb.errors import SmbProtocolError
from quicfs.smb.ntlm import Credentials, NtlmAcceptor, NtlmInitiator, NtlmRefused, TargetNames
from quicfs.smb.users import nt_hash

NAMES = TargetNames("server", dns_computer="server.example")
NOW = 1_700_000_000_000_000_000
USERS = {"ALICE": nt_hash("secret")}


def find(name: str) -> bytes | None:
    return USERS.get(name.upper())


def acceptor() -> NtlmAcceptor:
    return NtlmAcceptor(NAMES, NOW, os.urandom)


def initiator(user: str = "alice", password: str = "secret", **more: str) -> NtlmInitiator:
    return NtlmInitiator(Credentials(user, password, **more), "server.example", NOW, os.urandom)


# [MS-NLMP] §4.2.4: user User, domain Domain, password Password, key 16 times 0x55
SPEC_AUTHENTICATE = bytes.fromhex(
    "4e544c4d5353500003000000180018006c0000005400540084000000"
    "0c000c00480000000800080054000000100010005c000000"
    "10001000d8000000358288e20501280a0000000f"
    "44006f006d00610069006e005500730065007200"
    "43004f004d0050005500540045005200"
    "86c35097ac9cec102554764a57cccc19aaaaaaaaaaaaaaaa"
    "68cd0ab851e51c96aabc927bebef6a1c0101000000000000000000000000"
    "0000aaaaaaaaaaaaaaaa0000000002000c0044006f006d00610069006e00"
    "01000c005300650072007600650072000000000000000000"
    "c5dad2544fc979909 4ce1ce90bc9d03e".replace(" ", "")
)


def test_the_example_of_the_specification() -> None:
    server = NtlmAcceptor(NAMES, NOW, lambda size: bytes.fromhex("0123456789abcdef"))
    server.challenge(b"NTLMSSP\0" + struct.pack("<II", 1, 0xE2088233) + bytes(16))
    logon = server.verify(SPEC_AUTHENTICATE, lambda name: nt_hash("Password") if name == "User" else None)
    assert logon.session_key == b"\x55" * 16
    assert (logon.user, logon.domain, logon.workstation, logon.known) == ("User", "Domain", "COMPUTER", True)


def test_both_ends_agree_on_the_key() -> None:
    client, server = initiator(), acceptor()
    logon = server.verify(client.authenticate(server.challenge(client.negotiate())), find)
    assert logon.known
    assert logon.user == "alice"
    assert logon.session_key == client.session_key != bytes(16)
    assert logon.same_machine
    assert logon.context is not None and client.context is not None
    for by_client in (True, False):
        signature = client.context.sign(b"list", by_client=by_client)
        assert logon.context.verify(b"list", signature, by_client=by_client)
        assert not logon.context.verify(b"list", signature, by_client=not by_client)
        assert not logon.context.verify(b"tsil", signature, by_client=by_client)


def test_the_hash_serves_instead_of_the_password() -> None:
    client = NtlmInitiator(Credentials("Alice", nt_hash=nt_hash("secret")), "server", NOW, os.urandom)
    server = acceptor()
    assert server.verify(client.authenticate(server.challenge(client.negotiate())), find).known


def test_impacket_logs_in() -> None:
    server = acceptor()
    first = ntlm.getNTLMSSPType1("here", "", True)
    challenge = server.challenge(first.getData())
    last, key = ntlm.getNTLMSSPType3(first, challenge, "alice", "secret", "DOMAIN")
    logon = server.verify(last.getData(), find)
    assert logon.session_key == key
    assert not logon.same_machine


@pytest.mark.parametrize(
    ("client", "why"),
    [
        (initiator(password="wrong"), "wrong password"),
        (initiator(password=""), "wrong password"),
    ],
)
def test_a_wrong_password(client: NtlmInitiator, why: str) -> None:
    server = acceptor()
    with pytest.raises(NtlmRefused, match=why):
        server.verify(client.authenticate(server.challenge(client.negotiate())), find)


def test_an_unknown_user_proves_nothing() -> None:
    client, server = initiator("mallory"), acceptor()
    logon = server.verify(client.authenticate(server.challenge(client.negotiate())), find)
    assert not logon.known and not logon.anonymous
    assert logon.context is None
    assert logon.session_key == bytes(16)


def test_anonymous() -> None:
    client, server = initiator("", ""), acceptor()
    logon = server.verify(client.authenticate(server.challenge(client.negotiate())), find)
    assert logon.anonymous and not logon.known and logon.user == ""


def test_anonymous_as_samba_does_it() -> None:
    client, server = initiator("", ""), acceptor()
    last = client.authenticate(server.challenge(client.negotiate()))
    flags = int.from_bytes(last[60:64], "little")
    assert flags & ntlm.NTLMSSP_NEGOTIATE_EXTENDED_SESSIONSECURITY
    flags &= ~(ntlm.NTLMSSP_NEGOTIATE_EXTENDED_SESSIONSECURITY | ntlm.NTLMSSP_NEGOTIATE_KEY_EXCH)
    logon = server.verify(altered(last, 60, flags.to_bytes(4, "little")), find)
    assert logon.anonymous
    assert logon.context is None


def test_a_user_cannot_take_extended_security_back() -> None:
    client, server = initiator(), acceptor()
    last = client.authenticate(server.challenge(client.negotiate()))
    with pytest.raises(NtlmRefused, match="took"):
        server.verify(altered(last, 60, (0x201).to_bytes(4, "little")), find)


def altered(message: bytes, at: int, value: bytes) -> bytes:
    return message[:at] + value + message[at + len(value) :]


@pytest.mark.parametrize("at", [60, 72, 87])
def test_the_mic_covers_all_of_the_message(at: int) -> None:
    client, server = initiator(), acceptor()
    last = client.authenticate(server.challenge(client.negotiate()))
    broken = altered(last, at, bytes([last[at] ^ 0x20]))
    with pytest.raises(NtlmRefused):
        server.verify(broken, find)


def test_a_changed_negotiate_is_found_out() -> None:
    client, server = initiator(), acceptor()
    first = client.negotiate()
    flags = int.from_bytes(first[12:16], "little") & ~ntlm.NTLMSSP_NEGOTIATE_SEAL
    challenge = server.challenge(altered(first, 12, flags.to_bytes(4, "little")))
    with pytest.raises(NtlmRefused):
        server.verify(client.authenticate(challenge), find)


def test_the_proof_is_for_one_challenge_only() -> None:
    client, server, other = initiator(), acceptor(), acceptor()
    last = client.authenticate(server.challenge(client.negotiate()))
    other.challenge(client.negotiate())
    with pytest.raises(NtlmRefused):
        other.verify(last, find)


def old_response(server: NtlmAcceptor, first: ntlm.NTLMAuthNegotiate) -> bytes:
    challenge = server.challenge(first.getData())
    last, _ = ntlm.getNTLMSSPType3(first, challenge, "alice", "secret", "", use_ntlmv2=False)
    return bytes(last.getData())


def test_ntlmv1_is_refused() -> None:
    server = acceptor()
    last = old_response(server, ntlm.getNTLMSSPType1("", "", True))
    with pytest.raises(NtlmRefused, match="NTLMv1"):
        server.verify(last, find)


def test_a_client_without_extended_security_is_refused() -> None:
    message = b"NTLMSSP\0" + struct.pack("<II", 1, 0x00000201) + bytes(16)
    with pytest.raises(NtlmRefused):
        acceptor().challenge(message)


def test_the_client_refuses_a_challenge_of_the_old_kind() -> None:
    client, server = initiator(), acceptor()
    challenge = server.challenge(client.negotiate())
    with pytest.raises(NtlmRefused, match="old NTLM"):
        client.authenticate(altered(challenge, 20, (0x00000201).to_bytes(4, "little")))


@pytest.mark.parametrize(
    "make",
    [
        lambda message: b"",
        lambda message: message[:11],
        lambda message: b"X" + message[1:],
        lambda message: altered(message, 8, b"\x02\0\0\0"),
        lambda message: message[:64],
        lambda message: altered(message, 24, b"\xff\xff\xff\xff"),
        lambda message: altered(message, 20, b"\xff\xff"),
        lambda message: altered(message, 52, b"\x01\0"),
        lambda message: message + bytes(8192),
    ],
)
def test_malformed_messages(make: Callable[[bytes], bytes]) -> None:
    client, server = initiator(), acceptor()
    last = client.authenticate(server.challenge(client.negotiate()))
    with pytest.raises(SmbProtocolError):
        server.verify(make(last), find)


@given(st.data())
def test_nothing_else_is_raised_on_noise(data: st.DataObject) -> None:
    client, server = initiator(), acceptor()
    messages = [client.negotiate()]
    messages.append(server.challenge(messages[0]))
    messages.append(client.authenticate(messages[1]))
    takers = [acceptor().challenge, initiator().authenticate, lambda message: server.verify(message, find)]
    which = data.draw(st.integers(0, 2))
    message = bytearray(messages[which])
    for _ in range(data.draw(st.integers(0, 4))):
        message[data.draw(st.integers(8, len(message) - 1))] = data.draw(st.integers(0, 255))
    del message[data.draw(st.integers(0, len(message))) :]
    try:
        takers[which](bytes(message))
    except (SmbProtocolError, NtlmRefused):
        pass
