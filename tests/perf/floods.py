"""python -m tests.perf.floods: what an honest connection keeps of its speed while another floods the same server.

A `quicfs perf server`, an honest client that downloads, and an attacker that has been through a real handshake and
then writes hostile packets with raw sockets, so many a second. Downloads with and without the attacker alternate; the
ratio of the medians is printed for each flood, with what the server's memory grew by.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
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
from quicfs.transport import frame_ack
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
RANGES = "ACK of a thousand ranges"
KINDS = [*FLOODS, RANGES, INITIALS]
_UDP = struct.Struct(">HHHH")
_IP = struct.Struct(">BBHHHBBH4s4s")
_BURST = 10
_READY_S = (
    15.0  # of a flood that is made before it begins: the attacker must not use up the processors itself
)
_UNDER_WAY_S = 0.5  # before the download begins: what is measured is no first surprise
_FETCHED = 200_000_000  # bytes, in packets of all sizes, of which an attacker acknowledges every second one


# --- the attacker, a process of its own


def _from(source: tuple[str, int], port: int, data: bytes) -> bytes:
    """An IP packet (RFC 791, RFC 768) to the server. The kernel fills in the checksum of the header."""
    length = 8 + len(data)
    addresses = socket.inet_aton(source[0]), socket.inet_aton(HOST)
    ip = _IP.pack(0x45, 0, 20 + length, 0, 0, 64, socket.IPPROTO_UDP, 0, *addresses)
    return ip + _UDP.pack(source[1], port, length, 0) + data


def _initials(port: int) -> Iterator[bytes]:
    """First datagrams of two thousand clients, each from an address of its own in 127.0.0.0/8."""
    network = Network(time.time_ns())
    rng = random.Random(network.random.random())
    for number in range(2000):
        Host(network, ("203.0.113.1", number), rng.randrange(1 << 30)).connect(SERVER, alpn=b"perf")
    return itertools.cycle(
        [
            _from((f"127.{1 + number % 200}.{number // 200}.9", 1024 + number), port, datagram.data)
            for number, datagram in enumerate(network.log)
        ]
    )


async def _connected(port: int, ca: Path, fetch: int) -> tuple[Sealer, int, list[int]]:
    """After a real handshake and a download of `fetch` bytes: what is needed to write packets in the connection's name,
    its UDP port, and the packet numbers that came."""
    async with client_net(AgentOptions(ca=ca)) as net:
        sock = QuicSocket(net.net)
        sock.setsockopt(SockOpt.ALPN, b"perf")
        await sock.connect((HOST, port))
        await sock.handshake(HandshakeRequest(MessageType.CLIENTHELLO, 10_000, AuthMode.UNAUTH, "localhost"))
        stream = await sock.wait_open_stream()
        if fetch:
            await stream.send(fetch.to_bytes(8, "big"))
            await stream.send_eof()
            while await stream.recv():
                pass
        else:
            await stream.send(b"\0")  # the header is never finished: the server waits
        await stream.drained()
        conn = sock.connection
        keys = conn.application.keys_out
        assert keys is not None
        sealer = Sealer(keys, conn.peer_cids.current.cid)
        sealer.written = 1
        came = [pn for start, stop in conn.application.received.ranges for pn in range(start, stop)]
        return sealer, sock.getsockname()[1], came


def _thousand_ranges(sealer: Sealer, came: list[int]) -> bytes:
    """Of what was acknowledged long ago, every second packet."""
    ranges = [(pn, pn) for pn in came[-2000::2]]
    return sealer.seal(frame_ack.write_ack(ranges[::-1], 0, None, 4000))


def attack(kind: str, port: int, ca: Path, rate: float) -> None:
    """Until killed. The connection behind it is never looked at again."""
    if kind == INITIALS:
        datagrams = _initials(port)
    else:
        with asyncio.Runner() as runner:
            sealer, source_port, came = runner.run(_connected(port, ca, _FETCHED if kind == RANGES else 0))
        if kind == RANGES:
            packets = (_thousand_ranges(sealer, came) for _ in itertools.count())
        else:
            make = FLOODS[kind].make
            packets = itertools.chain.from_iterable(make(sealer, 100) for _ in itertools.count())
        datagrams = (_from((HOST, source_port), port, data) for data in packets)
        made = list(itertools.islice(datagrams, int(_READY_S * rate)))
        datagrams = itertools.chain(made, datagrams)
    gc.freeze()
    print("ready", flush=True)
    sender = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW)  # with headers of our own
    sender.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 22)
    begin = time.monotonic()
    for burst in itertools.count(1):
        for data in itertools.islice(datagrams, _BURST):
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
    alone_s: list[float] = field(default_factory=list)  # processor time of the server
    beside_s: list[float] = field(default_factory=list)
    passed_s: list[float] = field(default_factory=list)  # wall time beside the flood
    grown: int = 0  # bytes of the server's memory

    @property
    def ratio(self) -> float:
        return statistics.median(self.beside) / statistics.median(self.alone)

    @property
    def share(self) -> float:
        """Of one processor, that the server used for the flood while it served the download too."""
        return (statistics.median(self.beside_s) - statistics.median(self.alone_s)) / statistics.median(
            self.passed_s
        )


def _download(port: int, ca: Path, size: int) -> float:
    command = [sys.executable, "-m", "quicfs", "perf", "client", f"localhost:{port}", "--ca", str(ca)]
    output = run([*command, "--reverse", "--bytes", str(size), "--json"], 60.0)
    return float(json.loads(output)["gbit_per_s"])


def _processor_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


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
                begin = _processor_s(process.pid)
                result.alone.append(_download(port, files.ca, size))
                result.alone_s.append(_processor_s(process.pid) - begin)
                own = [sys.executable, "-m", "tests.perf.floods", "--attack", kind, "--rate", str(rate)]
                own += ["--port", str(port), "--ca", str(files.ca)]
                attacker = subprocess.Popen(own, stdout=subprocess.PIPE)
                try:
                    assert attacker.stdout is not None
                    assert attacker.stdout.readline(), "the attacker did not start"
                    time.sleep(_UNDER_WAY_S)
                    begin, since = _processor_s(process.pid), time.monotonic()
                    result.beside.append(_download(port, files.ca, size))
                    result.passed_s.append(time.monotonic() - since)
                    result.beside_s.append(_processor_s(process.pid) - begin)
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
    for title in ("flood", "alone, Gbit/s", "beside it", "ratio", "of a processor", "memory grown, KiB"):
        table.add_column(title, justify="left" if title == "flood" else "right")
    for kind in options.kind or KINDS:
        console.print(kind, style="dim")
        result = measure(kind, options.rate, options.runs, options.bytes)
        alone, beside = statistics.median(result.alone), statistics.median(result.beside)
        print(
            f"floods.{kind.replace(' ', '-')} {beside:.3f} {alone:.3f} {result.ratio:.2f} {result.share:.2f}",
            flush=True,
        )
        ratios = f"{result.ratio:.2f}", f"{result.share:.2f}"
        table.add_row(kind, f"{alone:.2f}", f"{beside:.2f}", *ratios, str(result.grown >> 10))
    Console().print(table)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
