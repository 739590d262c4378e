"""The TLS engine, client and server in one process."""

from __future__ import annotations

import datetime
import errno
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from quicfs.handshake_agent import failures, gnutls, gnutls_library
from quicfs.handshake_agent.config import X509, ConfigError
from quicfs.handshake_agent.credentials import CredentialStore
from quicfs.handshake_agent.gnutls import Credentials, CryptoData, PeerParams, Secret, Session
from quicfs.handshake_agent.gnutls_library import GnutlsError
from quicfs.transport.uapi import PHRASE_MAX_LEN, SECRET_LEN, CryptoLevel, TlsCipher

NAME = "klab.test"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A self-signed certificate, which is its own CA."""
    folder = tmp_path_factory.mktemp("gnutls")
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, NAME)])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(NAME)]), critical=False)
        .sign(key, hashes.SHA256())
    )
    (folder / "cert.pem").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    (folder / "key.pem").write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )
    return folder


class Pair:
    """A client and a server that hand each other what they produce."""

    def __init__(self, folder: Path, *, piece: int = 1 << 20, **client: Any) -> None:
        trusting = Credentials(truststore=folder / "cert.pem")
        serving = Credentials(certificate=folder / "cert.pem", private_key=folder / "key.pem")
        options: dict[str, Any] = {
            "alpn": [b"smb"],
            "peername": NAME,
            "transport_params": b"client's",
            **client,
        }
        self.client = Session(server=False, credentials=trusting, **options)
        self.server = Session(
            server=True,
            credentials=serving,
            transport_params=b"server's",
            alpn=[b"sunrpc", b"smb"],
            verify=False,
        )
        self.outputs: dict[Session, list[gnutls.Output]] = {self.client: [], self.server: []}
        self._piece = piece

    def run(self) -> None:
        done = {self.client: False, self.server: False}
        while not all(done.values()):
            for session, peer in ((self.client, self.server), (self.server, self.client)):
                if not done[session]:
                    done[session] = session.advance()
                produced, session.outputs[:] = list(session.outputs), []
                self.outputs[session] += produced
                for output in produced:
                    if isinstance(output, CryptoData):
                        for start in range(0, len(output.data), self._piece):
                            peer.feed(output.level, output.data[start : start + self._piece])
                            if not done[peer]:
                                done[peer] = peer.advance()

    def close(self) -> None:
        self.client.close()
        self.server.close()


def secrets(outputs: list[gnutls.Output], *, send: bool) -> dict[CryptoLevel, Secret]:
    return {o.level: o for o in outputs if isinstance(o, Secret) and o.send is send}


@pytest.mark.parametrize("piece", [1 << 20, 100, 1])
def test_handshake(folder: Path, piece: int) -> None:
    pair = Pair(folder, piece=piece)
    pair.run()
    client, server = pair.outputs[pair.client], pair.outputs[pair.server]
    for mine, theirs in ((client, server), (server, client)):
        sending, receiving = secrets(mine, send=True), secrets(theirs, send=False)
        assert set(sending) == {CryptoLevel.HANDSHAKE, CryptoLevel.APP}
        assert {level: s.secret for level, s in sending.items()} == {
            level: s.secret for level, s in receiving.items()
        }
    assert [o.data for o in client if isinstance(o, PeerParams)] == [b"server's"]
    assert [o.data for o in server if isinstance(o, PeerParams)] == [b"client's"]
    assert pair.client.selected_alpn == pair.server.selected_alpn == b"smb"
    pair.close()
    pair.close()


def test_secret_is_there_before_what_it_protects(folder: Path) -> None:
    pair = Pair(folder)
    pair.run()
    for outputs in pair.outputs.values():
        known = {CryptoLevel.INITIAL}
        for output in outputs:
            if isinstance(output, Secret) and output.send:
                known.add(output.level)
            if isinstance(output, CryptoData):
                assert output.level in known
    assert not any(
        isinstance(o, CryptoData) and o.level == CryptoLevel.APP for o in pair.outputs[pair.server]
    ), "no session ticket"
    pair.close()


@pytest.mark.parametrize("cipher", list(TlsCipher))
def test_one_cipher(folder: Path, cipher: TlsCipher) -> None:
    pair = Pair(folder, cipher=cipher)
    pair.run()
    (secret, *_) = [o for o in pair.outputs[pair.client] if isinstance(o, Secret)]
    assert secret.cipher == cipher
    assert len(secret.secret) == SECRET_LEN[cipher]
    pair.close()


def test_secrets_have_no_repr(folder: Path) -> None:
    pair = Pair(folder)
    pair.run()
    for output in pair.outputs[pair.client]:
        assert "b'" not in repr(output)
    pair.close()


@pytest.mark.parametrize(
    ("options", "code", "alert"),
    [
        ({"peername": "other.test"}, errno.EACCES, 42),
        ({"peername": "192.0.2.1"}, errno.EACCES, 42),
        ({"alpn": [b"h3"]}, errno.EPROTONOSUPPORT, 120),
    ],
)
def test_refused(folder: Path, options: dict[str, Any], code: int, alert: int) -> None:
    pair = Pair(folder, **options)
    with pytest.raises(GnutlsError) as caught:
        pair.run()
    failure = failures.from_gnutls(caught.value, "the peer", None)
    assert (failure.errno, failure.alert) == (code, alert)
    pair.close()


def test_exception_in_a_callback_comes_out(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Raising through C would print a traceback and go on as if nothing had happened."""
    pair = Pair(folder)
    monkeypatch.setattr(pair.client, "_library", None)
    session = pair.client
    with pytest.raises(AttributeError):
        session.secret(2, 1, 1, 32)
    monkeypatch.undo()

    class Refusing(list[gnutls.Output]):
        def append(self, output: gnutls.Output) -> None:
            raise LookupError("no room")

    pair.server.outputs = Refusing()
    with pytest.raises(LookupError, match="no room"):
        pair.run()
    pair.close()


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.binary(min_size=1, max_size=400), kind=st.sampled_from([b"", b"\x01\x00\x00\x40\x03\x03"]))
def test_garbage(folder: Path, data: bytes, kind: bytes) -> None:
    pair = Pair(folder)
    try:
        pair.server.feed(CryptoLevel.INITIAL, kind + data)
        assert not pair.server.advance()
    except GnutlsError as error:
        failure = failures.from_gnutls(error, "the client", pair.server.sent_alert)
        assert 0 < failure.alert < 256
        assert len(failure.connection_close().phrase) <= PHRASE_MAX_LEN
    pair.close()


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(at=st.integers(0, 400), flip=st.integers(1, 255))
def test_changed_bytes(folder: Path, at: int, flip: int) -> None:
    """One byte of the ClientHello is changed on the way: the client never completes."""
    pair = Pair(folder)
    pair.client.advance()
    hello = pair.client.outputs.pop()
    assert isinstance(hello, CryptoData)
    changed = bytearray(hello.data)
    changed[at % len(changed)] ^= flip
    try:
        pair.server.feed(CryptoLevel.INITIAL, bytes(changed))
        pair.server.advance()
        for output in list(pair.server.outputs):
            if isinstance(output, CryptoData):
                pair.client.feed(output.level, output.data)
        assert not pair.client.advance()
    except GnutlsError:
        pass
    pair.close()


def test_missing_library(monkeypatch: pytest.MonkeyPatch) -> None:
    gnutls_library.load.cache_clear()
    monkeypatch.setattr(gnutls_library, "SONAME", "libgnutls.so.does-not-exist")
    with pytest.raises(failures.TlsUnavailable, match="install the Debian package libgnutls30"):
        gnutls_library.load()
    monkeypatch.undo()
    gnutls_library.load.cache_clear()
    gnutls_library.load()


def test_old_library(monkeypatch: pytest.MonkeyPatch) -> None:
    gnutls_library.load.cache_clear()
    monkeypatch.setattr(gnutls_library, "MIN_VERSION", b"99.0.0")
    with pytest.raises(failures.TlsUnavailable, match=r"99\.0\.0 or newer"):
        gnutls_library.load()
    monkeypatch.undo()
    gnutls_library.load.cache_clear()


def test_credentials_that_are_no_good(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "empty.pem").write_text("")
    with pytest.raises(GnutlsError):
        Credentials(truststore=tmp_path / "empty.pem")
    with pytest.raises(GnutlsError):
        Credentials(certificate=folder / "key.pem", private_key=folder / "cert.pem")
    with pytest.raises(FileNotFoundError):
        Credentials(truststore=tmp_path / "missing.pem")


def test_store_reads_again_when_a_file_changes(folder: Path, tmp_path: Path) -> None:
    trust = tmp_path / "trust.pem"
    store = CredentialStore(X509(truststore=trust), system_trust=True)
    with pytest.raises(ConfigError, match=r"trust\.pem"):
        store.get()
    trust.write_bytes((folder / "cert.pem").read_bytes())
    first = store.get()
    assert store.get() is first
    fresh = tmp_path / "fresh.pem"
    fresh.write_bytes(trust.read_bytes())
    fresh.replace(trust)
    second = store.get()
    assert second is not first
    trust.write_text("half")
    assert store.get() is second
    trust.unlink()
    assert store.get() is second


def test_long_names_do_not_burst_the_phrase() -> None:
    for bit in (6, 7, 11, 5, 10, 9, 14, 18, 8, 30):
        error = GnutlsError(failures.E_CERTIFICATE_VERIFICATION_ERROR, 1 << bit)
        for peer in ("h.test", "very-long-name." * 16, "é" * 60):
            failure = failures.from_gnutls(error, peer, None)
            assert len(failure.connection_close().phrase) <= PHRASE_MAX_LEN
            assert failure.errno
