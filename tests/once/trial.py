"""One trial: a link, a server behind it, a client in front of it, and what both have to say."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from tests.netlab import LinkSettings, Netlab

PORT: Final = 20049
_START_S: Final = 30.0


@dataclass(frozen=True)
class Plan:
    operations: int = 10_000
    workers: int = 16
    loss: float = 0.02
    delay: float = 0.005
    cut_s: float = 1.0  # about that often at each end; 0: never
    tcp: bool = False
    seed: int = 1
    patience_s: float = 3600.0


@dataclass(frozen=True)
class Verdict:
    """`client` and `server` are what they said. `faults`: what should not be, in sentences."""

    client: dict[str, Any]
    server: dict[str, Any]
    lost: int  # packets
    faults: list[str]

    def __str__(self) -> str:
        told, cuts = self.client, self.client["cuts"]
        return (
            f"{told['operations']} operations in {told['seconds']:.0f} s: {sum(told['done'].values())} done,"
            f" {sum(told['refused'].values())} refused as they had to be; {cuts['connections']} connections and"
            f" {cuts['streams']} streams cut by the client, {self.server['cuts']} connections by the server,"
            f" {self.lost} packets lost; {len(self.faults)} faults"
        )


def run(plan: Plan, room: Path) -> Verdict:
    """Files and logs go to `room`. NetlabError where the machine does not allow it."""
    link = LinkSettings(delay=plan.delay, loss=plan.loss)
    with Netlab(link, link, seed=plan.seed) as lab:
        address = lab.server.address
        subprocess.run(
            (sys.executable, "-m", "quicfs", "cert", "init", "--dir", str(room), "--name", address),
            check=True,
            stdout=subprocess.DEVNULL,
        )
        (room / "tree").mkdir()
        common = {"address": address, "port": PORT, "seed": plan.seed, "cut_s": plan.cut_s}
        files = {name: str(room / name) for name in ("tree", "state")}
        keys = {"cert": str(room / "server.pem"), "key": str(room / "server.key")}
        with (room / "server.log").open("wb") as log:
            server = lab.popen_server(
                (sys.executable, "-m", "tests.once.server", json.dumps(common | files | keys)),
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )
        assert lab.server.wait_listening(PORT, timeout=_START_S), (room / "server.log").read_text()
        work = {
            "ca": str(room / "ca.pem"),
            "operations": plan.operations,
            "workers": plan.workers,
            "tcp": plan.tcp,
        }
        with (room / "client.log").open("wb") as log:
            client = lab.run_client(
                (sys.executable, "-m", "tests.once.client", json.dumps(common | work)),
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                timeout=plan.patience_s,
            )
        assert client.returncode == 0, (room / "client.log").read_text()[-4000:]
        server.terminate()
        counted, _ = server.communicate(timeout=_START_S)
        stats = lab.stats()
    told, said = json.loads(client.stdout), json.loads(counted)
    faults = list(told["faults"])
    for kind in sorted(told["done"] | said["done"]):
        ours, theirs = told["done"].get(kind, 0), said["done"].get(kind, 0)
        if ours != theirs:
            faults.append(f"{kind}: carried out {theirs} times, and {ours} times somebody was told so")
    lost = stats.client.dropped["loss"] + stats.server.dropped["loss"]
    return Verdict(told, said, lost, faults)
