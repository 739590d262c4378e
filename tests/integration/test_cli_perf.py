"""`quicfs perf`: server and client as processes."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import pytest

from tests.integration.cli import Site, quicfs, refused, running


def test_both_directions_with_a_certificate_made_for_it(tmp_path: Path) -> None:
    with running("perf", "server", "--listen", "localhost:0", log=tmp_path / "log") as (process, line):
        arguments = line.partition("quicfs perf client ")[2].split()
        for options in ([], ["--reverse"]):
            done = quicfs("perf", "client", *arguments, "--bytes", "5000000", "--json", *options)
            assert done.returncode == 0, done.stderr
            result = json.loads(done.stdout)
            assert result["bytes"] == 5_000_000
            assert result["connection"]["rtt_smoothed"] > 0
            assert result["connection"]["mtu"] > 1200
            sent = result["connection"]["bytes_sent"] > 5_000_000
            assert sent is not bool(options)
            assert result["gbit_per_s"] == pytest.approx(5e6 * 8 / result["seconds"] / 1e9, rel=0.01)
        table = quicfs("perf", "client", *arguments, "--bytes", "1", env={"COLUMNS": "100"})
        assert table.returncode == 0 and "to the server" in table.stdout
        assert "RTT ms" in table.stdout and "lost" in table.stdout
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 0
    ca = Path(arguments[-1])
    assert not ca.exists(), "the certificate made for it is removed"


def test_qlog_of_both_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QLOGDIR", str(tmp_path / "qlog"))
    with running("perf", "server", "--listen", "localhost:0", log=tmp_path / "log") as (_, line):
        arguments = line.partition("quicfs perf client ")[2].split()
        done = quicfs("perf", "client", *arguments, "--bytes", "100000")
        assert done.returncode == 0, done.stderr
    client, server = sorted(path.name for path in (tmp_path / "qlog").iterdir())
    assert client.partition("_")[2] == "client.sqlog"
    assert server == client.replace("client", "server")
    for name in (client, server):
        records = (tmp_path / "qlog" / name).read_text().split("\x1e")[1:]
        names = {json.loads(record).get("name") for record in records}
        assert {"transport:packet_sent", "connectivity:connection_closed"} <= names
        alpn = [json.loads(record)["data"] for record in records if "alpn_information" in record]
        assert [data["chosen_alpn"]["string_value"] for data in alpn] == ["perf"]


def test_a_certificate_is_checked(tmp_path: Path) -> None:
    site, other = Site.make(tmp_path / "site"), Site.make(tmp_path / "other")
    options = ["--cert", site.files.cert, "--key", site.files.key]
    with running("perf", "server", "--listen", "localhost:0", *options, log=tmp_path / "log") as (_, line):
        port = line.split("quicfs perf client ")[1].split()[0].rpartition(":")[2]
        refused(quicfs("perf", "client", f"localhost:{port}", "--ca", other.files.ca), "localhost", "--ca")
        refused(quicfs("perf", "client", f"localhost:{port}"), "localhost", "--ca")
        assert (
            quicfs("perf", "client", f"localhost:{port}", "--ca", site.files.ca, "--bytes", "1").returncode
            == 0
        )


def test_a_port_that_is_taken(tmp_path: Path) -> None:
    with running("perf", "server", "--listen", "127.0.0.1:0", log=tmp_path / "log") as (_, line):
        address = line.removeprefix("measuring on UDP ").partition(";")[0]
        refused(quicfs("perf", "server", "--listen", address), address, "--listen")
