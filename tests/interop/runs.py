"""One run of one case between two implementations, over tests.netlab, and its judgement."""

from __future__ import annotations

import enum
import os
import random
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from tests.interop.cases import Case
from tests.interop.chain import write_chain
from tests.interop.checks import CheckFailed, Evidence
from tests.interop.contract import EXIT_OK, EXIT_UNSUPPORTED, PORT
from tests.interop.implementations import LACKS, OURS, Implementation, alpn_of
from tests.interop.trace import Trace, TraceError
from tests.netlab import Captured, Namespace, Netlab

ROOT: Final = Path(__file__).resolve().parents[2]
_START_S: Final = 30.0
_STOP_S: Final = 10.0
_REASON: Final = 300
IPV4, IPV6 = "server4", "server6"
"""The server's names, as in the runner."""
_WITH_HOSTS: Final = ("unshare", "--mount", "sh", "-c", 'mount --bind "$0" /etc/hosts && exec "$@"')
"""Before a file and a command, which then finds the names of that file."""


class Verdict(enum.StrEnum):
    PASSED = "passed"
    FAILED = "failed"
    UNSUPPORTED = "unsupported"


@dataclass(frozen=True, slots=True)
class Result:
    """`reason`: what failed, or what is not supported and by whom. `seconds`: how long the client took."""

    client: str
    server: str
    case: str
    verdict: Verdict
    reason: str = ""
    seconds: float = 0.0
    when: str = ""

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Result:
        return cls(**{**values, "verdict": Verdict(values["verdict"])})


class _Over(Exception):
    """The run is over before its evidence is looked at."""

    def __init__(self, verdict: Verdict, reason: str) -> None:
        super().__init__(reason)
        self.verdict = verdict


class Bench:
    """Runs cases. Certificates are made once; with `keep`, what a run leaves behind stays in a folder of its own."""

    def __init__(self, keep: Path | None = None) -> None:
        self._keep = keep
        self._stack = ExitStack()
        self._scratch = Path()
        self._making = threading.Lock()

    def __enter__(self) -> Bench:
        self._scratch = Path(self._stack.enter_context(tempfile.TemporaryDirectory(prefix="interop-")))
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()

    def run(self, client: Implementation, server: Implementation, case: Case, seed: int = 0) -> Result:
        """Never raises for what the implementations do; NetlabError when there is no laboratory."""
        began = time.monotonic()
        verdict, reason = Verdict.PASSED, ""
        with self._folder(client, server, case) as folder:
            try:
                if lack := LACKS.get((client.name, server.name, case.name)):
                    raise _Over(Verdict.UNSUPPORTED, lack)
                self._run(client, server, case, folder, seed)
            except _Over as over:
                verdict, reason = over.verdict, str(over)
            except (CheckFailed, TraceError) as failure:
                verdict, reason = Verdict.FAILED, str(failure)
            (folder / "verdict").write_text(f"{verdict} {reason}\n")
        return Result(
            client.name,
            server.name,
            case.name,
            verdict,
            reason,
            round(time.monotonic() - began, 1),
            time.strftime("%Y-%m-%d"),
        )

    def _run(
        self, client: Implementation, server: Implementation, case: Case, folder: Path, seed: int
    ) -> None:
        content = case.files(random.Random(f"{case.name} {seed}"))
        for name in ("www", "downloads", "client", "server"):
            (folder / name).mkdir()
        for name, data in content.items():
            (folder / "www" / name).write_bytes(data)
        lab = Netlab(
            case.to_server, case.to_client, rebind=case.rebind, seed=seed, pcap=folder / "trace.pcapng"
        )
        with lab:
            ends = lab.server
            url = f"https://{IPV6 if case.ipv6 else IPV4}:{PORT}"
            (folder / "hosts").write_text(
                f"{ends.address} {IPV4}\n{ends.address6} {IPV6}\n127.0.0.1 localhost\n"
            )
            common = {
                **os.environ,
                "PYTHONPATH": str(ROOT),
                "CERTS": str(self._chain(case.chain)),
                "ALPN": alpn_of(client, server),
            }
            serving = self._start(
                lab.server,
                server,
                folder / "server",
                {
                    **common,
                    "ROLE": "server",
                    "TESTCASE": case.server,
                    "WWW": str(folder / "www"),
                    "PREFERRED": f"{ends.other}:{PORT}",
                    "IP": "",
                },
            )
            self._wait_listening(lab.server, serving, server, folder)
            asking = self._start(
                lab.client,
                client,
                folder / "client",
                {
                    **common,
                    "ROLE": "client",
                    "TESTCASE": case.client,
                    "DOWNLOADS": str(folder / "downloads"),
                    "REQUESTS": " ".join(f"{url}/{name}" for name in content),
                },
            )
            try:
                status = asking.wait(case.timeout_s)
                packets = (
                    lab.packets()
                )  # before the server is told to end: what it says then belongs to no handshake
            except subprocess.TimeoutExpired:
                raise _Over(Verdict.FAILED, f"not done after {case.timeout_s:.0f} s") from None
            finally:
                _stop(asking)
                _stop(serving)
            _judge_status(status, client, folder / "client")
            addresses = (ends.address, ends.address6, ends.other, ends.other6)
        evidence = evidence_of(folder, content, packets, addresses)
        for check in case.all_checks():
            check(evidence)
        for one, side in ((client, "client"), (server, "server")):
            if one.name == OURS and "Traceback" in (folder / side / "log").read_text(errors="replace"):
                raise CheckFailed(f"the {side} logged a traceback")

    def _start(
        self, where: Namespace, what: Implementation, folder: Path, environment: Mapping[str, str]
    ) -> subprocess.Popen[Any]:
        (folder / "qlog").mkdir()
        with (folder / "log").open("wb") as log:
            process: subprocess.Popen[Any] = where.popen(
                (*_WITH_HOSTS, str(folder.parent / "hosts"), *what.command),
                env={
                    **environment,
                    "SSLKEYLOGFILE": str(folder / "keys"),
                    "QLOGDIR": str(folder / "qlog"),
                },
                cwd=ROOT,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        return process

    def _wait_listening(
        self, where: Namespace, process: subprocess.Popen[Any], what: Implementation, folder: Path
    ) -> None:
        deadline = time.monotonic() + _START_S
        while not where.wait_listening(PORT, timeout=0.1):
            status = process.poll()
            if status is not None:
                _judge_status(status or 1, what, folder / "server")
            if time.monotonic() > deadline:
                raise _Over(Verdict.FAILED, f"the server of {what.name} does not listen")

    def _chain(self, length: int) -> Path:
        folder = self._scratch / f"certs{length}"
        with self._making:
            if not folder.exists():
                write_chain(folder, length, (IPV4, IPV6))
        return folder

    @contextmanager
    def _folder(self, client: Implementation, server: Implementation, case: Case) -> Iterator[Path]:
        if self._keep is None:
            with tempfile.TemporaryDirectory(dir=self._scratch) as name:
                yield Path(name)
            return
        base = self._keep / f"{client.name}-to-{server.name}"
        base.mkdir(parents=True, exist_ok=True)
        for number in range(1, 1000):
            folder = base / (case.name if number == 1 else f"{case.name}.{number}")
            if not folder.exists():
                folder.mkdir()
                yield folder
                return


def evidence_of(
    folder: Path, content: Mapping[str, bytes], packets: Sequence[Captured], server: Sequence[str]
) -> Evidence:
    """What a run left in its folder. `server`: the addresses of the server."""
    key_log = next((file for side in ("client", "server") if (file := _key_log(folder / side))), None)
    traces = {side: Trace(packets, side, server, folder, key_log) for side in ("client", "server")}
    return Evidence(content, folder / "downloads", traces["client"], traces["server"], key_log is not None)


def _stop(process: subprocess.Popen[Any]) -> None:
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _judge_status(status: int, what: Implementation, folder: Path) -> None:
    """Raises for anything but success."""
    if status == EXIT_OK:
        return
    lines = (folder / "log").read_text(errors="replace").strip().splitlines()
    words = lines[-1][-_REASON:] if lines else "without a word"
    if status == EXIT_UNSUPPORTED:
        raise _Over(Verdict.UNSUPPORTED, words.removeprefix("unsupported: "))
    raise _Over(Verdict.FAILED, f"the {folder.name} ({what.name}) ended with {status}: {words}")


def _key_log(folder: Path) -> Path | None:
    file = folder / "keys"
    if file.exists() and "SERVER_HANDSHAKE_TRAFFIC_SECRET" in file.read_text(errors="replace"):
        return file
    return None
