"""qlog of whole connections: what is written is what qvis reads, and it is bounded whatever the peer does."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from quicfs.transport import limits
from quicfs.transport.config import ConnectionConfig, default_parameters
from quicfs.transport.qlog.directory import QlogDirectory

from .endpoints import CLIENT, SERVER, App, Host, Pair, both_ways, make_pair
from .network import Network

PAYLOAD = bytes(range(256)) * 2000


def read(path: Path) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Header and events, as qvis takes a file of this name apart: records that each begin with RS, the header
    with version, format and trace, and events in the order of their times."""
    records = path.read_bytes().split(b"\x1e")
    assert records.pop(0) == b""
    assert all(record.endswith(b"\n") for record in records)
    header, *events = (json.loads(record) for record in records)
    assert header["qlog_version"] == "0.3"
    assert header["qlog_format"] == "JSON-SEQ"
    assert header["trace"]["vantage_point"]["type"] in ("client", "server")
    assert header["trace"]["common_fields"]["time_format"] == "relative"
    times = [event["time"] for event in events]
    assert times == sorted(times)
    assert all(event["name"].count(":") == 1 and isinstance(event["data"], dict) for event in events)
    assert not any("packet_type" in event["data"] for event in events)  # it belongs into the header
    return header, events


def traced(tmp_path: Path, seed: int = 0, **settings: float) -> Pair:
    config = ConnectionConfig(trace=QlogDirectory(tmp_path))

    return make_pair(
        seed,
        client=config,
        server=config,
        prepare=(lambda network: both_ways(network, **settings)) if settings else None,
    )


def finish(pair: Pair) -> None:
    pair.client.close(7, "enough")
    pair.run(lambda: pair.client.closed and pair.server.closed)


def logs(tmp_path: Path, pair: Pair) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    odcid = pair.client.conn.original_dcid.hex()
    assert {path.name for path in tmp_path.iterdir()} == {f"{odcid}_client.sqlog", f"{odcid}_server.sqlog"}
    (client, of_client), (server, of_server) = (
        read(tmp_path / f"{odcid}_{role}.sqlog") for role in ("client", "server")
    )
    for role, header in (("client", client), ("server", server)):
        assert header["trace"]["vantage_point"]["type"] == role
        assert header["trace"]["common_fields"]["ODCID"] == odcid
    return of_client, of_server


def transfer(pair: Pair) -> None:
    pair.establish()
    stream = pair.client.send(PAYLOAD)
    pair.run(lambda: stream.stream_id in pair.server.ended)


def packets(events: list[dict[str, Any]], kind: str) -> set[tuple[str, int]]:
    return {
        (event["data"]["header"]["packet_type"], event["data"]["header"]["packet_number"])
        for event in events
        if event["name"] == kind
    }


def test_a_transfer_is_told_packet_by_packet(tmp_path: Path) -> None:
    pair = traced(tmp_path)
    transfer(pair)
    finish(pair)
    client, server = logs(tmp_path, pair)
    sent = [event["data"] for event in client if event["name"] == "transport:packet_sent"]
    streams = [frame for data in sent for frame in data["frames"] if frame["frame_type"] == "stream"]
    assert sum(frame["length"] for frame in streams) == len(PAYLOAD)
    assert streams[-1]["fin"] is True
    assert sum(data["raw"]["length"] for data in sent) == pair.server.conn.bytes_received
    by_number = {(d["header"]["packet_type"], d["header"]["packet_number"]): d for d in sent}
    unheard = packets(client, "transport:packet_sent") - packets(server, "transport:packet_received")
    # CONNECTION_CLOSE is repeated to a server that drains and does not look any more
    assert all(by_number[key]["frames"][0]["frame_type"] == "connection_close" for key in unheard)
    assert packets(server, "transport:packet_sent") >= packets(client, "transport:packet_received")
    received = [event["data"] for event in server if event["name"] == "transport:packet_received"]
    for data in received:
        assert data == by_number[data["header"]["packet_type"], data["header"]["packet_number"]]


def test_the_life_of_a_connection(tmp_path: Path) -> None:
    pair = traced(tmp_path)
    transfer(pair)
    finish(pair)
    client, server = logs(tmp_path, pair)
    for events, owner in ((client, "local"), (server, "remote")):
        names = Counter(event["name"] for event in events)
        assert names["connectivity:connection_started"] == 1
        assert names["transport:parameters_set"] == 2
        assert names["recovery:metrics_updated"] > 3
        assert names["connectivity:mtu_updated"] == 1
        assert names["security:key_updated"] == 4  # Initial keys are there from the beginning
        assert names["security:key_discarded"] == 4
        states = [e["data"]["new"] for e in events if e["name"] == "connectivity:connection_state_updated"]
        assert states[-1] == "closed"
        assert "handshake_confirmed" in states
        (closed,) = (e["data"] for e in events if e["name"] == "connectivity:connection_closed")
        assert closed == {"owner": owner, "application_code": 7, "reason": "enough"}
    remote = [e["data"] for e in client if e["name"] == "transport:parameters_set"][1]
    assert remote["owner"] == "remote"
    assert remote["initial_max_data"] == limits.CONNECTION_WINDOW
    assert "stateless_reset_token" not in remote


def test_losses_are_told(tmp_path: Path) -> None:
    pair = traced(tmp_path, 3, loss=0.05)
    transfer(pair)
    finish(pair)
    client, _ = logs(tmp_path, pair)
    lost = packets(client, "recovery:packet_lost")
    assert lost
    assert lost <= packets(client, "transport:packet_sent")
    assert (
        sum(e["name"] == "recovery:packet_lost" for e in client)
        >= pair.client.conn.recovery.stats.packets_lost
    )
    states = [e["data"]["new"] for e in client if e["name"] == "recovery:congestion_state_updated"]
    assert "recovery" in states


def test_damaged_and_repeated_packets_are_told(tmp_path: Path) -> None:
    pair = traced(tmp_path, 5, duplicate=0.1, corrupt=0.1)
    transfer(pair)
    finish(pair)
    _, server = logs(tmp_path, pair)
    triggers = Counter(e["data"]["trigger"] for e in server if e["name"] == "transport:packet_dropped")
    assert triggers["duplicate"]
    assert triggers["decryption_failure"]


def test_hostile_text_is_escaped_and_cut(tmp_path: Path) -> None:
    """CVE-2026-40170: what a peer says must not break the format, nor fill the disk."""
    pair = traced(tmp_path)
    pair.establish()
    pair.client.close(1, '\x1e\n"},\u2028\x00' + "x" * 500)
    pair.run(lambda: pair.client.closed and pair.server.closed)
    _, server = logs(tmp_path, pair)
    (closed,) = (e["data"] for e in server if e["name"] == "connectivity:connection_closed")
    assert closed["reason"].startswith('\x1e\n"},\u2028\x00xxx')
    assert len(closed["reason"]) <= limits.QLOG_TEXT + 1


def test_a_file_ends_at_its_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "QLOG_FILE", 20_000)
    pair = traced(tmp_path)
    transfer(pair)
    finish(pair)
    client, server = logs(tmp_path, pair)
    for path in tmp_path.iterdir():
        assert path.stat().st_size < 21_000
    assert client[-1]["name"] == server[-1]["name"] == "loglevel:warning"


@pytest.mark.parametrize("limit", ["QLOG_OPEN", "QLOG_FILES"])
def test_only_so_many_connections(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: str) -> None:
    monkeypatch.setattr(limits, limit, 1)
    directory = QlogDirectory(tmp_path)
    config = ConnectionConfig(trace=directory)
    pair = make_pair(client=config, server=config)
    transfer(pair)
    assert len(list(tmp_path.iterdir())) == directory.open == 1
    finish(pair)
    assert directory.open == 0


def test_a_directory_that_cannot_be_written_stops_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    place = tmp_path / "file"
    place.write_text("")
    config = ConnectionConfig(trace=QlogDirectory(place / "qlog"))
    pair = make_pair(client=config, server=config)
    transfer(pair)
    finish(pair)
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "Not a directory" in caplog.text


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
def test_a_full_disk_stops_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    class Full(type(tmp_path)):  # type: ignore[misc]
        def open(self, mode: str = "r", buffering: int = -1, **rest: Any) -> Any:
            return open("/dev/full", "wb", buffering=buffering)

        def __truediv__(self, name: str) -> Full:
            return Full(str(self), name)

    directory = QlogDirectory(tmp_path)
    directory.path = Full(tmp_path)
    pair = make_pair(client=ConnectionConfig(trace=directory))
    transfer(pair)
    finish(pair)
    assert "No space left on device" in caplog.text
    assert directory.open == 0


def test_a_new_path_and_new_keys_are_told(tmp_path: Path) -> None:
    pair = traced(tmp_path)
    transfer(pair)
    pair.network.run_for(1.0)
    pair.client.conn.update_keys(pair.network.now)
    pair.network.rebind(CLIENT, ("203.0.113.9", 61_000))
    transfer(pair)
    pair.network.run_for(1.0)
    finish(pair)
    _, server = logs(tmp_path, pair)
    moved = [e["data"]["new"]["remote"] for e in server if e["name"] == "connectivity:path_updated"]
    assert moved == [{"ip": "203.0.113.9", "port": 61_000}]
    validated = [e["data"]["remote"]["ip"] for e in server if e["name"] == "connectivity:path_validated"]
    assert validated[-1] == "203.0.113.9"
    updated = [e["data"] for e in server if e["name"] == "security:key_updated"]
    triggers = {data["key_type"] for data in updated if data["trigger"] == "key_update"}
    assert triggers == {"client_1rtt_secret", "server_1rtt_secret"}


def test_datagrams_show_their_length_and_not_what_they_say(tmp_path: Path) -> None:
    parameters = default_parameters()
    parameters.max_datagram_frame_size = 1000
    config = ConnectionConfig(parameters=parameters, trace=QlogDirectory(tmp_path))
    pair = make_pair(client=config, server=config).establish()
    pair.client.conn.datagrams.send(b"a secret", pair.network.now)
    pair.client_host.flush()
    pair.run(lambda: bool(pair.server.conn.datagrams.received))
    finish(pair)
    client, server = logs(tmp_path, pair)
    for events, name in ((client, "packet_sent"), (server, "packet_received")):
        packets = [event["data"] for event in events if event["name"] == f"transport:{name}"]
        frames = [frame for data in packets for frame in data["frames"]]
        assert [frame["length"] for frame in frames if frame["frame_type"] == "datagram"] == [8]
    assert not any(b"secret".hex() in path.read_text() for path in tmp_path.iterdir())


def test_packets_of_0rtt_and_a_retry_are_told(tmp_path: Path) -> None:
    config = ConnectionConfig(trace=QlogDirectory(tmp_path))
    network = Network(1)
    server_host = Host(network, SERVER, 3)
    server_host.listen(config, early_data=True, validate_address=True)

    def ask(app: App) -> None:
        app.send(b"early")

    client = Host(network, CLIENT, 4).connect(SERVER, config, remembered=default_parameters(), early=ask)
    pair = Pair(network, client.host, server_host, client)
    pair.establish()
    pair.run(lambda: bool(pair.server.received))
    finish(pair)
    of_client, of_server = logs(tmp_path, pair)
    assert "0RTT" in {kind for kind, _ in packets(of_client, "transport:packet_sent")}
    assert "0RTT" in {kind for kind, _ in packets(of_server, "transport:packet_received")}
    retries = [e["data"] for e in of_client if e["data"].get("header") and "token_length" in e["data"]]
    assert [data["header"]["packet_type"] for data in retries] == ["retry"]
