"""Session tickets and early data through the handshake contract, with real agents in processes of their own."""

from __future__ import annotations

import asyncio
import os
import socket
import stat
from pathlib import Path

import pytest

from quicfs.transport.handshake import HandshakeNet, HandshakeResult, tls_server_hello_x509
from quicfs.transport.uapi import AuthMode, Config, CryptoLevel, SockOpt
from quicfs.transport.wire.ticket import SessionTicket

from .handshake_rig import NAME, Agents, FakePort, Pki, both, connected, run, toml

WANTS = Config(receive_session_ticket=5)
PLAIN = Config()
EARLY = Config(receive_session_ticket=5, early_data=1)
# initial_max_data 1000, max_idle_timeout 5, initial_max_streams_bidi 3
PARAMETERS = b"\x04\x02\x43\xe8" + b"\x01\x01\x05" + b"\x08\x01\x03"


def config(pki: Pki, **options: object) -> str:
    return toml(truststore=pki.ca.path, server=pki.server, **options)  # type: ignore[arg-type]


def pair(
    ticket: bytes = b"",
    *,
    client: Config = WANTS,
    server: Config = PLAIN,
    alpn: bytes = b"smb",
    parameters: bytes = PARAMETERS,
) -> tuple[FakePort, FakePort]:
    ports = connected(FakePort(b"client", alpn, client), FakePort(b"server", alpn, server))
    ports[0].options[SockOpt.SESSION_TICKET] = ticket
    ports[1].options[SockOpt.TRANSPORT_PARAM_EXT] = parameters
    return ports


async def shake(
    net: HandshakeNet,
    ports: tuple[FakePort, FakePort],
    *,
    peername: str = NAME,
    auth_mode: int = AuthMode.UNAUTH,
) -> bytes:
    """Have it done, and wait for the ticket."""
    for outcome in await both(net, *ports, peername=peername, auth_mode=auth_mode):
        assert isinstance(outcome, HandshakeResult), outcome
    async with asyncio.timeout(5):
        await ports[0].got_ticket.wait()
    net.release(ports[0])
    return ports[0].set[SockOpt.SESSION_TICKET]


def resumed(ports: tuple[FakePort, FakePort]) -> bool:
    """A resumed handshake has no certificate in it."""
    return ports[1].sent[CryptoLevel.HANDSHAKE] < 200


def same_secrets(ports: tuple[FakePort, FakePort]) -> None:
    for level in (CryptoLevel.HANDSHAKE, CryptoLevel.APP):
        for send in (0, 1):
            assert ports[0].secrets[send, level].material == ports[1].secrets[1 - send, level].material


def test_a_ticket_saves_the_certificate(agents: Agents, pki: Pki) -> None:
    async def main(net: HandshakeNet) -> None:
        ticket = b""
        for number in range(4):
            ports = pair(ticket)
            ticket = await shake(net, ports)
            assert resumed(ports) is (number > 0)
            same_secrets(ports)
            content = SessionTicket.unpack(ticket)
            assert content.alpn == b"smb"
            assert content.parameters == b"\x04\x02\x43\xe8" + b"\x08\x01\x03"
            assert not content.early_data
            assert (1, CryptoLevel.EARLY) not in ports[0].secrets

    run(main, agents.private(config(pki))[0])


def test_nobody_waits_for_a_ticket(agents: Agents, pki: Pki) -> None:
    """DONE comes when the handshake is complete; without the wish there is no ticket at all."""

    async def main(net: HandshakeNet) -> None:
        ports = pair(client=Config())
        for outcome in await both(net, *ports):
            assert isinstance(outcome, HandshakeResult)
        await asyncio.sleep(0.1)
        assert SockOpt.SESSION_TICKET not in ports[0].set

    run(main, agents.private(config(pki))[0])


def test_a_server_may_issue_none(agents: Agents, pki: Pki) -> None:
    """Neither does it take one that it issued before."""
    without = Config(no_session_ticket=1)

    async def main(net: HandshakeNet) -> None:
        for ticket in (b"", await shake(net, pair())):
            ports = pair(ticket, server=without)
            for outcome in await both(net, *ports):
                assert isinstance(outcome, HandshakeResult)
            assert not resumed(ports)
            await asyncio.sleep(0.1)
            assert SockOpt.SESSION_TICKET not in ports[0].set
            net.release(ports[0])

    run(main, agents.private(config(pki))[0])


def test_waiting_for_a_ticket_ends(agents: Agents, pki: Pki) -> None:
    """The descriptor closes when the time is over, and when the net is closed; both without a word."""

    async def main(net: HandshakeNet) -> None:
        ports = pair(client=Config(receive_session_ticket=1))
        ports[1].drop_app_crypto = True
        for outcome in await both(net, *ports):
            assert isinstance(outcome, HandshakeResult)
        await asyncio.sleep(1.3)
        assert not ports[0].has_reader
        ports = pair()
        for outcome in await both(net, *ports):
            assert isinstance(outcome, HandshakeResult)
        assert ports[0].has_reader

    run(main, agents.private(config(pki))[0])


@pytest.mark.parametrize("change", ["name", "truststore", "own certificate", "alpn", "garbage"])
def test_a_ticket_of_others_is_not_used(agents: Agents, pki: Pki, change: str) -> None:
    """The client's agent compares whom the ticket is for, whom it trusted, and who it was."""

    async def main(net: HandshakeNet) -> None:
        ticket = await shake(net, pair())
        other = net
        peername, mode, alpn = NAME, AuthMode.UNAUTH, b"smb"
        if change == "name":
            peername = "127.0.0.1"
        elif change == "own certificate":
            mode = AuthMode.X509
        elif change == "alpn":
            alpn = b"perf"
        elif change == "garbage":
            ticket = ticket[:60] + os.urandom(300)
        else:
            bundle = pki.folder / "bundle.pem"
            bundle.write_bytes(pki.ca.path.read_bytes() + pki.other_ca.path.read_bytes())
            other = HandshakeNet()
            text = toml(truststore=bundle, server=pki.server)
            other.attach(agents.private(text)[0])
        ports = pair(ticket, alpn=alpn)
        await shake(other, ports, peername=peername, auth_mode=mode)
        assert not resumed(ports)
        if other is not net:
            other.close()

    run(main, agents.private(toml(truststore=pki.ca.path, server=pki.server, client=pki.client))[0])


@pytest.mark.parametrize("change", ["certificate", "parameters", "agent"])
def test_a_servers_ticket_counts_for_the_same_server(
    agents: Agents, pki: Pki, tmp_path: Path, change: str
) -> None:
    """What a client took of the old configuration leads to a full handshake with the new one."""
    files = tmp_path / "server.pem", tmp_path / "server.key"

    def install(source: tuple[Path, Path]) -> None:
        for target, path in zip(files, source, strict=True):
            target.write_bytes(path.read_bytes())

    install(pki.server)

    async def main(net: HandshakeNet) -> None:
        ticket = await shake(net, pair())
        parameters = PARAMETERS
        if change == "certificate":
            install(pki.ca.issue("renewed", NAME))
        elif change == "parameters":
            parameters = PARAMETERS.replace(b"\x43\xe8", b"\x43\xe7")
        else:
            net.close()
            net = HandshakeNet()
            net.attach(agents.private(text)[0])
        ports = pair(ticket, parameters=parameters)
        await shake(net, ports)
        assert not resumed(ports)
        net.close()

    text = toml(truststore=pki.ca.path, server=files)
    run(main, agents.private(text)[0])


def test_agents_that_share_a_key_file(agents: Agents, pki: Pki, tmp_path: Path) -> None:
    """Another agent takes the first one's tickets; the file is for its owner only."""
    key = tmp_path / "tickets.key"
    text = config(pki, agent=f'ticket_key = "{key}"')

    async def main(net: HandshakeNet) -> None:
        ticket = await shake(net, pair())
        second = HandshakeNet()
        second.attach(agents.private(text)[0])
        ports = pair(ticket)
        await shake(second, ports)
        assert resumed(ports)
        second.close()

    run(main, agents.private(text)[0])
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    assert [path.name for path in tmp_path.iterdir()] == ["tickets.key"]


@pytest.mark.parametrize(
    ("content", "mode", "words"), [(b"short", 0o600, "remove it"), (bytes(64), 0o644, "chmod 600")]
)
def test_a_key_file_that_cannot_be_used(
    agents: Agents, pki: Pki, tmp_path: Path, content: bytes, mode: int, words: str
) -> None:
    key = tmp_path / "tickets.key"
    key.write_bytes(content)
    key.chmod(mode)
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs:
        text = config(pki, agent=f'ticket_key = "{key}"')
        process = agents.start(["--bus-fd", str(theirs.fileno())], text, (theirs.fileno(),))
        assert process.wait(20) == 1
        assert process.stderr is not None
        assert words in process.stderr.read()


def test_client_certificates_are_shown_each_time(agents: Agents, pki: Pki) -> None:
    """A server that asks for them issues no tickets, and takes none that it issued before."""

    async def main(net: HandshakeNet) -> None:
        ticket = await shake(net, pair(), auth_mode=AuthMode.X509)
        strict = HandshakeNet()
        text = toml(
            truststore=pki.ca.path,
            server=pki.server,
            client=pki.client,
            clients_ca=pki.ca.path,
            client_certificates="required",
        )
        strict.attach(agents.private(text)[0])
        ports = pair(ticket)
        for outcome in await both(strict, *ports, auth_mode=AuthMode.X509):
            assert isinstance(outcome, HandshakeResult), outcome
        assert not resumed(ports)
        await asyncio.sleep(0.1)
        assert SockOpt.SESSION_TICKET not in ports[0].set
        first, second = await both(strict, *pair(ticket))
        assert isinstance(first, BaseException) or isinstance(second, BaseException)
        strict.close()

    text = toml(truststore=pki.ca.path, server=pki.server, client=pki.client)
    run(main, agents.private(text)[0])


# --- early data


def test_early_data_are_accepted(agents: Agents, pki: Pki) -> None:
    async def main(net: HandshakeNet) -> None:
        first = pair(client=EARLY, server=EARLY)
        ticket = await shake(net, first)
        assert SessionTicket.unpack(ticket).early_data
        assert (1, CryptoLevel.EARLY) not in first[0].secrets
        ports = pair(ticket, client=EARLY, server=EARLY)
        await shake(net, ports)
        assert resumed(ports)
        sent, received = ports[0].secrets[1, CryptoLevel.EARLY], ports[1].secrets[0, CryptoLevel.EARLY]
        assert (sent.type, sent.material) == (received.type, received.material)

    run(main, agents.private(config(pki))[0])


@pytest.mark.parametrize(
    ("issuer", "client", "server", "offered"),
    [
        pytest.param(Config(), EARLY, EARLY, False, id="the ticket does not allow it"),
        pytest.param(EARLY, WANTS, EARLY, False, id="the client does not ask"),
        pytest.param(EARLY, EARLY, Config(), True, id="the server does not take it"),
    ],
)
def test_early_data_need_everybodys_consent(
    agents: Agents, pki: Pki, issuer: Config, client: Config, server: Config, offered: bool
) -> None:
    async def main(net: HandshakeNet) -> None:
        ticket = await shake(net, pair(client=EARLY, server=issuer))
        ports = pair(ticket, client=client, server=server)
        await shake(net, ports)
        assert (0, CryptoLevel.EARLY) not in ports[1].secrets
        assert (1, CryptoLevel.EARLY) not in ports[0].secrets  # withdrawn if it was there
        assert ports[0].early_refused is offered
        if offered:  # before the parameters, which are looked at differently then
            order = [name for name in ports[0].order if not name.startswith("CRYPTO ")]
            assert order.index("CRYPTO_SECRET refused") < order.index("TRANSPORT_PARAM_EXT")

    run(main, agents.private(config(pki))[0])


def test_early_data_are_refused_when_the_limits_changed(agents: Agents, pki: Pki) -> None:
    async def main(net: HandshakeNet) -> None:
        ticket = await shake(net, pair(client=EARLY, server=EARLY))
        ports = pair(
            ticket, client=EARLY, server=EARLY, parameters=PARAMETERS.replace(b"\x43\xe8", b"\x43\xe7")
        )
        await shake(net, ports)
        assert ports[0].early_refused
        assert not resumed(ports)

    run(main, agents.private(config(pki))[0])


def test_a_replayed_client_hello_gets_no_early_secret(agents: Agents, pki: Pki) -> None:
    async def main(net: HandshakeNet) -> None:
        ticket = await shake(net, pair(client=EARLY, server=EARLY))
        ports = pair(ticket, client=EARLY, server=EARLY)
        await shake(net, ports)
        assert (0, CryptoLevel.EARLY) in ports[1].secrets
        again = FakePort(b"server", config=EARLY)
        again.options[SockOpt.TRANSPORT_PARAM_EXT] = PARAMETERS
        again.peer = FakePort(b"nobody")
        task = asyncio.create_task(tls_server_hello_x509(net, again))
        again.receive(CryptoLevel.INITIAL, ports[0].hello)
        async with asyncio.timeout(5):
            await again.got_app_secret.wait()
        assert (0, CryptoLevel.EARLY) not in again.secrets
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    run(main, agents.private(config(pki))[0])


@pytest.mark.parametrize(
    ("message", "code"),
    [
        pytest.param(b"\x18\0\0\x01\0", 0x010A, id="KeyUpdate"),
        pytest.param(
            b"\x04\0\0\x17" + bytes(9) + b"\0\x02xx" + b"\0\x08" + b"\0\x2a\0\x04\0\0\x40\0",
            0x0A,
            id="early_data",
        ),
    ],
)
def test_a_server_that_breaks_the_rules_afterwards(
    agents: Agents, pki: Pki, message: bytes, code: int
) -> None:
    async def main(net: HandshakeNet) -> None:
        ports = pair()
        ports[1].drop_app_crypto = True
        for outcome in await both(net, *ports):
            assert isinstance(outcome, HandshakeResult)
        for byte in message:  # in pieces, as CRYPTO frames may be
            ports[0].receive(CryptoLevel.APP, bytes((byte,)))
        async with asyncio.timeout(5):
            await ports[0].failed.wait()
        assert ports[0].close is not None
        assert ports[0].close.errcode == code
        assert SockOpt.SESSION_TICKET not in ports[0].set

    run(main, agents.private(config(pki))[0])
