"""A client whose machine changes networks in the middle of a transfer, in a namespace of its own."""

from __future__ import annotations

import contextlib
import hashlib
import json
import random
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from quicfs import certs
from tests.netlab import LinkSettings, Netlab, NetlabError

LINK = LinkSettings(delay=0.01, rate=20e6, queue=50)
QUICFS = (sys.executable, "-m", "quicfs")


@pytest.fixture
def lab() -> Iterator[Netlab]:
    with contextlib.ExitStack() as cleanup:
        try:
            made = cleanup.enter_context(Netlab(LINK, LINK))
        except NetlabError as error:
            pytest.skip(str(error))
        yield made


@pytest.mark.parametrize(
    ("outage", "reverse"), [(0.0, False), (3.0, True)], ids=["sending", "receiving, after an outage"]
)
def test_the_address_goes_and_another_comes(
    lab: Netlab, tmp_path: Path, outage: float, reverse: bool
) -> None:
    subprocess.run(
        (*QUICFS, "cert", "init", "--dir", str(tmp_path), "--name", lab.server.address),
        check=True,
        stdout=subprocess.DEVNULL,
    )
    certificate = ("--cert", str(tmp_path / "server.pem"), "--key", str(tmp_path / "server.key"))
    lab.server.popen(
        (*QUICFS, "perf", "server", "--listen", f"{lab.server.address}:4433", *certificate),
        stdout=subprocess.DEVNULL,
    )
    assert lab.server.wait_listening(4433)
    arguments = (f"{lab.server.address}:4433", "--ca", str(tmp_path / "ca.pem"))
    direction = ("--reverse",) if reverse else ()
    client = lab.client.popen(
        (*QUICFS, "perf", "client", *arguments, "--bytes", "12000000", "--json", *direction),
        stdout=subprocess.PIPE,
        text=True,
    )
    while max(lab.stats().client.delivered_bytes, lab.stats().server.delivered_bytes) < 2_000_000:
        assert client.poll() is None
        time.sleep(0.05)
    lab.client.run(("ip", "-4", "addr", "flush", "dev", "netlab"), check=True)
    time.sleep(outage)
    lab.client.run(("ip", "addr", "add", f"{lab.client.other}/24", "dev", "netlab"), check=True)
    output, _ = client.communicate(timeout=60)
    assert client.returncode == 0
    assert json.loads(output)["bytes"] == 12_000_000


@pytest.mark.parametrize("outage", [0.0, 2.0], ids=["at once", "after an outage"])
def test_a_copy_goes_on_in_another_network(
    lab: Netlab, tmp_path: Path, outage: float, require: Callable[..., None]
) -> None:
    require("libgnutls")
    folder = tmp_path / "folder"
    folder.mkdir()
    files = certs.create(tmp_path / "certificates", [lab.server.address])
    source = tmp_path / "source"
    source.write_bytes(random.Random(2).randbytes(8 << 20))
    lab.server.popen(
        (
            *("env", f"STATE_DIRECTORY={tmp_path}", *QUICFS, "serve", str(folder), "--share", "share"),
            *("--nfs", "--no-smb", "--no-root-squash", "--listen", f"{lab.server.address}:4433"),
            *("--cert", str(files.cert), "--key", str(files.key)),
        ),
        stdout=subprocess.DEVNULL,
    )
    assert lab.server.wait_listening(4433)
    url = f"nfs+quic://{lab.server.address}:4433/share/copy"
    client = lab.client.popen((*QUICFS, "put", str(source), url, "--ca", str(files.ca)))
    while lab.stats().client.delivered_bytes < 2_000_000:
        assert client.poll() is None
        time.sleep(0.05)
    lab.client.run(("ip", "-4", "addr", "flush", "dev", "netlab"), check=True)
    time.sleep(outage)
    lab.client.run(("ip", "addr", "add", f"{lab.client.other}/24", "dev", "netlab"), check=True)
    assert client.wait(60) == 0
    copied = hashlib.sha256((folder / "copy").read_bytes()).digest()
    assert copied == hashlib.sha256(source.read_bytes()).digest()
