"""The two links of every measurement: loopback as it is, and a veth pair of MTU 1500 between namespaces."""

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass


@dataclass(frozen=True)
class Link:
    """Where a server and a client run: prefixes of their command lines, and the server's address."""

    name: str
    server_address: str
    server_prefix: tuple[str, ...] = ()
    client_prefix: tuple[str, ...] = ()


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


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True, text=True)


LINKS = {"loopback": loopback, "veth-1500": veth_1500}
