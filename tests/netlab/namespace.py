"""A network namespace without a name: it lives as long as somebody is in it, so nothing can be left behind."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import struct
import subprocess
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final, ParamSpec, TypeVar

from tests.netlab import processes
from tests.netlab.errors import NetlabError

P = ParamSpec("P")
T = TypeVar("T")

DEVICE: Final = "netlab"
_CLONE_NEWNET: Final = 0x4000_0000
_TUNSETIFF: Final = 0x4004_54CA
_IFF_TUN, _IFF_NO_PI = 0x0001, 0x1000
_QUEUE: Final = 10_000  # packets that wait for the relay: what is dropped, it shall drop
_MIN_IPV6_MTU: Final = 1280


class Namespace:
    """One end of the link: a namespace whose only interface, besides loopback, is a TUN device.

    The relay takes the device over from `tun`. `address` and `address6` are this end's own; `other` and `other6` can
    be used too, for migration and preferred addresses. Raises NetlabError.
    """

    def __init__(self, name: str, host: int, mtu: int) -> None:
        self.name = name
        self.address, self.other = f"192.0.2.{host}", f"192.0.2.{host + 2}"  # RFC 5737
        self.address6, self.other6 = f"2001:db8::{host}", f"2001:db8::{host + 2}"  # RFC 3849
        self.mtu = mtu
        self._children: list[subprocess.Popen[Any]] = []
        self._fd = -1
        self.tun = -1
        # A thread lives in the namespace: whatever it starts or opens is inside.
        self._thread = ThreadPoolExecutor(1, thread_name_prefix=f"netlab-{name}")
        try:
            self.tun = self.call(self._build)
            self.inode = os.fstat(self._fd).st_ino
        except BaseException:
            self.close()
            raise

    @property
    def prefix(self) -> tuple[str, ...]:
        """Put before a command line: the command runs in here. For those who start processes themselves."""
        return ("nsenter", f"--net=/proc/{os.getpid()}/fd/{self._fd}")

    def call(self, function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """Call a function inside. Sockets that it makes stay inside, whoever uses them; it must not block for long."""
        return self._thread.submit(function, *args, **kwargs).result()

    def popen(self, argv: Sequence[str], **options: Any) -> subprocess.Popen[Any]:
        """subprocess.Popen inside; what still runs when the lab is closed is ended."""
        child: subprocess.Popen[Any] = self.call(lambda: subprocess.Popen(argv, **options))
        self._children.append(child)
        return child

    def run(
        self, argv: Sequence[str], *, timeout: float | None = 60.0, check: bool = False, **options: Any
    ) -> subprocess.CompletedProcess[Any]:
        """subprocess.run inside."""
        child = self.popen(argv, **options)
        try:
            output, errors = child.communicate(timeout=timeout)
        except BaseException:
            child.kill()
            child.communicate()
            raise
        if check and child.returncode:
            raise subprocess.CalledProcessError(child.returncode, argv, output, errors)
        return subprocess.CompletedProcess(argv, child.returncode, output, errors)

    def listening(self) -> set[tuple[str, int]]:
        """("udp", 443) and so on: bound UDP ports and listening TCP ports."""
        return self.call(_listening)

    def wait_listening(self, port: int | None = None, timeout: float = 10.0) -> bool:
        """Wait until somebody listens inside, on `port` or anywhere; False if nobody does in time."""
        deadline = time.monotonic() + timeout
        while not any(port in (None, number) for _, number in self.listening()):
            if time.monotonic() > deadline:
                return False
            time.sleep(0.01)
        return True

    def overrun(self) -> int:
        """Packets that the device dropped because the relay did not come round to them."""
        for line in self.call(Path("/proc/thread-self/net/dev").read_text).splitlines():
            name, _, numbers = line.partition(":")
            if name.strip() == DEVICE:
                return int(numbers.split()[11])
        return 0

    def end_processes(self) -> None:
        """End all that runs inside, also what our commands have started on their own."""
        if self._fd >= 0:
            processes.end_all([self.inode])
        for child in self._children:
            if child.poll() is None:
                child.terminate()
            child.wait()

    def close(self) -> None:
        self._thread.shutdown()
        for fd in (self.tun, self._fd):
            if fd >= 0:
                os.close(fd)
        self.tun = self._fd = -1

    # --- inside the thread

    def _build(self) -> int:
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.unshare(_CLONE_NEWNET):
            if ctypes.get_errno() == errno.EPERM:
                raise NetlabError("a network namespace needs root: try again with sudo")
            raise NetlabError(f"no network namespace: {os.strerror(ctypes.get_errno())}")
        self._fd = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        try:
            tun = os.open("/dev/net/tun", os.O_RDWR | os.O_CLOEXEC | os.O_NONBLOCK)
        except OSError as error:
            raise NetlabError(
                f"no TUN device ({error.strerror}): load the module with modprobe tun"
            ) from error
        try:
            request = struct.pack("16sH22x", DEVICE.encode(), _IFF_TUN | _IFF_NO_PI)
            fcntl.ioctl(tun, _TUNSETIFF, request)
            self._configure()
        except BaseException:
            os.close(tun)
            raise
        return tun

    def _configure(self) -> None:
        commands = [
            "link set lo up",
            # no link-local address: the only packets are those of the commands
            f"link set {DEVICE} addrgenmode none mtu {self.mtu} txqueuelen {_QUEUE}",
            f"addr add {self.address}/24 dev {DEVICE}",
            f"addr add {self.other}/24 dev {DEVICE}",
        ]
        if self.mtu >= _MIN_IPV6_MTU:
            commands += [
                f"addr add {self.address6}/64 dev {DEVICE} nodad",
                f"addr add {self.other6}/64 dev {DEVICE} nodad preferred_lft 0",  # never by itself
            ]
        commands.append(f"link set {DEVICE} up")
        done = subprocess.run(
            ["ip", "-batch", "-"], input="\n".join(commands), text=True, capture_output=True, check=False
        )
        if done.returncode:
            raise NetlabError(f"ip (of iproute2) could not set up {self.name}: {done.stderr.strip()}")


def _listening() -> set[tuple[str, int]]:
    found = set()
    for protocol, state in (("udp", "07"), ("tcp", "0A")):
        for family in ("", "6"):
            table = Path(f"/proc/thread-self/net/{protocol}{family}")
            if table.exists():
                for line in table.read_text().splitlines()[1:]:
                    fields = line.split()
                    if fields[3] == state:
                        found.add((protocol, int(fields[1].rpartition(":")[2], 16)))
    return found
