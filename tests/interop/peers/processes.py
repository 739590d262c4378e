"""Servers and clients as processes of their own: start, wait for the port, stop."""

import contextlib
import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO

START_TIMEOUT_S = 20.0
STOP_TIMEOUT_S = 5.0
_TABLES = {"udp": ("udp", "udp6"), "tcp": ("tcp", "tcp6")}
_TCP_LISTEN = "0A"


class ProcessFailed(Exception):
    """A server or client did not do what it was started for; the message holds the end of its stderr."""


def free_port() -> int:
    """A UDP and TCP port that nobody uses now in this network namespace."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def is_bound(pid: int, protocol: str, port: int) -> bool:
    """Whether `port` is bound (TCP: listening) in the network namespace of process `pid`."""
    for table in _TABLES[protocol]:
        for line in Path(f"/proc/{pid}/net/{table}").read_text().splitlines()[1:]:
            fields = line.split()
            if int(fields[1].rpartition(":")[2], 16) == port and (
                protocol == "udp" or fields[3] == _TCP_LISTEN
            ):
                return True
    return False


@contextlib.contextmanager
def server(command: Sequence[str], protocol: str, port: int, log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Runs `command` until the block ends; enters it once `port` is bound. Its output goes to `log`."""
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=output)
    try:
        deadline = time.monotonic() + START_TIMEOUT_S
        # `ip netns exec` becomes the command itself, so this process is the one that binds
        while not is_bound(process.pid, protocol, port):
            if process.poll() is not None:
                raise ProcessFailed(f"{_short(command)} ended with {process.returncode}: {_tail(log)}")
            if time.monotonic() > deadline:
                raise ProcessFailed(f"{_short(command)} did not bind port {port}: {_tail(log)}")
            time.sleep(0.02)
        yield process
    finally:
        process.terminate()
        try:
            process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def run(command: Sequence[str], timeout_s: float, stdout: IO[bytes] | int = subprocess.PIPE) -> str:
    """Runs a client to its end; its stdout. Raises ProcessFailed."""
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            stdout=stdout,
            stderr=subprocess.PIPE,
            timeout=timeout_s,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise ProcessFailed(f"{_short(command)} took longer than {timeout_s:.0f} s") from None
    if done.returncode != 0:
        tail = done.stderr.decode(errors="replace").strip()[-400:]
        raise ProcessFailed(f"{_short(command)} ended with {done.returncode}: {tail}")
    return (done.stdout or b"").decode(errors="replace")


def _short(command: Sequence[str]) -> str:
    words = [Path(word).name for word in command if not word.startswith("-")]
    return " ".join(words[:5])


def _tail(log: Path) -> str:
    return log.read_text(errors="replace").strip()[-400:] or "no output"
