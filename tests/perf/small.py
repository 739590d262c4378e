"""Who exchanges little: the programs in `programs/`, and how one of their servers and its clients are run."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from quicfs import certs
from tests.interop.peers.processes import ProcessFailed, free_port, run, server

HOST = "127.0.0.1"
TIMEOUT_S = 300.0


@dataclass(frozen=True)
class SmallPeer:
    """`program` is a module of `tests.perf.programs` with its first arguments."""

    name: str
    program: tuple[str, ...]
    protocol: str = "udp"
    needs: str | None = None
    streams: bool = True

    @property
    def missing(self) -> str | None:
        """What to install, or None when everything is there."""
        if self.needs is not None and importlib.util.find_spec(self.needs) is None:
            return f"pip install {self.needs}"
        return None

    def command(self, *arguments: str) -> list[str]:
        module, *rest = self.program
        return [sys.executable, "-m", f"tests.perf.programs.{module}", *rest, *arguments]


PEERS = (
    SmallPeer("quicfs", ("quicfs_small",)),
    SmallPeer("aioquic", ("aioquic_small", "aioquic"), needs="aioquic"),
    SmallPeer("qh3", ("aioquic_small", "qh3"), needs="qh3"),
    SmallPeer("tls-tcp", ("tls_small",), protocol="tcp", streams=False),
)


class Running:
    """A server of one peer that serves."""

    def __init__(self, peer: SmallPeer, port: int, ca: Path, process: subprocess.Popen[bytes]) -> None:
        self.peer = peer
        self.process = process
        self._where = ("--host", HOST, "--port", str(port), "--ca", str(ca))

    def client(self, *arguments: str) -> dict[str, float]:
        """Run a client to its end; what it reports. Raises ProcessFailed."""
        output = run(self.peer.command("client", *self._where, *arguments), TIMEOUT_S)
        result: dict[str, float] = json.loads(output)
        return result

    def rate(self, *arguments: str) -> float:
        result = self.client(*arguments)
        return result["count"] / result["seconds"]

    @contextmanager
    def idle(self, count: int, clients: int) -> Iterator[float]:
        """So many connections that do nothing during the block, of several client processes; how many a second came
        up."""
        processes: list[subprocess.Popen[str]] = []
        share = -(-count // clients)
        try:
            for number in range(clients):
                wanted = min(share, count - number * share)
                command = self.peer.command("client", *self._where, "idle", "--count", str(wanted))
                processes.append(
                    subprocess.Popen(
                        command,
                        stdin=subprocess.PIPE,
                        stdout=subprocess.PIPE,
                        stderr=subprocess.PIPE,
                        text=True,
                    )
                )
            rate = 0.0
            for process in processes:
                assert process.stdout is not None and process.stderr is not None
                line = process.stdout.readline()
                if not line:
                    tail = process.stderr.read().strip()[-400:]
                    raise ProcessFailed(f"{self.peer.name}'s client opened too few connections: {tail}")
                result = json.loads(line)
                rate += result["count"] / result["seconds"]
            yield rate
        finally:
            for process in processes:
                process.kill()
                with contextlib.suppress(BrokenPipeError):
                    process.communicate()


@contextmanager
def running(peers: Sequence[SmallPeer]) -> Iterator[dict[str, Running | ProcessFailed]]:
    """The servers of all of them, by name; in place of one that does not start, the reason."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="quicfs-perf-")))
        files = certs.create(folder / "certificates", ["localhost", HOST])
        started: dict[str, Running | ProcessFailed] = {}
        for peer in peers:
            port = free_port()
            command = peer.command(
                *("server", "--host", HOST, "--port", str(port)),
                *("--cert", str(files.cert), "--key", str(files.key)),
            )
            try:
                process = stack.enter_context(
                    server(command, peer.protocol, port, folder / f"{peer.name}.log")
                )
                started[peer.name] = Running(peer, port, files.ca, process)
            except ProcessFailed as failure:
                started[peer.name] = failure
        yield started
