"""Agents that come and go, are sent nonsense, or are set up wrongly."""

from __future__ import annotations

import asyncio
import errno
import signal
import socket
import subprocess
import time
from pathlib import Path

import pytest

from quicfs.transport import handshake as hs
from quicfs.transport.handshake import HandshakeError, HandshakeNet
from quicfs.transport.uapi import (
    CryptoSecret,
)
from quicfs.transport.wire import descriptor as calls
from quicfs.transport.wire import netlink
from tests.integration.handshake_rig import (
    NAME,
    Agents,
    FakePort,
    Pki,
    both,
    fails,
    ports,
    run,
    toml,
)

# ---- agents that come and go


def test_agent_killed_in_mid_handshake(pki: Pki, agents: Agents, tmp_path: Path) -> None:
    """The consumer hears of it at once; the next handshake finds the agent that was started since."""
    path = tmp_path / "agent.sock"
    config = toml(truststore=pki.ca.path, server=pki.server)
    process = agents.listening(config, path)

    async def main(net: HandshakeNet) -> None:
        client, server = ports()
        client.peer = None  # the ClientHello gets lost
        started = time.monotonic()
        task = asyncio.ensure_future(hs.tls_client_hello_anon(net, client, NAME, timeout_ms=30_000))
        await client.hello_sent.wait()
        process.kill()
        with pytest.raises(HandshakeError) as caught:
            await task
        fails(caught.value, errno.ECONNRESET, NAME, "stopped in the middle", "try again")
        assert time.monotonic() - started < 20
        process.wait()
        with pytest.raises(HandshakeError) as caught:
            await hs.tls_client_hello_anon(net, client, NAME)
        fails(caught.value, errno.ESRCH, str(path), "quicfs agent")
        path.unlink()
        agents.listening(config, path)
        client, server = ports()
        assert await both(net, client, server) == (hs.HandshakeResult(), hs.HandshakeResult())

    run(main, agent_path=path)


def test_new_agent_takes_the_socket_of_a_dead_one(pki: Pki, agents: Agents, tmp_path: Path) -> None:
    path = tmp_path / "agent.sock"
    config = toml(truststore=pki.ca.path, server=pki.server)
    first = agents.listening(config, path)
    first.kill()
    first.wait()
    assert path.exists()
    second = agents.listening(config, path)
    third = agents.start(["--socket", str(path)], config, ())
    assert third.wait(20) == 1
    assert third.stderr is not None and "another agent listens" in third.stderr.read()
    second.send_signal(signal.SIGTERM)
    assert second.wait(20) == 0
    assert not path.exists()


def test_revive_is_asked_once(pki: Pki, agents: Agents) -> None:
    asked: list[subprocess.Popen[str]] = []

    async def main_with_revive() -> None:
        async def revive() -> None:
            bus, process = agents.private(toml(truststore=pki.ca.path, server=pki.server))
            asked.append(process)
            await asyncio.sleep(0.01)
            net.attach(bus)

        net = HandshakeNet(revive=revive)
        try:
            assert await both(net, *ports()) == (hs.HandshakeResult(), hs.HandshakeResult())
            assert len(asked) == 1
            asked[0].kill()
            asked[0].wait()
            # The end of the old bus may not have been noticed yet.
            assert await both(net, *ports()) == (hs.HandshakeResult(), hs.HandshakeResult())
            assert len(asked) == 2
        finally:
            net.close()

    asyncio.run(main_with_revive())
    assert asked[1].wait(20) == 0  # the end of its bus ends a private agent


def test_timeout(pki: Pki, agents: Agents) -> None:
    bus, _ = agents.private(toml(truststore=pki.ca.path, server=pki.server))

    async def main(net: HandshakeNet) -> None:
        client = FakePort(b"client")
        with pytest.raises(HandshakeError) as caught:
            await hs.tls_client_hello_anon(net, client, NAME, timeout_ms=300)
        fails(caught.value, errno.ETIMEDOUT, NAME, "no answer in time", "UDP")
        assert await both(net, *ports()) == (hs.HandshakeResult(), hs.HandshakeResult())

    run(main, bus)


def test_timeout_of_the_agent(pki: Pki, agents: Agents) -> None:
    """A consumer that names no limit gets the agent's."""
    bus, _ = agents.private(toml(truststore=pki.ca.path, agent="timeout = 0.3"))
    a, b = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with bus, a:
        bus.settimeout(20)
        bus.send(netlink.build(netlink.Ready()))
        _, message = netlink.parse(bus.recv(4096))
        assert message == netlink.Accept()
        with b:
            socket.send_fds(bus, [netlink.build(netlink.Request(7, peername=NAME))], [b.fileno()])
        done = netlink.Done(0, 0)
        while True:
            _, message = netlink.parse(bus.recv(4096))
            if isinstance(message, netlink.Done):
                done = message
                break
        assert done == netlink.Done(errno.ETIMEDOUT, 7)


def test_two_agents_race(pki: Pki, agents: Agents) -> None:
    config = toml(truststore=pki.ca.path, server=pki.server)
    buses = [agents.private(config)[0] for _ in range(2)]

    async def main(net: HandshakeNet) -> None:
        outcomes = await asyncio.gather(*(both(net, *ports()) for _ in range(5)))
        assert set(outcomes) == {(hs.HandshakeResult(), hs.HandshakeResult())}
        assert net.agents == 2

    run(main, *buses)


def test_cancelled_request(pki: Pki, agents: Agents) -> None:
    bus, _ = agents.private(toml(truststore=pki.ca.path, server=pki.server))

    async def main(net: HandshakeNet) -> None:
        client = FakePort(b"client")
        task = asyncio.ensure_future(hs.tls_client_hello_anon(net, client, NAME))
        await client.hello_sent.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert await both(net, *ports()) == (hs.HandshakeResult(), hs.HandshakeResult())

    run(main, bus)


# ---- renewal, and hostile consumers


def test_renewed_certificate_is_used(pki: Pki, agents: Agents, tmp_path: Path) -> None:
    certificate, key = (tmp_path / "server.pem", tmp_path / "server.key")

    def install(files: tuple[Path, Path]) -> None:
        for source, target in zip(files, (certificate, key), strict=True):
            fresh = target.with_suffix(".new")
            fresh.write_bytes(source.read_bytes())
            fresh.replace(target)

    install(pki.expired)
    bus, _ = agents.private(toml(truststore=pki.ca.path, server=(certificate, key)))

    async def main(net: HandshakeNet) -> None:
        fails((await both(net, *ports()))[0], errno.EKEYEXPIRED)
        install(pki.server)
        assert (await both(net, *ports()))[0] == hs.HandshakeResult()
        certificate.write_text("half a certif")
        assert (await both(net, *ports()))[0] == hs.HandshakeResult()

    run(main, bus)


@pytest.mark.parametrize(
    "garbage",
    [
        b"x",
        b"\xff" * 4096,
        bytes(5000),
        netlink.build(netlink.Accept()),
        netlink.build(netlink.Request(5, peername=NAME)),
    ],
    ids=["short", "ones", "too long", "an agent's", "request without descriptor"],
)
def test_garbage_on_the_bus_of_an_agent(pki: Pki, agents: Agents, tmp_path: Path, garbage: bytes) -> None:
    """That consumer is dropped; others are served."""
    path = tmp_path / "agent.sock"
    agents.listening(toml(truststore=pki.ca.path, server=pki.server), path)
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as bad:
        bad.settimeout(20)
        bad.connect(str(path))
        bad.send(garbage)
        assert bad.recv(10) == b""

        async def main(net: HandshakeNet) -> None:
            assert (await both(net, *ports()))[0] == hs.HandshakeResult()

        run(main, agent_path=path)


@pytest.mark.parametrize(
    "garbage",
    [
        b"x",
        b"\xff" * 100,
        bytes(70000),
        calls.build(calls.Record(calls.Op.SENDMSG, level=1, payload=b"a call")),
        calls.build(calls.Record(calls.Op.REPLY, seq=99)),
    ],
    ids=["short", "ones", "too long", "a call", "reply to nothing"],
)
def test_garbage_on_the_descriptor_of_an_agent(pki: Pki, agents: Agents, garbage: bytes) -> None:
    bus, _ = agents.private(toml(truststore=pki.ca.path, server=pki.server))
    bus.settimeout(20)
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with bus, ours:
        bus.send(netlink.build(netlink.Ready()))
        bus.recv(4096)
        with theirs:
            socket.send_fds(bus, [netlink.build(netlink.Request(7, peername=NAME))], [theirs.fileno()])
        ours.send(garbage)
        messages = []
        while not messages or not isinstance(messages[-1], netlink.Done):
            messages.append(netlink.parse(bus.recv(4096))[1])
        assert messages[-1] == netlink.Done(errno.ECONNRESET, 7)


def test_descriptor_that_is_no_quic_socket(pki: Pki, agents: Agents) -> None:
    bus, _ = agents.private(toml(server=pki.server))
    bus.settimeout(20)
    with bus, open("/dev/null") as null, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
        for number, (fd, code) in enumerate(
            [(null.fileno(), errno.ENOTSOCK), (udp.fileno(), errno.EPROTONOSUPPORT)]
        ):
            bus.send(netlink.build(netlink.Ready()))
            while netlink.parse(bus.recv(4096))[1] != netlink.Accept():
                pass
            socket.send_fds(bus, [netlink.build(netlink.Request(number))], [fd])
            messages = []
            while not messages or not isinstance(messages[-1], netlink.Done):
                messages.append(netlink.parse(bus.recv(4096))[1])
            assert messages[-1] == netlink.Done(code, number)


# ---- the process


def test_secrets_are_not_logged(pki: Pki, agents: Agents, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SSLKEYLOGFILE", raising=False)
    bus, process = agents.private(toml(truststore=pki.ca.path, server=pki.server))
    seen: list[CryptoSecret] = []

    async def main(net: HandshakeNet) -> None:
        client, server = ports()
        await both(net, client, server)
        seen.extend(client.secrets.values())
        await both(net, *ports(), peername="other.test")

    run(main, bus)
    assert process.wait(20) == 0
    assert process.stderr is not None
    log = process.stderr.read()
    assert "other.test failed" in log
    assert all(secret.material.hex() not in log for secret in seen)


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ("[agent]\nsockets = 'x'\n", "agent.sockets is not a key"),
        ("[authenticate.server]\nx509.certificate = 'a'\nx509.private_key = '/nonexistent'\n", "cannot read"),
        ("[agent\n", "standard input"),
    ],
)
def test_wrong_configuration_is_one_sentence(agents: Agents, tmp_path: Path, config: str, words: str) -> None:
    process = agents.start(["--socket", str(tmp_path / "s")], config, ())
    assert process.wait(20) == 1
    assert process.stderr is not None
    text = process.stderr.read()
    assert words in text and text.count("\n") == 1


def test_key_that_does_not_fit_its_certificate(pki: Pki, agents: Agents, tmp_path: Path) -> None:
    process = agents.start(["--socket", str(tmp_path / "s")], toml(server=(pki.server[0], pki.client[1])), ())
    assert process.wait(20) == 1
    assert process.stderr is not None
    assert str(pki.server[0]) in process.stderr.read()
