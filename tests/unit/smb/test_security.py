"""Keys, signatures and encryption against published values, and against tampering."""

from __future__ import annotations

import os

import pytest
from impacket.crypto import AES_CMAC, KDF_CounterMode

from quicfs.smb.crypto import PreauthHash, derive_key, derive_session_keys
from quicfs.smb.errors import SmbProtocolError
from quicfs.smb.messages.header import SIGNATURE_OFFSET, Command, Header
from quicfs.smb.signing import Signer
from quicfs.smb.transform import TRANSFORM_HEADER_SIZE, Opener, Sealer, transform_session_id

# Published with Microsoft's description of SMB 3.0 signing.
SESSION_KEY = bytes.fromhex("7CD451825D0450D235424E44BA6E78CC")
SIGNING_KEY_3_0 = bytes.fromhex("0B7E9C5CAC36C0F6EA9AB275298CEDCE")


def test_signing_key_of_3_0() -> None:
    assert derive_session_keys(0x0300, SESSION_KEY).signing == SIGNING_KEY_3_0


def test_key_derivation_agrees_with_impacket() -> None:
    context = os.urandom(64)
    assert derive_key(SESSION_KEY, b"SMBSigningKey\0", context) == KDF_CounterMode(
        SESSION_KEY, b"SMBSigningKey\0", context, 128
    )


def test_keys_of_3_1_1_depend_on_what_was_said_before() -> None:
    one = derive_session_keys(0x0311, SESSION_KEY, bytes(64), 2)
    two = derive_session_keys(0x0311, SESSION_KEY, b"\1" * 64, 2)
    assert len({one.signing, one.client_to_server, one.server_to_client, one.application}) == 4
    assert one.signing != two.signing
    assert len(derive_session_keys(0x0311, SESSION_KEY, bytes(64), 4).client_to_server) == 32
    assert derive_session_keys(0x0210, SESSION_KEY).signing == SESSION_KEY
    assert derive_session_keys(0x0210, b"short").signing == b"short" + bytes(11)


def test_preauth_hash_is_a_chain() -> None:
    whole, pieces = PreauthHash(), PreauthHash()
    whole.update(b"one message")
    pieces.update(b"one ", memoryview(b"message"))
    assert whole.value == pieces.value
    other = whole.copy()
    other.update(b"more")
    assert other.value != whole.value


def _message(command: int = Command.WRITE, mid: int = 7) -> bytes:
    return Header(command, mid, 5, 6, flags=8).pack() + b"head"


@pytest.mark.parametrize("size", [1000, 100_000])
@pytest.mark.parametrize("algorithm", [0, 1, 2])
def test_signatures(algorithm: int, size: int) -> None:
    signer = Signer(algorithm, SESSION_KEY)
    head, tail = _message(), b"payload" * size
    signature = signer.sign((head, tail), server=True)
    signed = bytearray(head + tail)
    signed[SIGNATURE_OFFSET : SIGNATURE_OFFSET + 16] = signature
    assert signer.verify(memoryview(signed), server=True)
    for at in (0, 24, 50, 70, len(signed) - 1):
        changed = bytearray(signed)
        changed[at] ^= 1
        assert not signer.verify(memoryview(changed), server=True)
    assert not Signer(algorithm, bytes(16)).verify(memoryview(signed), server=True)


def test_cmac_agrees_with_impacket() -> None:
    head = _message()
    expected = AES_CMAC(SESSION_KEY, head, len(head))
    assert Signer(1, SESSION_KEY).sign((memoryview(head),), server=False) == expected


def test_gmac_nonce_names_role_message_and_cancel() -> None:
    signer = Signer(2, SESSION_KEY)
    client = signer.sign((_message(),), server=False)
    assert client != signer.sign((_message(),), server=True)
    assert client != signer.sign((_message(mid=8),), server=False)
    assert client != signer.sign((_message(Command.CANCEL),), server=False)


@pytest.mark.parametrize("cipher", [1, 2, 3, 4])
@pytest.mark.parametrize("size", [1, 1000, 300_000])
def test_sealing_and_opening(cipher: int, size: int) -> None:
    key = os.urandom(32 if cipher > 2 else 16)
    sealer, opener = Sealer(cipher, key, 99), Opener(cipher, key)
    parts = (os.urandom(64), os.urandom(size))
    first = b"".join(sealer.seal(parts))
    second = b"".join(sealer.seal(parts))
    assert first != second
    for packet in (first, second):
        assert transform_session_id(memoryview(packet)) == 99
        assert opener.open(memoryview(packet)) == b"".join(parts)
    for at in (5, 20, TRANSFORM_HEADER_SIZE, len(first) - 1):
        changed = bytearray(first)
        changed[at] ^= 1
        with pytest.raises(SmbProtocolError):
            opener.open(memoryview(changed))


def test_no_nonce_is_used_twice() -> None:
    sealer = Sealer(2, bytes(16), 1)
    nonces = {sealer.seal((b"x",))[0][20:32] for _ in range(1000)}
    assert len(nonces) == 1000


@pytest.mark.parametrize("length", [0, 4, 51, 52])
def test_truncated_transform_header(length: int) -> None:
    packet = b"".join(Sealer(2, bytes(16), 1).seal((b"message",)))
    with pytest.raises(SmbProtocolError):
        transform_session_id(memoryview(packet[:length]))
    with pytest.raises(SmbProtocolError):
        transform_session_id(memoryview(packet + b"more"))
