"""The interop endpoint: its answers to the runner, and a few cases on loopback. `matrix.py` runs all of them."""

import importlib.util
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.interop.chain import write_chain
from tests.interop.contract import EXIT_FAILED, EXIT_OK, EXIT_UNSUPPORTED
from tests.interop.peers.processes import free_port, server

ENDPOINTS = {
    "quicfs": ["-m", "tests.interop.endpoint"],
    "aioquic": ["-m", "tests.interop.peers.hq_peer", "aioquic"],
}
TIMEOUT_S = 60
FILES = {"small": 1_000, "large": 1_500_000, **{f"tiny{number}": 32 for number in range(300)}}

pytestmark = pytest.mark.interop


@pytest.fixture(scope="module")
def certs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("certs")
    write_chain(folder, 1, ["127.0.0.1"])
    return folder


@pytest.fixture
def www(tmp_path: Path) -> Path:
    folder = tmp_path / "www"
    folder.mkdir()
    for name, size in FILES.items():
        (folder / name).write_bytes(os.urandom(size))
    return folder


@pytest.fixture
def downloads(tmp_path: Path) -> Path:
    folder = tmp_path / "downloads"
    folder.mkdir()
    return folder


def run(endpoint: str, environment: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *ENDPOINTS[endpoint]],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )


class Rig:
    """A server of one case, and clients for it."""

    def __init__(self, case: str, port: int, certs: Path, downloads: Path) -> None:
        self._environment = {
            "ROLE": "client",
            "TESTCASE": case,
            "CERTS": str(certs),
            "DOWNLOADS": str(downloads),
        }
        self._port = port

    def fetch(self, endpoint: str, *names: str) -> subprocess.CompletedProcess[str]:
        requests = " ".join(f"https://127.0.0.1:{self._port}/{name}" for name in names)
        return run(endpoint, {**self._environment, "REQUESTS": requests})


Serve = Callable[..., object]


@pytest.fixture
def serving(certs: Path, www: Path, downloads: Path, tmp_path: Path) -> Serve:
    @contextmanager
    def serve(endpoint: str, case: str) -> Iterator[Rig]:
        port = free_port()
        environment = {"ROLE": "server", "TESTCASE": case, "WWW": www, "CERTS": certs}
        environment |= {"IP": "127.0.0.1", "PORT": str(port)}
        command = ["env", *(f"{name}={value}" for name, value in environment.items())]
        with server(
            [*command, sys.executable, *ENDPOINTS[endpoint]], "udp", port, tmp_path / "server.log"
        ) as process:
            yield Rig(case, port, certs, downloads)
            process.send_signal(signal.SIGTERM)
            assert process.wait(TIMEOUT_S) == EXIT_OK, (tmp_path / "server.log").read_text()

    return serve


# --- exit statuses


@pytest.mark.parametrize("role", ["client", "server"])
def test_unknown_cases_are_unsupported(role: str) -> None:
    done = run("quicfs", {"ROLE": role, "TESTCASE": "nobody-knows-it", "REQUESTS": "https://server4/a"})
    assert done.returncode == EXIT_UNSUPPORTED
    assert "nobody-knows-it" in done.stderr


@pytest.mark.parametrize(
    ("environment", "words"),
    [
        pytest.param({"ROLE": ""}, "ROLE must be", id="no-role"),
        pytest.param({"REQUESTS": ""}, "REQUESTS must name", id="no-requests"),
        pytest.param({"REQUESTS": "http://server4/a"}, "does not name a file", id="no-url"),
        pytest.param({"REQUESTS": "https://server4:443/"}, "does not name a file", id="no-file"),
        pytest.param({"REQUESTS": "https://127.0.0.1:9/a"}, "nothing answers", id="no-server"),
    ],
)
def test_failures_are_one_sentence(environment: Mapping[str, str], words: str, certs: Path) -> None:
    done = run("quicfs", {"ROLE": "client", "TESTCASE": "handshake", "CERTS": str(certs), **environment})
    assert done.returncode == EXIT_FAILED
    last = done.stderr.splitlines()[-1]
    assert last.startswith("failed: ")
    assert words in last
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("path", ["absent", "../certs/priv.key", "%2e%2e/certs/priv.key", "link", "folder"])
def test_what_is_no_file_below_www_is_refused(
    path: str, serving: Serve, www: Path, tmp_path: Path, downloads: Path
) -> None:
    (tmp_path / "certs").mkdir()
    (tmp_path / "certs" / "priv.key").write_text("secret")
    (www / "link").symlink_to(tmp_path / "certs" / "priv.key")
    (www / "folder").mkdir()
    with serving("quicfs", "handshake") as rig:
        assert rig.fetch("quicfs", path).returncode == EXIT_FAILED
        assert rig.fetch("quicfs", "small").returncode == EXIT_OK
    assert (downloads / "small").read_bytes() == (www / "small").read_bytes()
    assert not any(file.read_bytes() == b"secret" for file in downloads.iterdir())


# --- cases

NAMES = {
    "transfer": ("small", "large"),
    "keyupdate": ("large",),
    "zerortt": ("small", "tiny1", "tiny2"),
    "multiplexing": tuple(name for name in FILES if name.startswith("tiny")),
    "handshakeloss": ("small", "tiny1", "tiny2"),
}
"""The files to fetch; the small one where a case is not named."""

OURS = (
    "handshake",
    "transfer",
    "multiplexing",
    "retry",
    "handshakeloss",
    "zerortt",
    "keyupdate",
    "v2",
    "http3",
)
THEIRS = ("transfer", "retry", "chacha20", "zerortt", "v2")
RUNS = [
    *(("quicfs", "quicfs", case) for case in OURS),
    *(("quicfs", "aioquic", case) for case in THEIRS),
    *(("aioquic", "quicfs", case) for case in THEIRS),
]


@pytest.mark.parametrize(("client", "peer", "case"), RUNS)
def test_cases(
    client: str,
    peer: str,
    case: str,
    serving: Serve,
    www: Path,
    downloads: Path,
    need: Callable[[bool, str], None],
) -> None:
    if "aioquic" in (client, peer) or case == "http3":
        need(importlib.util.find_spec("aioquic") is not None, "aioquic (pip install -e '.[peers]')")
    names = NAMES.get(case, ("small",))
    with serving(peer, case) as rig:
        done = rig.fetch(client, *names)
    assert done.returncode == EXIT_OK, done.stderr
    assert {file.name for file in downloads.iterdir()} == set(names)
    for name in names:
        assert (downloads / name).read_bytes() == (www / name).read_bytes()
