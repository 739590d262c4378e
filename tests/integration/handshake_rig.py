"""What tests of the handshake need: certificates, agents in processes of their own, and ports.

Two ports back to back stand for the two ends of a connection.
"""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import ipaddress
import os
import socket
import subprocess
import sys
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from quicfs.transport import handshake as hs
from quicfs.transport.handshake import HandshakeError, HandshakeNet, HandshakeRequest
from quicfs.transport.uapi import (
    AuthMode,
    Config,
    ConnectionClose,
    CryptoLevel,
    CryptoSecret,
    MessageType,
    SockOpt,
)

NAME = "klab.test"


# ---- certificates


@dataclass
class Authority:
    """A CA that writes PEM files into `folder`."""

    folder: Path
    name: str
    key: ec.EllipticCurvePrivateKey = field(default_factory=lambda: ec.generate_private_key(ec.SECP256R1()))

    def __post_init__(self) -> None:
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, self.name)])
        self.subject = subject
        certificate = (
            self._builder(subject, self.key, days=10)
            .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
            .sign(self.key, hashes.SHA256())
        )
        self.path = self.folder / f"{self.name}.pem"
        self.path.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))

    def _builder(
        self, subject: x509.Name, key: ec.EllipticCurvePrivateKey, days: float
    ) -> x509.CertificateBuilder:
        now = datetime.datetime.now(datetime.UTC)
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self.subject)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(days=5))
            .not_valid_after(now + datetime.timedelta(days=days))
        )

    def issue(
        self,
        file: str,
        *names: str,
        days: float = 5,
        purpose: x509.ObjectIdentifier = ExtendedKeyUsageOID.SERVER_AUTH,
    ) -> tuple[Path, Path]:
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, file)])
        builder = self._builder(subject, key, days).add_extension(x509.ExtendedKeyUsage([purpose]), False)
        if names:
            builder = builder.add_extension(x509.SubjectAlternativeName([_general(n) for n in names]), False)
        certificate = builder.sign(self.key, hashes.SHA256())
        pem, pem_key = self.folder / f"{file}.pem", self.folder / f"{file}.key"
        pem.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
        pem_key.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            )
        )
        return pem, pem_key


def _general(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


@dataclass
class Pki:
    folder: Path

    def __post_init__(self) -> None:
        client = ExtendedKeyUsageOID.CLIENT_AUTH
        self.ca = Authority(self.folder, "ca")
        self.other_ca = Authority(self.folder, "other-ca")
        self.server = self.ca.issue("server", NAME, "127.0.0.1", "::1")
        self.expired = self.ca.issue("expired", NAME, days=-1)
        self.wrong_purpose = self.ca.issue("wrong-purpose", NAME, purpose=client)
        self.client = self.ca.issue("client", purpose=client)
        self.stranger = self.other_ca.issue("stranger", purpose=client)


def toml(
    *,
    truststore: Path | None = None,
    server: tuple[Path, Path] | None = None,
    client: tuple[Path, Path] | None = None,
    clients_ca: Path | None = None,
    client_certificates: str = "off",
    agent: str = "",
) -> str:
    def pair(files: tuple[Path, Path] | None) -> str:
        return f'x509.certificate = "{files[0]}"\nx509.private_key = "{files[1]}"\n' if files else ""

    def trust(path: Path | None) -> str:
        return f'x509.truststore = "{path}"\n' if path else ""

    return (
        f"[agent]\n{agent}\n[authenticate.client]\n{trust(truststore)}{pair(client)}"
        f"[authenticate.server]\n{trust(clients_ca)}{pair(server)}"
        f'client_certificates = "{client_certificates}"\n'
    )


# ---- processes


class Agents:
    """Starts agent processes, and ends them."""

    def __init__(self) -> None:
        self.processes: list[subprocess.Popen[str]] = []

    def private(self, config: str) -> tuple[socket.socket, subprocess.Popen[str]]:
        """An agent for one consumer, and the consumer's end of its bus."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            process = self.start(["--bus-fd", str(theirs.fileno())], config, (theirs.fileno(),))
        return ours, process

    def listening(self, config: str, path: Path) -> subprocess.Popen[str]:
        """An agent that serves on `path` when this returns."""
        ready, tell = os.pipe()
        try:
            arguments = ["--socket", str(path), "--ready-fd", str(tell)]
            process = self.start(arguments, config, (tell,))
            os.close(tell)
            assert os.read(ready, 1), "the agent did not start"
        finally:
            os.close(ready)
        return process

    def start(self, arguments: list[str], config: str, fds: tuple[int, ...]) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-m", "quicfs.handshake_agent", "--config", "-", *arguments],
            stdin=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            pass_fds=fds,
        )
        assert process.stdin is not None
        process.stdin.write(config)
        process.stdin.close()
        self.processes.append(process)
        return process

    def close(self) -> None:
        for process in self.processes:
            if process.poll() is None:
                process.kill()
            process.wait()
            assert process.stderr is not None
            process.stderr.close()


# ---- ports


class FakePort:
    """One end of a connection that loses nothing: what is sent arrives in the peer's next turn."""

    def __init__(self, name: bytes, alpn: bytes = b"smb", config: Config | None = None) -> None:
        self.options = {
            SockOpt.ALPN: alpn,
            SockOpt.TRANSPORT_PARAM_EXT: b"parameters of " + name,
            SockOpt.CONFIG: (config or Config()).pack(),
            SockOpt.SESSION_TICKET: b"",
        }
        self.set: dict[int, bytes] = {}
        self.secrets: dict[tuple[int, int], CryptoSecret] = {}
        self.order: list[str] = []
        self.peer: FakePort | None = None
        self.close: ConnectionClose | None = None
        self.on_peer_close: Callable[[ConnectionClose], None] = lambda close: None
        self.hello_sent = asyncio.Event()
        self.got_ticket = asyncio.Event()
        self.failed = asyncio.Event()
        self.got_app_secret = asyncio.Event()
        self.done = False
        self.sent: dict[int, int] = dict.fromkeys(CryptoLevel, 0)
        """Bytes of CRYPTO data by level."""
        self.hello = b""
        self.early_refused = False
        self.drop_app_crypto = False
        self._reader: Callable[[int, bytes], None] | None = None
        self._early: list[tuple[int, bytes]] = []

    def getsockopt(self, optname: int) -> bytes:
        return self.options[SockOpt(optname)]

    def setsockopt(self, optname: int, value: bytes) -> None:
        self.order.append(SockOpt(optname).name)
        if optname == SockOpt.CRYPTO_SECRET:
            secret = CryptoSecret.unpack(value)
            if not secret.type:  # early data were refused
                assert (secret.send, secret.level) == (1, CryptoLevel.EARLY)
                self.early_refused = True
                self.order[-1] += " refused"
                del self.secrets[1, CryptoLevel.EARLY]
                return
            assert secret.material
            self.secrets[secret.send, secret.level] = secret
            if secret.level == CryptoLevel.APP:
                self.got_app_secret.set()
        elif optname == SockOpt.CONNECTION_CLOSE:
            self.close = ConnectionClose.unpack(value)
            if self.peer is not None:
                self.peer.on_peer_close(self.close)
        else:
            self.set[optname] = value
            if optname == SockOpt.SESSION_TICKET:
                self.got_ticket.set()

    def send_crypto(self, level: int, data: bytes) -> None:
        self.order.append(f"CRYPTO {CryptoLevel(level).name}")
        self.hello_sent.set()
        self.sent[level] += len(data)
        if level == CryptoLevel.INITIAL:
            self.hello += data
        if self.drop_app_crypto and level == CryptoLevel.APP:
            return
        # RFC 9001 §4: nothing goes out at a level whose secret is not there
        assert level == CryptoLevel.INITIAL or (1, level) in self.secrets
        if self.peer is not None:
            asyncio.get_running_loop().call_soon(self.peer.receive, level, data)

    def handshake_done(self) -> None:
        self.done = True

    def tls_failed(self) -> None:
        self.failed.set()

    @property
    def has_reader(self) -> bool:
        return self._reader is not None

    def attach_crypto_reader(self, callback: Callable[[int, bytes], None] | None) -> None:
        self._reader = callback
        if callback is not None:
            early, self._early = self._early, []
            for level, data in early:
                callback(level, data)

    def receive(self, level: int, data: bytes) -> None:
        if self._reader is None:
            self._early.append((level, data))
        else:
            self._reader(level, data)


def connected(client: FakePort, server: FakePort) -> tuple[FakePort, FakePort]:
    client.peer, server.peer = server, client
    return client, server


def ports(**options: bytes) -> tuple[FakePort, FakePort]:
    return connected(FakePort(b"client", **options), FakePort(b"server", **options))


Outcome = hs.HandshakeResult | BaseException


async def both(
    net: HandshakeNet,
    client: FakePort,
    server: FakePort,
    *,
    peername: str = NAME,
    auth_mode: int = AuthMode.UNAUTH,
    timeout_ms: int = 20_000,
) -> tuple[Outcome, Outcome]:
    """Both sides' outcomes. As in a connection, a side whose peer closes gives up."""
    request = HandshakeRequest(MessageType.CLIENTHELLO, timeout_ms, auth_mode, peername)
    sides = (
        asyncio.ensure_future(net.handshake(client, request)),
        asyncio.ensure_future(hs.tls_server_hello_x509(net, server, timeout_ms=timeout_ms)),
    )
    client.on_peer_close = lambda close: sides[0].cancel() and None
    server.on_peer_close = lambda close: sides[1].cancel() and None
    first, second = await asyncio.gather(*sides, return_exceptions=True)
    return first, second


def assert_same_secrets(client: FakePort, server: FakePort) -> None:
    for level in (CryptoLevel.HANDSHAKE, CryptoLevel.APP):
        for send in (0, 1):
            assert client.secrets[send, level].material == server.secrets[1 - send, level].material
            assert client.secrets[send, level].type == server.secrets[1 - send, level].type
    assert client.set[SockOpt.TRANSPORT_PARAM_EXT] == b"parameters of server"
    assert server.set[SockOpt.TRANSPORT_PARAM_EXT] == b"parameters of client"


def open_sockets() -> int:
    links = []
    for fd in os.listdir("/proc/self/fd"):
        with contextlib.suppress(FileNotFoundError):  # the one that listed
            links.append(os.readlink(f"/proc/self/fd/{fd}"))
    return sum(link.startswith("socket:") for link in links)


def run(main: Callable[[HandshakeNet], Awaitable[None]], *buses: socket.socket, **options: object) -> None:
    """Run `main` with a net that has these agents; nothing may be left open."""

    async def wrapped() -> None:
        net = HandshakeNet(**options)  # type: ignore[arg-type]
        for bus in buses:
            net.attach(bus)
        try:
            async with asyncio.timeout(60):
                await main(net)
        finally:
            net.close()

    before = open_sockets()
    asyncio.run(wrapped())
    assert open_sockets() == before - len(buses)


def fails(outcome: Outcome, code: int, *words: str) -> None:
    assert isinstance(outcome, HandshakeError), outcome
    assert outcome.errno == code, outcome
    for word in words:
        assert word in str(outcome)
