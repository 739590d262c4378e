"""The links of the measurements: loopback as it is, a veth pair of MTU 1500 between namespaces, and a bad one."""

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from tests.netlab import LinkSettings, Netlab


@dataclass(frozen=True)
class Link:
    """Where a server and a client run: prefixes of their command lines, and the server's address."""

    name: str
    server_address: str
    server_prefix: tuple[str, ...] = ()
    client_prefix: tuple[str, ...] = ()
    first_size: int = 4 << 20
    """Bytes of the first trial: about a second on this link."""
    stretch: float = 1.0
    """How much longer than others its runs are: chance has to even out."""


@contextmanager
def loopback() -> Iterator[Link]:
    yield Link("loopback", "127.0.0.1")


@contextmanager
def veth_1500() -> Iterator[Link]:
    """Segmentation and receive offloads stay at the kernel's defaults. Needs the right to make namespaces.

    The addresses are those for documentation (RFC 5737); nothing leaves the two namespaces.
    """
    server, client = f"quicfs-{os.getpid()}-s", f"quicfs-{os.getpid()}-c"
    made: list[str] = []
    try:
        for namespace in (server, client):
            _ip("netns", "add", namespace)
            made.append(namespace)
            _ip("-n", namespace, "link", "set", "lo", "up")
        _ip(
            *("link", "add", "veth0", "netns", server, "mtu", "1500", "type", "veth"),
            *("peer", "name", "veth0", "netns", client, "mtu", "1500"),
        )
        for namespace, address in ((server, "192.0.2.1/24"), (client, "192.0.2.2/24")):
            _ip("-n", namespace, "addr", "add", address, "dev", "veth0")
            _ip("-n", namespace, "link", "set", "veth0", "up")
        yield Link(
            "veth-1500",
            "192.0.2.1",
            ("ip", "netns", "exec", server),
            ("ip", "netns", "exec", client),
        )
    finally:
        for namespace in made:
            _ip("netns", "delete", namespace)  # takes its end of the pair along, and with it the other


@contextmanager
def wan() -> Iterator[Link]:
    """A round trip of 50 ms, 1% of the packets lost each way at random, no rate limit (tests/netlab)."""
    each_way = LinkSettings(delay=0.025, loss=0.01)
    with Netlab(each_way, each_way) as lab:
        yield Link(
            "wan-50ms-1%",
            "192.0.2.1",
            lab.server.prefix,
            lab.client.prefix,
            first_size=256 << 10,
            stretch=4.0,
        )


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True, text=True)


LOCAL = {"loopback": loopback, "veth-1500": veth_1500}
WAN = {"wan-50ms-1%": wan}
LINKS = LOCAL | WAN
