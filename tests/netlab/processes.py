"""Processes by the network namespace that they are in."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterable
from pathlib import Path

GRACE = 2.0  # seconds between asking and forcing


def of_namespaces(inodes: Iterable[int]) -> list[int]:
    """Process ids, this process and its namespace left out."""
    wanted = {f"net:[{inode}]" for inode in inodes} - {os.readlink("/proc/self/ns/net")}
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal() and int(entry.name) != os.getpid():
            try:
                if os.readlink(entry / "ns/net") in wanted:
                    found.append(int(entry.name))
            except OSError:
                continue  # it has ended meanwhile
    return found


def end_all(inodes: Iterable[int]) -> None:
    """End whatever still runs in these namespaces: first by asking, then by force."""
    inodes = list(inodes)
    for number in (signal.SIGTERM, signal.SIGKILL):
        deadline = time.monotonic() + GRACE
        asked: set[int] = set()
        while left := [pid for pid in of_namespaces(inodes) if not _is_zombie(pid)]:
            for pid in set(left) - asked:
                _signal(pid, number)
                asked.add(pid)
            if time.monotonic() > deadline:
                break
            time.sleep(0.01)
        else:
            return


def _signal(pid: int, number: signal.Signals) -> None:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        pass


def _is_zombie(pid: int) -> bool:
    """It has ended, and only its parent has not looked yet."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return True
    return stat.rpartition(")")[2].split()[0] == "Z"
