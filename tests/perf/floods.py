"""python -m tests.perf.floods: what an honest connection keeps of its speed while another floods the same server.

A `quicfs perf server`, an honest client that downloads, and an attacker that has been through a real handshake and
then writes hostile packets with raw sockets, so many a second. Downloads with and without the attacker alternate; the
ratio of the medians is printed for each flood, with what the server's memory grew by.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import os
import random
import socket
import statistics
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console
from rich.table import Table

from quicfs import certs
from quicfs.agents import client_net
from quicfs.options import AgentOptions
from quicfs.transport.handshake import HandshakeRequest
from quicfs.transport.socket import QuicSocket
from quicfs.transport.uapi import AuthMode, MessageType, SockOpt
from tests.interop.peers.processes import free_port, run, server
from tests.sim.endpoints import SERVER, Host
from tests.sim.floods import FLOODS
from tests.sim.hostile import Sealer
from tests.sim.network import Network

HOST = "127.0.0.1"
INITIALS = "Initials from many addresses"
KINDS = [*FLOODS, INITIALS]
_UDP = struct.Struct(">HHHH")
_BURST = 10


# --- the attacker, a process of its own


def _raw() -> socket.socket:
    sock = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_UDP)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 22)
    return sock


def _from_port(packets: Iterator[bytes], source_port: int, port: int) -> Iterator[tuple[bytes, str]]:
    for data in packets:
        yield _UDP.pack(source_port, port, 8 + len(data), 0) + data, HOST


def _initials(port: int) -> Iterator[tuple[bytes, str]]:
    """First datagrams of two thousand clients, each from an address of its own in 127.0.0.0/8."""
    network = Network(time.time_ns())
    rng = random.Random(network.random.random())
    for number in range(2000):
        Host(network, ("203.0.113.1", number), rng.randrange(1 << 30)).connect(SERVER)
    for number, datagram in itertools.cycle(enumerate(network.log)):
        head = _UDP.pack(1024 + number, port, 8 + len(datagram.data), 0)
        yield head + datagram.data, f"127.{1 + number % 200}.{number // 200}.9"


async def _connected(port: int, ca: Path) -> tuple[Sealer, int]:
    """After a real handshake: what is needed to write packets in the connection's name, and its UDP port."""
    async with client_net(AgentOptions(ca=ca)) as net:
        sock = QuicSocket(net.net)
        sock.setsockopt(SockOpt.ALPN, b"perf")
        await sock.connect((HOST, port))
        await sock.handshake(HandshakeRequest(MessageType.CLIENTHELLO, 10_000, AuthMode.UNAUTH, "localhost"))
        stream = await sock.wait_open_stream()
        await stream.send(b"\0")  # the header is never finished: the server waits
        await stream.drained()
        conn = sock.connection
        keys = conn.application.keys_out
        assert keys is not None
        return Sealer(keys, conn.peer_cids.current.cid), sock.getsockname()[1]


def attack(kind: str, port: int, ca: Path, rate: float) -> None:
    """Until killed. The connection behind it is never looked at again."""
    if kind == INITIALS:
        datagrams = _initials(port)
    else:
        with asyncio.Runner() as runner:
            sealer, source_port = runner.run(_connected(port, ca))
        make = FLOODS[kind].make
        batches = (make(sealer, 100) for _ in itertools.count())
        datagrams = _from_port(itertools.chain.from_iterable(batches), source_port, port)
    print("ready", flush=True)
    senders: dict[str, socket.socket] = {}
    begin = time.monotonic()
    for burst in itertools.count(1):
        for data, source in itertools.islice(datagrams, _BURST):
            sender = senders.get(source)
            if sender is None:
                if len(senders) >= 200:
                    senders.pop(next(iter(senders))).close()
                sender = senders[source] = _raw()
                sender.bind((source, 0))
            sender.sendto(data, (HOST, 0))
        ahead = begin + burst * _BURST / rate - time.monotonic()
        if ahead > 0:
            time.sleep(ahead)


# --- the measurement


@dataclass
class Result:
    kind: str
    alone: list[float] = field(default_factory=list)  # Gbit/s
    beside: list[float] = field(default_factory=list)
    grown: int = 0  # bytes of the server's memory

    @property
    def ratio(self) -> float:
        return statistics.median(self.beside) / statistics.median(self.alone)


def _download(port: int, ca: Path, size: int) -> float:
    command = [sys.executable, "-m", "quicfs", "perf", "client", f"localhost:{port}", "--ca", str(ca)]
    output = run([*command, "--reverse", "--bytes", str(size), "--json"], 60.0)
    return float(json.loads(output)["gbit_per_s"])


def _memory(pid: int) -> int:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS"):
            return int(line.split()[1]) * 1024
    raise RuntimeError("no VmRSS")


def measure(kind: str, rate: float, runs: int, size: int) -> Result:
    """Downloads of `size` bytes with and without a flood of `rate` datagrams a second, in turn."""
    result = Result(kind)
    with tempfile.TemporaryDirectory(prefix="quicfs-floods-") as place:
        files = certs.create(Path(place) / "certificates", ["localhost", HOST])
        port = free_port()
        command = [sys.executable, "-m", "quicfs", "perf", "server", "--listen", f"{HOST}:{port}"]
        command += ["--cert", str(files.cert), "--key", str(files.key)]
        with server(command, "udp", port, Path(place) / "server.log") as process:
            _download(port, files.ca, size)
            before = _memory(process.pid)
            for _ in range(runs):
                result.alone.append(_download(port, files.ca, size))
                own = [sys.executable, "-m", "tests.perf.floods", "--attack", kind, "--rate", str(rate)]
                own += ["--port", str(port), "--ca", str(files.ca)]
                attacker = subprocess.Popen(own, stdout=subprocess.PIPE)
                try:
                    assert attacker.stdout is not None
                    assert attacker.stdout.readline(), "the attacker did not start"
                    result.beside.append(_download(port, files.ca, size))
                    assert attacker.poll() is None, "the attacker gave up"
                finally:
                    attacker.kill()
                    attacker.communicate()
            result.grown = _memory(process.pid) - before
    return result


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.perf.floods", description=__doc__)
    parser.add_argument("--kind", choices=KINDS, action="append", help="default: all")
    parser.add_argument("--rate", type=float, default=1000.0, help="hostile datagrams a second")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--bytes", type=int, default=500_000_000, help="of one download")
    for name in ("--attack", "--port", "--ca"):
        parser.add_argument(name, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.attack:
        attack(options.attack, int(options.port), Path(options.ca), options.rate)
    console = Console(stderr=True, highlight=False)
    if os.geteuid() != 0:
        console.print("raw sockets need root")
        return 1
    table = Table(title=f"A download beside {options.rate:.0f} hostile datagrams a second")
    for title in ("flood", "alone, Gbit/s", "beside it", "ratio", "memory grown, KiB"):
        table.add_column(title, justify="left" if title == "flood" else "right")
    for kind in options.kind or KINDS:
        console.print(kind, style="dim")
        result = measure(kind, options.rate, options.runs, options.bytes)
        alone, beside = statistics.median(result.alone), statistics.median(result.beside)
        print(f"floods.{kind.replace(' ', '-')} {beside:.3f} {alone:.3f} {result.ratio:.2f}", flush=True)
        table.add_row(kind, f"{alone:.2f}", f"{beside:.2f}", f"{result.ratio:.2f}", str(result.grown >> 10))
    Console().print(table)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
