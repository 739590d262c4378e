"""GETATTR and READ a second of our NFS server and of nfs-ganesha's, both on TCP, both asked by nfs-rs."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import sys
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NamedTuple

from quicfs import certs
from tests.interop.peers.processes import ProcessFailed, free_port, run, server
from tests.perf.figures import OURS, Figure
from tests.perf.mounts import help_of_serve
from tests.perf.programs import nfs_rs_client

HOST = "127.0.0.1"
TIMEOUT_S = 60.0
VERSIONS = ("3", "4.1")
OPERATIONS = {
    "getattr": ("getattr",),
    "read-4k": ("read", "--size", str(4 << 10)),
    "read-1m": ("read", "--size", str(1 << 20)),
}
PARALLEL = (1, 8)  # nfs-rs has eight calls under way at most


class Served(NamedTuple):
    port: int
    mount_port: int
    export: str


class NfsPeer(ABC):
    """A server that exports one folder on a port of its own, without rpcbind."""

    name: str

    @property
    @abstractmethod
    def missing(self) -> str | None:
        """What to install, or None when everything is there."""

    @abstractmethod
    def serving(self, folder: Path, state: Path) -> Iterator[Served]: ...


class Quicfs(NfsPeer):
    name = OURS

    @property
    def missing(self) -> str | None:
        return None if "--nfs-tcp" in help_of_serve() else "quicfs serve has no --nfs-tcp"

    def serving(self, folder: Path, state: Path) -> Iterator[Served]:
        port = free_port()
        files = certs.create(state / "certificates", [HOST])
        command = [
            *(sys.executable, "-m", "quicfs", "serve", str(folder), "--share", "export", "--no-smb", "--nfs"),
            *("--nfs-tcp", f"{HOST}:{port}", "--listen", f"{HOST}:0", "--no-root-squash"),
            *("--cert", str(files.cert), "--key", str(files.key)),
        ]
        with server(command, "tcp", port, state / "log"):
            yield Served(port, port, "/export")


class Ganesha(NfsPeer):
    name = "nfs-ganesha"
    _PLUGINS = sorted(Path("/usr/lib").glob("*/ganesha/libfsalvfs.so"))

    @property
    def missing(self) -> str | None:
        if shutil.which("ganesha.nfsd") is None or not self._PLUGINS:
            return "apt-get install nfs-ganesha nfs-ganesha-vfs"
        return "needs root" if os.geteuid() else None

    def serving(self, folder: Path, state: Path) -> Iterator[Served]:
        port, mount_port = free_port(), free_port()
        (state / "recovery").mkdir()
        config = state / "ganesha.conf"
        config.write_text(f"""
            NFS_CORE_PARAM {{ NFS_Port = {port}; MNT_Port = {mount_port}; NFS_Protocols = 3, 4; Bind_addr = {HOST};
                Enable_UDP = false; Enable_NLM = false; Enable_RQUOTA = false; mount_path_pseudo = true;
                Plugins_Dir = {self._PLUGINS[0].parent}; }}
            NFSv4 {{ Graceless = true; Only_Numeric_Owners = true; Minor_Versions = 1, 2; Delegations = false;
                RecoveryBackend = fs; RecoveryRoot = {state / "recovery"}; }}
            EXPORT {{ Export_Id = 1; Path = {folder}; Pseudo = /export; Access_Type = RW; Squash = No_Root_Squash;
                SecType = sys; Protocols = 3, 4; Transports = TCP; FSAL {{ Name = VFS; }} }}
            LOG {{ Default_Log_Level = EVENT; }}
        """)
        log, pidfile = state / "ganesha.log", state / "ganesha.pid"
        command = [
            *(sys.executable, "-m", "tests.perf.programs.ganesha"),
            *(str(config), str(log), str(pidfile)),
        ]
        with server(command, "tcp", port, state / "log"):
            yield Served(port, mount_port, "/export")


PEERS: tuple[NfsPeer, ...] = (Quicfs(), Ganesha())


@contextmanager
def running(peers: Sequence[NfsPeer]) -> Iterator[dict[str, Served | ProcessFailed]]:
    """All of them on one folder with one file of 16 MiB; in place of one that does not start, the reason."""
    with ExitStack() as stack:
        place = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="quicfs-perf-")))
        folder = place / "export"
        folder.mkdir()
        (folder / nfs_rs_client.FILE).write_bytes(os.urandom(nfs_rs_client.FILE_SIZE))
        started: dict[str, Served | ProcessFailed] = {}
        for peer in peers:
            state = place / peer.name
            state.mkdir()
            try:
                started[peer.name] = stack.enter_context(contextmanager(peer.serving)(folder, state))
            except ProcessFailed as failure:
                started[peer.name] = failure
        yield started


def missing() -> str | None:
    return None if importlib.util.find_spec("nfs_rs") else "pip install nfs_rs"


def measure(
    peers: Sequence[NfsPeer], runs: int, seconds: float, tell: Callable[[str], None]
) -> Iterator[Figure]:
    with running(peers) as servers:
        for version in VERSIONS:
            for operation, arguments in OPERATIONS.items():
                for parallel in PARALLEL:
                    case = f"v{version}-{operation}" + (f"-{parallel}-at-a-time" if parallel > 1 else "")
                    figures = [Figure("nfs", case, peer.name, "per second") for peer in peers]
                    for number in range(1, runs + 1):
                        for figure in figures:
                            if figure.error is not None:
                                continue
                            try:
                                rate = _rate(servers[figure.contender], version, arguments, parallel, seconds)
                            except ProcessFailed as failure:
                                figure.error = str(failure)
                                continue
                            figure.values.append(rate)
                            tell(
                                f"nfs {case} {figure.contender}: run {number} of {runs}, {rate:,.0f} a second"
                            )
                    yield from figures


def _rate(
    served: Served | ProcessFailed, version: str, arguments: Sequence[str], parallel: int, seconds: float
) -> float:
    if isinstance(served, ProcessFailed):
        raise served
    output = run(
        [
            *(sys.executable, "-m", "tests.perf.programs.nfs_rs_client", *arguments),
            *("--port", str(served.port), "--mount-port", str(served.mount_port), "--export", served.export),
            *("--version", version, "--parallel", str(parallel), "--seconds", str(seconds)),
        ],
        TIMEOUT_S,
    )
    result = json.loads(output)
    return float(result["count"] / result["seconds"])
