"""python -m tests.netlab [link] [-- COMMAND]: run a command on a bad network.

COMMAND (a shell, if there is none) runs in the client's namespace: 192.0.2.2 and 2001:db8::2. The server's command
runs at 192.0.2.1 and 2001:db8::1 and is ended with the client's. Options of the link are for both directions; with
client- or server- before the name they are for what that side sends. Quantities as in tc: 15ms, 10mbit, 2%.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NoReturn

from rich.console import Console
from rich.table import Table

from tests.netlab import units
from tests.netlab.errors import NetlabError
from tests.netlab.lab import Netlab, Stats
from tests.netlab.settings import LinkSettings, Rebind


@dataclass(frozen=True)
class _Option:
    """An option of the link: the field of LinkSettings that it sets, and how its text is read."""

    name: str
    field: str
    read: Callable[[str], Any]
    metavar: str
    help: str


_OPTIONS: Final = (
    _Option("delay", "delay", units.seconds, "TIME", "one way"),
    _Option("rate", "rate", units.bits_per_second, "RATE", "of IP packets"),
    _Option("queue", "queue", int, "N", "packets that wait for their turn; the next is dropped"),
    _Option("path-mtu", "mtu", int, "N", "larger packets vanish; interfaces do not know of it"),
    _Option("loss", "loss", units.fraction, "P%", "dropped at random"),
    _Option("corrupt", "corrupt", units.fraction, "P%", "a byte of the payload's first 50 changed"),
    _Option("burst", "burst", int, "N", "at most so many lost or corrupted in a row"),
    _Option("drop", "drop", units.ranges, "N-M,...", "packets by number, from 1 on: 2-7"),
    _Option("blackhole", "blackhole", units.periods, "TIME/TIME", "alive / dead: 5s/2s"),
    _Option("duplicate", "duplicate", units.fraction, "P%", "delivered twice"),
    _Option("reorder", "reorder", units.fraction, "P%", "delivered late"),
    _Option("reorder-delay", "reorder_delay", units.seconds, "TIME", "how late, 5ms unless said"),
    _Option("mark-above", "mark_above", int, "N", "with so many packets waiting ECT becomes CE"),
)
_SIDES: Final = ("client", "server")


def _reader(option: _Option) -> Callable[[str], Any]:
    def read(text: str) -> Any:
        try:
            return option.read(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from error

    return read


def parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m tests.netlab",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    link = parser.add_argument_group("the link")
    for option in _OPTIONS:
        link.add_argument(
            f"--{option.name}", metavar=option.metavar, type=_reader(option), help=_escaped(option.help)
        )
        for side in _SIDES:
            link.add_argument(f"--{side}-{option.name}", type=_reader(option), help=argparse.SUPPRESS)
    link.add_argument("--bleach", action="store_true", help="clear the ECN field")
    link.add_argument(
        "--mtu", type=int, default=1500, metavar="N", help="of both interfaces, 1500 unless said"
    )
    nat = parser.add_argument_group("a NAT in front of the client")
    nat.add_argument("--rebind", choices=("port", "address"), help="it forgets bindings: new port, or both")
    nat.add_argument("--rebind-start", type=_time, default=1.0, metavar="TIME", help="1s unless said")
    nat.add_argument(
        "--rebind-every", type=_time, default=5.0, metavar="TIME", help="5s unless said; 0: once"
    )
    parser.add_argument("--seed", type=int, default=0, help="everything random follows from it")
    parser.add_argument("--server", metavar="COMMAND", help="for a shell in the server's namespace")
    parser.add_argument("--server-ready", type=_time, default=20.0, metavar="TIME", help=argparse.SUPPRESS)
    parser.add_argument("--pcap", type=Path, metavar="FILE", help="capture both ends, as pcapng")
    parser.add_argument("--stats", action="store_true", help="what became of the packets, on stderr")
    parser.add_argument("--json", type=Path, metavar="FILE", help="the same, for programs")
    parser.add_argument("command", nargs="*", metavar="COMMAND", help="after --")
    return parser.parse_args(arguments)


def _escaped(text: str) -> str:
    return text.replace("%", "%%")


def _time(text: str) -> float:
    try:
        return units.seconds(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def settings(options: argparse.Namespace, side: str) -> LinkSettings:
    chosen: dict[str, Any] = {"bleach": options.bleach}
    for option in _OPTIONS:
        name = option.name.replace("-", "_")
        both, own = getattr(options, name), getattr(options, f"{side}_{name}")
        if own is not None or both is not None:
            chosen[option.field] = own if own is not None else both
    return LinkSettings(**chosen)


def run(options: argparse.Namespace) -> int:
    rebind = None
    if options.rebind:
        rebind = Rebind(options.rebind, options.rebind_start, options.rebind_every or None)
    lab = Netlab(
        settings(options, "client"),
        settings(options, "server"),
        rebind=rebind,
        seed=options.seed,
        mtu=options.mtu,
        pcap=options.pcap,
    )
    with lab:
        if options.server:
            server = lab.popen_server(["sh", "-c", options.server])
            while not lab.server.wait_listening(timeout=0.1):
                options.server_ready -= 0.1
                if server.poll() is not None:
                    raise NetlabError(
                        f"the server's command ended with {server.returncode} before it listened"
                    )
                if options.server_ready < 0:
                    raise NetlabError("the server's command does not listen on any port")
        command = options.command or [os.environ.get("SHELL", "/bin/sh")]
        try:
            status = lab.popen_client(command).wait()
        except OSError as error:
            raise NetlabError(f"{command[0]} cannot be started: {error.strerror}") from error
    if options.stats:
        _print(lab.stats())
    if options.json:
        options.json.write_text(json.dumps(lab.stats().as_dict(), indent=1) + "\n")
    return status if status >= 0 else 128 - status


def _print(stats: Stats) -> None:
    table = Table()
    for title in ("sent by", "packets", "bytes", "delivered", "dropped", "marked CE"):
        table.add_column(title, justify="left" if title in ("sent by", "dropped") else "right")
    for side, counters in (("client", stats.client), ("server", stats.server)):
        dropped = ", ".join(f"{count} {reason}" for reason, count in sorted(counters.dropped.items()))
        table.add_row(
            side,
            str(counters.packets),
            str(counters.bytes),
            str(counters.delivered),
            dropped or "none",
            str(counters.marked),
        )
    console = Console(stderr=True, highlight=False)
    console.print(table)
    for side, counters in (("client", stats.client), ("server", stats.server)):
        if counters.duplicated or counters.corrupted or counters.reordered:
            console.print(
                f"{side}: {counters.duplicated} duplicated, {counters.corrupted} corrupted, "
                f"{counters.reordered} reordered"
            )
    if stats.rebindings:
        console.print(f"rebindings: {stats.rebindings}")


def _on_signal(number: int, _frame: object) -> NoReturn:
    sys.exit(128 + number)  # through all the finally clauses


def main(arguments: list[str]) -> int:
    options = parse(arguments)
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _on_signal)
    try:
        return run(options)
    except NetlabError as error:
        print(f"netlab: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
