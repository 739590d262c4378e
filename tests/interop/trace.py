"""What was on the wire, as one end of the link saw it: plain facts from datagrams.py, the rest from Wireshark.

As in the public runner tshark opens the packets, with the key log that one of the endpoints wrote.
"""

from __future__ import annotations

import struct
import subprocess
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Final

from tests.interop.contract import PORT
from tests.interop.datagrams import Datagram, Packet, PacketType, parse_ip
from tests.netlab import Captured

_PCAP_HEADER: Final = struct.pack("=IHHiIII", 0xA1B23C4D, 2, 4, 0, 0, 65_535, 101)  # nanoseconds; bare IP
_TSHARK_S: Final = 120


class TraceError(Exception):
    """The trace cannot be read; its text is a sentence."""


class Trace:
    """One end's view. `server` are the addresses of the server."""

    def __init__(
        self,
        packets: Iterable[Captured],
        side: str,
        server: Sequence[str],
        folder: Path,
        key_log: Path | None,
    ) -> None:
        self._captured = [packet for packet in packets if packet.side == side]
        self._server = frozenset(server)
        self._file = folder / f"{side}.pcap"
        self._key_log = key_log

    @cached_property
    def datagrams(self) -> list[Datagram]:
        return [found for packet in self._captured if (found := parse_ip(packet.packet)) is not None]

    def from_server(self, datagram: Datagram) -> bool:
        return datagram.source[0] in self._server

    def packets(self, kind: PacketType, *, from_server: bool) -> Iterator[Packet]:
        for datagram in self.datagrams:
            if self.from_server(datagram) == from_server:
                for packet in datagram.packets():
                    if packet.type is kind:
                        yield packet

    def sent_by(self, *, server: bool) -> str:
        """A display filter."""
        addresses = " || ".join(
            f"{'ipv6' if ':' in address else 'ip'}.src == {address}" for address in sorted(self._server)
        )
        return f"({addresses})" if server else f"!({addresses})"

    def fields(self, display_filter: str, *names: str) -> list[tuple[list[str], ...]]:
        """One row for a datagram that ICMP does not just quote, for each name all its values. Raises TraceError."""
        command = [
            "tshark",
            "-r",
            str(self._write()),
            "-Y",
            f"quic && !icmp && !icmpv6 && {display_filter}",
            "-T",
            "fields",
        ]
        command += ["-E", "occurrence=a", "-E", "aggregator=|", "-d", f"udp.port=={PORT},quic"]
        command += ["--disable-protocol", "http3"]
        if self._key_log is not None:
            command += ["-o", f"tls.keylog_file:{self._key_log}"]
        for name in names:
            command += ["-e", name]
        try:
            done = subprocess.run(
                command,
                capture_output=True,
                text=True,
                timeout=_TSHARK_S,
                check=True,
                stdin=subprocess.DEVNULL,
            )
        except FileNotFoundError:
            raise TraceError("tshark is missing: install the Debian package tshark") from None
        except subprocess.TimeoutExpired:
            raise TraceError(f"tshark took longer than {_TSHARK_S} s") from None
        except subprocess.CalledProcessError as error:
            raise TraceError(f"tshark failed: {error.stderr.strip()[-300:]}") from None
        rows = (line.split("\t") for line in done.stdout.splitlines())
        return [tuple(value.split("|") if value else [] for value in row) for row in rows]

    def _write(self) -> Path:
        """This end's packets alone: Wireshark would take those of the other end for retransmissions."""
        if not self._file.exists():
            with self._file.open("wb") as file:
                file.write(_PCAP_HEADER)
                for packet in self._captured:
                    seconds, fraction = divmod(int(packet.time * 1e9), 1_000_000_000)
                    size = len(packet.packet)
                    file.write(struct.pack("=IIII", seconds, fraction, size, size) + packet.packet)
        return self._file
