"""How a command that serves begins and ends: signals, the line that says it is ready, the service manager."""

from __future__ import annotations

import asyncio
import contextlib
import os
import resource
import signal
import socket

import click

from quicfs.url import Address

__all__ = ["allow_many_files", "announce", "reachable", "tell_service_manager", "told_to_stop"]


def told_to_stop() -> asyncio.Event:
    """Set by SIGINT and SIGTERM from now on."""
    told = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, told.set)
    return told


def allow_many_files() -> None:
    """As many open files as this process may have: what clients open stays open here."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def announce(line: str) -> None:
    """We are ready: one line on standard output, and a word to the service manager."""
    click.echo(line)
    tell_service_manager("READY=1")


def tell_service_manager(state: str) -> None:
    """sd_notify(3), where a service manager asked for it."""
    path = os.environ.get("NOTIFY_SOCKET")
    if not path:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock, contextlib.suppress(OSError):
        sock.sendto(state.encode(), "\0" + path[1:] if path.startswith("@") else path)


def reachable(asked: Address, port: int) -> Address:
    """What a client would write for where we were `asked` to listen: this machine's name for "all addresses"."""
    return Address(socket.gethostname() if asked.host in {"::", "0.0.0.0"} else asked.host, port)
