"""The link between two namespaces: what it does to packets, and that nothing stays behind."""

from __future__ import annotations

import hashlib
import json
import os
import random
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.conftest import Require
from tests.netlab import RUNNER, LinkSettings, Netlab, NetlabError, Rebind, ip, processes, read_pcap, units
from tests.netlab.link import Direction

PORT = 4433
V4, V6 = socket.AF_INET, socket.AF_INET6
ROOT = Path(__file__).resolve().parents[2]
SOL_UDP, UDP_SEGMENT = 17, 103


@pytest.fixture(autouse=True)
def _needs(request: pytest.FixtureRequest, require: Require) -> None:
    if request.node.get_closest_marker("netns"):
        require("netns", "root", "ip")


# --- the decisions, without a network


def datagram(number: int = 0, size: int = 100, ecn: int = 0) -> bytearray:
    """An IPv4 packet of UDP without a checksum."""
    header = bytes((0x45, ecn)) + size.to_bytes(2, "big") + bytes(5) + b"\x11" + bytes(2)
    header += socket.inet_aton("192.0.2.2") + socket.inet_aton("192.0.2.1")
    payload = number.to_bytes(4, "big") + b"x" * (size - 32)
    return bytearray(
        header + (9).to_bytes(2, "big") * 2 + (size - 20).to_bytes(2, "big") + bytes(2) + payload
    )


def fates(settings: LinkSettings, count: int, seed: int = 0) -> list[str]:
    direction = Direction(settings, seed, "client")
    answer = []
    for number in range(count):
        packet = datagram(number)
        at = ip.shape(packet)
        assert at is not None
        direction.handle(number / 1000, (number + 0.5) / 1000, packet, at)
        answer.append(direction.fate)
    return answer


def test_loss_follows_from_the_seed() -> None:
    lossy = LinkSettings(loss=0.1)
    assert fates(lossy, 2000, seed=1) == fates(lossy, 2000, seed=1)
    assert fates(lossy, 2000, seed=1) != fates(lossy, 2000, seed=2)
    assert 150 < fates(lossy, 2000).count("loss") < 250


def test_bursts_of_loss_are_bounded() -> None:
    rows = "".join("x" if fate else " " for fate in fates(LinkSettings(loss=0.6, burst=3), 1000)).split()
    assert max(map(len, rows)) == 3


def test_other_chances_do_not_shift_the_losses() -> None:
    alone = fates(LinkSettings(loss=0.1), 500)
    assert fates(LinkSettings(loss=0.1, duplicate=0.3, reorder=0.2, corrupt=0.1), 500) == alone


def test_packets_by_number() -> None:
    dropped = [
        number for number, fate in enumerate(fates(LinkSettings(drop=((2, 7), (11, 11))), 20), 1) if fate
    ]
    assert dropped == [2, 3, 4, 5, 6, 7, 11]


def test_a_black_hole_comes_and_goes() -> None:
    dead = [fate == "blackhole" for fate in fates(LinkSettings(blackhole=(0.05, 0.02)), 140)]
    assert dead == ([False] * 50 + [True] * 20) * 2


def test_queue_and_rate() -> None:
    direction = Direction(LinkSettings(rate=1e6, queue=3, delay=1.0), 0, "client")
    at = ip.shape(datagram())
    assert at is not None
    arrivals = [when for _ in range(6) for when, _ in direction.handle(5.0, 0.0, datagram(), at)]
    assert arrivals == pytest.approx([6.0008, 6.0016, 6.0024, 6.0032])  # one is sent, three wait
    assert direction.counters.dropped == {"queue": 2}


@pytest.mark.parametrize(
    ("read", "text", "value"),
    [
        (units.seconds, "15ms", 0.015),
        (units.seconds, "0", 0.0),
        (units.bits_per_second, "10mbit", 10e6),
        (units.bits_per_second, "1mbps", 8e6),
        (units.fraction, "2%", 0.02),
        (units.periods, "5s/2s", (5.0, 2.0)),
    ],
)
def test_units(read: Callable[[str], object], text: str, value: object) -> None:
    assert read(text) == pytest.approx(value)


def test_packet_numbers() -> None:
    assert units.ranges("2-7,11") == ((2, 7), (11, 11))


@pytest.mark.parametrize(
    ("read", "text"),
    [(units.seconds, "15"), (units.bits_per_second, "10"), (units.fraction, "2"), (units.periods, "5s")],
)
def test_quantities_without_units_are_refused(read: Callable[[str], object], text: str) -> None:
    with pytest.raises(ValueError, match="such as"):
        read(text)


# --- over a link


@dataclass
class Udp:
    """A socket at each end, the client's connected to the server's."""

    client: socket.socket
    server: socket.socket

    def to_server(self, *messages: bytes) -> None:
        for message in messages:
            self.client.send(message)

    def received(self, count: int) -> list[bytes]:
        return [self.server.recv(65_536) for _ in range(count)]

    def ping(self) -> tuple[str, int]:
        """There and back; where the server saw it come from."""
        self.client.send(b"ping")
        _, source = self.server.recvfrom(100)
        self.server.sendto(b"pong", source)
        assert self.client.recv(100) == b"pong"
        return source[0], source[1]

    def silent(self, seconds: float = 0.05) -> bool:
        return not select.select([self.client], (), (), seconds)[0]


@contextmanager
def udp(lab: Netlab, family: int = V4) -> Iterator[Udp]:
    with (
        lab.client.call(socket.socket, family, socket.SOCK_DGRAM) as client,
        lab.server.call(socket.socket, family, socket.SOCK_DGRAM) as server,
    ):
        address = lab.server.address if family == V4 else lab.server.address6
        server.bind((address, PORT))
        client.connect((address, PORT))
        client.settimeout(10)
        server.settimeout(10)
        yield Udp(client, server)


def transfer(lab: Netlab, family: int, size: int) -> None:
    """So many bytes over TCP; they must come as they were."""
    content = random.Random(size).randbytes(size)
    seen = hashlib.sha256()
    with (
        lab.server.call(socket.socket, family) as listener,
        lab.client.call(socket.socket, family) as client,
    ):
        address = lab.server.address if family == V4 else lab.server.address6
        listener.bind((address, PORT))
        listener.listen()

        def serve() -> None:
            conn, _ = listener.accept()
            with conn:
                conn.settimeout(20)
                while piece := conn.recv(1 << 16):
                    seen.update(piece)

        thread = threading.Thread(target=serve)
        thread.start()
        client.settimeout(20)
        client.connect((address, PORT))
        client.sendall(content)
        client.shutdown(socket.SHUT_WR)
        thread.join(30)
        assert not thread.is_alive()
    assert seen.digest() == hashlib.sha256(content).digest()


@pytest.mark.netns
@pytest.mark.parametrize("family", [V4, V6])
def test_delay(family: int) -> None:
    slow = LinkSettings(delay=0.03)
    with Netlab(slow, slow) as lab, udp(lab, family) as ends:
        times = []
        for _ in range(5):
            start = time.monotonic()
            ends.ping()
            times.append(time.monotonic() - start)
    assert 0.06 <= min(times) < 0.1


@pytest.mark.netns
def test_rate() -> None:
    with Netlab(LinkSettings(rate=2e6), capture=True) as lab, udp(lab) as ends:
        ends.to_server(*[bytes(1222)] * 50)  # 1,250 with headers: 5 ms each
        ends.received(50)
        packets = lab.packets()
    sent = min(packet.time for packet in packets if packet.outbound)
    arrived = max(packet.time for packet in packets if not packet.outbound)
    assert 0.249 < arrived - sent < 0.6


@pytest.mark.netns
def test_what_does_not_fit_into_the_queue_is_dropped() -> None:
    with Netlab(LinkSettings(rate=10_000, queue=25)) as lab, udp(lab) as ends:
        ends.to_server(*[bytes(1222)] * 60)  # a second each
        while lab.stats().client.packets < 60:
            time.sleep(0.01)
        assert lab.stats().client.dropped == {"queue": 34}


@pytest.mark.netns
def test_loss_is_exact() -> None:
    lost = {number for number, fate in enumerate(fates(LinkSettings(loss=0.2), 200, seed=7)) if fate}
    with Netlab(LinkSettings(loss=0.2), seed=7) as lab, udp(lab) as ends:
        ends.to_server(*(number.to_bytes(2, "big") for number in range(200)))
        arrived = {int.from_bytes(message, "big") for message in ends.received(200 - len(lost))}
        assert lab.stats().client.dropped == {"loss": len(lost)}
    assert arrived == set(range(200)) - lost


def drop_jam(packet: bytes, number: int) -> bool:
    return packet.endswith(b"jam")


@pytest.mark.netns
def test_packets_dropped_by_a_condition() -> None:
    with Netlab(LinkSettings(drop_if=drop_jam)) as lab, udp(lab) as ends:
        ends.to_server(b"jam", b"bread", b"jam", b"butter")
        assert ends.received(2) == [b"bread", b"butter"]
        assert lab.stats().client.dropped == {"condition": 2}
    with (
        pytest.raises(NetlabError, match="a function of a module"),
        Netlab(LinkSettings(drop_if=lambda *_: True)),
    ):
        pass


@pytest.mark.netns
@pytest.mark.parametrize("family", [V4, V6])
def test_corruption_reaches_the_application(family: int) -> None:
    content = bytes(range(101))  # of an odd size
    with Netlab(LinkSettings(corrupt=1.0)) as lab, udp(lab, family) as ends:
        ends.to_server(*[content] * 40)
        damaged = ends.received(40)
        assert lab.stats().client.corrupted == 40
    places = [[at for at in range(101) if piece[at] != content[at]] for piece in damaged]
    assert all(len(changed) == 1 and changed[0] < 50 for changed in places)
    assert len({changed[0] for changed in places}) > 10


@pytest.mark.netns
def test_corruption_is_loss_for_tcp() -> None:
    with Netlab(LinkSettings(corrupt=0.05, burst=1)) as lab:
        transfer(lab, V4, 200_000)


@pytest.mark.netns
def test_duplicates() -> None:
    with Netlab(LinkSettings(duplicate=1.0)) as lab, udp(lab) as ends:
        ends.to_server(b"a", b"b")
        assert ends.received(4) == [b"a", b"a", b"b", b"b"]


@pytest.mark.netns
def test_reordering() -> None:
    with Netlab(LinkSettings(reorder=0.5, reorder_delay=0.2), seed=3) as lab, udp(lab) as ends:
        ends.to_server(*(bytes((number,)) for number in range(20)))
        order = [message[0] for message in ends.received(20)]
        late = lab.stats().client.reordered
    assert sorted(order) == list(range(20)) != order
    assert order[:-late] == sorted(order[:-late])
    assert order[-late:] == sorted(order[-late:])


@pytest.mark.netns
@pytest.mark.parametrize("family", [V4, V6])
def test_congestion_is_marked(family: int) -> None:
    ipv4 = family == V4
    level = socket.IPPROTO_IP if ipv4 else socket.IPPROTO_IPV6
    with Netlab(LinkSettings(rate=1e6, mark_above=1)) as lab, udp(lab, family) as ends:
        ends.server.setsockopt(level, socket.IP_RECVTOS if ipv4 else socket.IPV6_RECVTCLASS, 1)
        codepoints = []
        for tos in (2, 0):  # ECT(0), not ECT
            ends.client.setsockopt(level, socket.IP_TOS if ipv4 else socket.IPV6_TCLASS, tos)
            ends.to_server(*[bytes(1200)] * 5)
            for _ in range(5):
                _, [(_, _, data)], _, _ = ends.server.recvmsg(2000, 100)
                codepoints.append(data[0] & 3)
    assert codepoints == [2, 2, 3, 3, 3] + [0] * 5


@pytest.mark.netns
@pytest.mark.parametrize("family", [V4, V6])
@pytest.mark.parametrize("what", ["port", "address"])
def test_rebinding(what: str, family: int) -> None:
    rebind = Rebind("address" if what == "address" else "port", start=None)
    with Netlab(rebind=rebind) as lab, udp(lab, family) as ends:
        seen = [ends.ping(), ends.ping()]
        assert seen[0] == seen[1] == ends.client.getsockname()[:2]
        for _ in range(3):
            lab.rebind()
            ends.server.sendto(b"late", seen[-1])  # to a binding that is no more
            seen.append(ends.ping())
        assert ends.silent()
        assert lab.stats().server.dropped == {"nat": 3}
        assert lab.stats().rebindings == 3
    assert len({port for _, port in seen}) == 4
    assert len({address for address, _ in seen}) == (4 if what == "address" else 1)


@pytest.mark.netns
def test_rebinding_by_the_clock() -> None:
    with Netlab(rebind=Rebind("port", start=0.1, every=0.1)) as lab, udp(lab) as ends:
        seen = [ends.ping()]
        time.sleep(0.1)
        seen.append(ends.ping())
        time.sleep(0.1)
        seen.append(ends.ping())
    assert len(set(seen)) == 3


@pytest.mark.netns
@pytest.mark.parametrize("family", [V4, V6])
def test_tcp_over_a_bad_link(family: int) -> None:
    bad = LinkSettings(delay=0.002, rate=50e6, queue=50, loss=0.02, reorder=0.05, duplicate=0.05)
    with Netlab(bad, bad, rebind=Rebind("port", start=None)) as lab:
        transfer(lab, family, 300_000)


@pytest.mark.netns
def test_trains_of_udp_segment_pass() -> None:
    train = random.Random(0).randbytes(1400 * 40 + 99)
    with Netlab() as lab, udp(lab) as ends:
        ends.client.setsockopt(SOL_UDP, UDP_SEGMENT, 1400)
        ends.client.send(train)
        received = ends.received(41)
    assert {len(piece) for piece in received} == {1400, 99}
    assert b"".join(received) == train


@pytest.mark.netns
def test_mtu_of_interfaces_and_of_the_path() -> None:
    with Netlab(LinkSettings(mtu=1300), mtu=1400) as lab, udp(lab) as ends:
        ends.client.setsockopt(socket.IPPROTO_IP, 10, 3)  # IP_MTU_DISCOVER, IP_PMTUDISC_PROBE
        with pytest.raises(OSError, match="too long"):
            ends.client.send(bytes(1373))
        ends.to_server(bytes(1372), bytes(1272))
        assert ends.received(1) == [bytes(1272)]
        assert lab.stats().client.dropped == {"mtu": 1}
        lab.configure(client=LinkSettings())
        ends.to_server(bytes(1372))
        assert ends.received(1) == [bytes(1372)]


@pytest.mark.netns
def test_a_capture_shows_both_ends(tmp_path: Path) -> None:
    file = tmp_path / "link.pcapng"
    with Netlab(LinkSettings(drop=((2, 2),)), pcap=file) as lab, udp(lab) as ends:
        ends.to_server(b"one", b"two", b"three")
        ends.received(2)
    seen = [(p.side, p.outbound, p.payload, p.comment) for p in read_pcap(file)]
    assert seen == lab_order(seen)
    assert [entry for entry in seen if entry[1]] == [
        ("client", True, b"one", ""),
        ("client", True, b"two", "dropped: listed"),
        ("client", True, b"three", ""),
    ]
    assert [entry[2] for entry in seen if entry[0] == "server"] == [b"one", b"three"]
    assert all(p.ports[1] == PORT for p in lab.packets())


def lab_order(seen: list[tuple[str, bool, bytes, str]]) -> list[tuple[str, bool, bytes, str]]:
    """A packet is captured where it is sent before it is captured where it arrives."""
    for side, _, payload, _ in seen:
        if side == "server":
            sent = next(at for at, entry in enumerate(seen) if entry[1] and entry[2] == payload)
            assert sent < next(at for at, entry in enumerate(seen) if not entry[1] and entry[2] == payload)
    return seen


@pytest.mark.netns
def test_several_labs_at_once() -> None:
    with ExitStack() as stack:
        labs = [stack.enter_context(Netlab(RUNNER, RUNNER, seed=seed)) for seed in range(3)]
        for lab in labs:
            ends = stack.enter_context(udp(lab))
            ends.ping()
        assert [lab.stats().client.delivered for lab in labs] == [1, 1, 1]


# --- the command


def netlab(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "tests.netlab", *arguments]


SERVER = (
    "import socket; s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.bind(('', 9))\n"
    "while True: s.sendto(*s.recvfrom(100))"
)
CLIENT = (
    "import socket, sys; s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.settimeout(10)\n"
    "s.connect(('192.0.2.1', 9)); s.send(b'hello'); assert s.recv(100) == b'hello'; sys.exit(7)"
)


@pytest.mark.netns
def test_the_command_runs_both_sides(tmp_path: Path) -> None:
    report = tmp_path / "stats.json"
    link = ["--delay", "5ms", "--client-rate", "10mbit", "--stats", "--json", str(report)]
    server = f'exec {sys.executable} -c "$PROGRAM"'
    done = subprocess.run(
        netlab(*link, "--server", server, "--", sys.executable, "-c", CLIENT),
        cwd=ROOT,
        env={**os.environ, "PROGRAM": SERVER},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 7, done.stderr
    assert "delivered" in done.stderr
    counters = json.loads(report.read_text())
    assert counters["client"]["delivered"] == counters["server"]["delivered"] == 1


@pytest.mark.netns
@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--delay", "15"], "a time with its unit"),
        (["--server", "exit 3", "--", "true"], "ended with 3 before it listened"),
        (["--", "no-such-command"], "no-such-command cannot be started"),
    ],
)
def test_what_the_user_did_wrong_is_said(arguments: list[str], sentence: str) -> None:
    done = subprocess.run(netlab(*arguments), cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode in (1, 2)
    assert sentence in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.netns
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_nothing_is_left_behind(number: signal.Signals) -> None:
    """Not even what a command has started in the background, out of its own session."""
    inside = "setsid sleep 1000 & stat -L -c %i /proc/self/ns/net; exec sleep 1000"
    process = subprocess.Popen(netlab("--", "sh", "-c", inside), cwd=ROOT, stdout=subprocess.PIPE, text=True)
    with process:
        assert process.stdout is not None
        inode = int(process.stdout.readline())
        assert processes.of_namespaces([inode])
        started = _children_of(process.pid)
        assert len(started) >= 2  # the command and the relay
        process.send_signal(number)
        process.wait(20)
        deadline = time.monotonic() + 20
        while processes.of_namespaces([inode]) or any(Path(f"/proc/{pid}/cwd").exists() for pid in started):
            assert time.monotonic() < deadline
            time.sleep(0.02)


def _children_of(pid: int) -> list[int]:
    found = []
    for entry in Path("/proc").glob("[0-9]*/stat"):
        try:
            if int(entry.read_text().rpartition(")")[2].split()[1]) == pid:
                found.append(int(entry.parent.name))
        except OSError:
            continue  # it has ended meanwhile
    return found
