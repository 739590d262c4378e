"""What a case has to show besides equal files, the same that the public runner looks for in its captures."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tests.interop.datagrams import V1, V2, PacketType
from tests.interop.trace import Trace

AMPLIFICATION: Final = 3  # RFC 9000 §8.1
CHACHA20: Final = 0x1303
MAX_STREAMS: Final = 1000
LONG_CHAIN: Final = 7_500
"""Bytes in Handshake packets of a server that really sends its long chain."""
EARLY_NAMES: Final = 40 * 250
"""Bytes of the names asked for in case "zerortt"; at most half of them may go out in 1-RTT packets."""


class CheckFailed(Exception):
    """What was expected and is not so; one sentence."""


@dataclass(frozen=True, slots=True)
class Evidence:
    """What a run left behind. `key_log` says whether somebody wrote one."""

    files: Mapping[str, bytes]
    downloads: Path
    client: Trace
    server: Trace
    key_log: bool


Check = Callable[[Evidence], None]


def expect(condition: bool, otherwise: str) -> None:
    if not condition:
        raise CheckFailed(otherwise)


def _keys(evidence: Evidence) -> None:
    expect(evidence.key_log, "neither endpoint wrote a key log, without which this cannot be judged")


# --- of nearly every case


def files(evidence: Evidence) -> None:
    found = {file.name for file in evidence.downloads.iterdir()}
    missing, surplus = evidence.files.keys() - found, found - evidence.files.keys()
    expect(not missing, f"{len(missing)} of {len(evidence.files)} files are missing")
    expect(not surplus, f"there are files that nobody asked for: {sorted(surplus)[:3]}")
    wrong = [
        name for name, data in evidence.files.items() if (evidence.downloads / name).read_bytes() != data
    ]
    expect(not wrong, f"{len(wrong)} of {len(evidence.files)} files differ")


def handshakes(count: int) -> Check:
    """By the connection IDs that the server chose: those of its Initial packets never change."""

    def check(evidence: Evidence) -> None:
        initials = evidence.server.packets(PacketType.INITIAL, from_server=True)
        found = len({packet.scid for packet in initials})
        expect(found == count, f"{found} handshakes instead of {count}")

    return check


def version_1(evidence: Evidence) -> None:
    found = {packet.version for packet in evidence.server.packets(PacketType.INITIAL, from_server=True)}
    expect(found == {V1}, f"versions in the server's Initial packets: {_hex(found)}")


def _hex(numbers: set[int]) -> str:
    return ", ".join(f"{number:#x}" for number in sorted(numbers)) or "none"


# --- of single cases


def no_retry(evidence: Evidence) -> None:
    retries = list(evidence.client.packets(PacketType.RETRY, from_server=True))
    expect(not retries, "the server sent a Retry packet")


def hello_repeated(evidence: Evidence) -> None:
    trace = evidence.client
    rows = trace.fields(
        f"{trace.sent_by(server=False)} && quic.long.packet_type == 0 && quic.crypto.offset == 0", "quic.dcid"
    )
    expect(len(rows) >= 2, f"{len(rows)} ClientHello instead of two or more")


def only_chacha20(evidence: Evidence) -> None:
    trace = evidence.client
    rows = trace.fields(
        f"{trace.sent_by(server=False)} && tls.handshake.type == 1", "tls.handshake.ciphersuite"
    )
    suites = {int(suite, 0) for (suites,) in rows for suite in suites}
    expect(suites == {CHACHA20}, f"the client offers {_hex(suites)} instead of only {CHACHA20:#x}")


def few_streams_at_first(evidence: Evidence) -> None:
    _keys(evidence)
    trace, name = evidence.client, "tls.quic.parameter.initial_max_streams_bidi"
    rows = trace.fields(f"{trace.sent_by(server=True)} && {name}", name)
    limits = {int(limit, 0) for (limits,) in rows for limit in limits}
    expect(bool(limits), "the server's limit of streams was not found")
    expect(max(limits) <= MAX_STREAMS, f"the server allows {max(limits)} streams at first")


def retry_token_used(evidence: Evidence) -> None:
    trace = evidence.client
    tokens = {packet.token for packet in trace.packets(PacketType.RETRY, from_server=True)}
    expect(bool(tokens - {b""}), "the server sent no Retry packet with a token")
    rows = trace.fields(
        f"{trace.sent_by(server=False)} && quic.long.packet_type == 0",
        "quic.packet_number",
        "quic.token_length",
        "quic.token",
    )
    before = max((int(number[0]) for number, length, _ in rows if length[0] == "0"), default=-1)
    used = [(int(number[0]), bytes.fromhex(token[0].replace(":", ""))) for number, _, token in rows if token]
    expect(
        any(token in tokens for _, token in used), "no Initial packet carries the token of the Retry packet"
    )
    expect(min(number for number, _ in used) > before, "the client began again with packet number 0")


def second_without_certificate(evidence: Evidence) -> None:
    _keys(evidence)
    trace = evidence.client
    scids = [packet.scid.hex() for packet in trace.packets(PacketType.HANDSHAKE, from_server=True)]
    expect(bool(scids), "the server sent no Handshake packets")
    rows = trace.fields(f"{trace.sent_by(server=True)} && tls.handshake.certificates_length", "quic.scid")
    with_certificate = {scid.replace(":", "") for (scids,) in rows for scid in scids}
    expect(scids[0] in with_certificate, "no certificate in the first handshake")
    expect(scids[-1] not in with_certificate, "the server sent its certificate in the second handshake")


def early_data(evidence: Evidence) -> None:
    sizes = {
        kind: sum(packet.size for packet in evidence.client.packets(kind, from_server=False))
        for kind in (PacketType.ZERO_RTT, PacketType.ONE_RTT)
    }
    expect(sizes[PacketType.ZERO_RTT] > 0, "the client sent no 0-RTT packets")
    late = sizes[PacketType.ONE_RTT]
    expect(late <= EARLY_NAMES // 2, f"the client sent {late} bytes in 1-RTT packets")


def both_key_phases(evidence: Evidence) -> None:
    _keys(evidence)
    for trace, server in ((evidence.client, False), (evidence.server, True)):
        rows = trace.fields(f"{trace.sent_by(server=server)} && quic.header_form == 0", "quic.key_phase")
        phases = {phase for (phases,) in rows for phase in phases}
        who = "server" if server else "client"
        expect(bool(phases & {"1", "True"}), f"the {who} sent no packet with key phase 1")


def ecn_marked(evidence: Evidence) -> None:
    _keys(evidence)
    for trace, server in ((evidence.client, False), (evidence.server, True)):
        who = "server" if server else "client"
        marks = {mark.ecn for mark in trace.datagrams if trace.from_server(mark) == server}
        expect(bool(marks & {1, 2}), f"the {who} marked no datagram as ECT")
        expect(3 not in marks, f"the {who} sent datagrams marked CE")
        rows = trace.fields(f"{trace.sent_by(server=server)} && quic.ack.ect0_count", "quic.ack.ect0_count")
        expect(bool(rows), f"the {who} sent no ACK with ECN counts")


def amplification(evidence: Evidence) -> None:
    """RFC 9000 §8.1, judged where the server is, until the client has proved its address."""
    trace = evidence.server
    sent = sum(packet.size for packet in trace.packets(PacketType.HANDSHAKE, from_server=True))
    expect(sent >= LONG_CHAIN, f"the server's Handshake packets held {sent} bytes: not its long chain")
    chosen = {packet.scid for packet in trace.packets(PacketType.INITIAL, from_server=True)}
    allowed = 0
    for datagram in trace.datagrams:
        size = len(datagram.payload)
        if trace.from_server(datagram):
            allowed -= size
            expect(allowed >= 0, f"the server sent {-allowed} bytes more than three times what it got")
        elif any(p.type is PacketType.HANDSHAKE or p.dcid in chosen for p in datagram.packets()):
            return
        else:
            allowed += AMPLIFICATION * size
    raise CheckFailed("the client never proved its address")


def only_ipv6(evidence: Evidence) -> None:
    found = sum(datagram.ip_version == 4 for datagram in evidence.server.datagrams)
    expect(not found, f"{found} datagrams came or went over IPv4")


def version_2(evidence: Evidence) -> None:
    """RFC 9368 §2.3: begun with version 1, continued with version 2."""
    client, server = evidence.client, evidence.server

    def versions(trace: Trace, kind: PacketType, *, from_server: bool) -> set[int]:
        return {packet.version for packet in trace.packets(kind, from_server=from_server)}

    began = versions(client, PacketType.INITIAL, from_server=False)
    expect(V1 in began, f"the client's Initial packets are of version {_hex(began)}")
    answered = versions(server, PacketType.INITIAL, from_server=True)
    expect(V2 in answered, f"the server's Initial packets are of version {_hex(answered)}")
    for trace, from_server in ((client, False), (server, True)):
        found = versions(trace, PacketType.HANDSHAKE, from_server=from_server)
        who = "server" if from_server else "client"
        expect(found == {V2}, f"the {who}'s Handshake packets are of version {_hex(found)}")


def paths_validated(evidence: Evidence) -> None:
    """The server's first packet on every new path asks for it to be validated, and the client answers each time."""
    _keys(evidence)
    trace = evidence.server
    rows = trace.fields(
        f"{trace.sent_by(server=True)}",
        "ip.src",
        "ip.dst",
        "udp.srcport",
        "udp.dstport",
        "quic.path_challenge.data",
    )
    seen: list[tuple[str, ...]] = []
    challenges: set[str] = set()
    for *addresses, challenge in rows:
        path = tuple(value[0] for value in addresses if value)
        if path in seen:
            continue
        if seen:
            expect(
                bool(challenge), f"the server's first packet on path {len(seen) + 1} has no PATH_CHALLENGE"
            )
            challenges.update(challenge)
        seen.append(path)
    expect(len(seen) > 1, "the server saw a single path")
    client = evidence.client
    answers = client.fields(
        f"{client.sent_by(server=False)} && quic.path_response.data", "quic.path_response.data"
    )
    unanswered = challenges - {answer for (answers_of,) in answers for answer in answers_of}
    expect(not unanswered, f"{len(unanswered)} PATH_CHALLENGE without an answer")


def several_addresses(evidence: Evidence) -> None:
    trace = evidence.server
    found = {datagram.source[0] for datagram in trace.datagrams if not trace.from_server(datagram)}
    expect(len(found) > 1, "the server saw a single address of the client")


def new_connection_id(evidence: Evidence) -> None:
    """RFC 9000 §9.5: the client's first packet to another address carries another connection ID."""
    trace = evidence.client
    rows = trace.fields(
        f"{trace.sent_by(server=False)}", "ip.src", "ip.dst", "udp.srcport", "udp.dstport", "quic.dcid"
    )
    used: dict[tuple[str, ...], str] = {}
    for *addresses, dcids in rows:
        path = tuple(value[0] for value in addresses if value)
        if path in used or not dcids:
            continue
        expect(dcids[0] not in used.values(), "the client used a connection ID again on its new path")
        used[path] = dcids[-1]
    expect(len(used) > 1, "the client used a single path")
