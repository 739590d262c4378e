"""What somebody on the wire sees of a share: no file name, no file content, no share, no user, no password.

Server and client run in a network namespace of their own, and every packet of its only interface is kept.
"""

import json
import mmap
import os
import secrets
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from quicfs import certs
from quicfs.demo_tree import real_tree
from tests.interop.peers.processes import free_port, server

CAPTURE = Path(__file__).with_name("capture_lo.py")
SHARE, USER = "SecretProjects", "mallory-watches-alice"
FILE_NAMES = ["a-name-that-nobody-may-see.txt", "Ünsichtbare Datei.dat", "deep/er/than-the-top-level.bin"]
FILE_SIZE = 3_000_000
COMMAND_TIMEOUT_S = 120
CONTROL = b"this datagram is sent in the clear on purpose"

pytestmark = pytest.mark.netns


@pytest.fixture
def namespace() -> Iterator[list[str]]:
    """The prefix of a command that runs in a new network namespace with nothing but lo."""
    if os.geteuid() != 0:
        if os.environ.get("CI"):
            pytest.fail("a network namespace needs root")
        pytest.skip("a network namespace needs root")
    name = f"quicfs-capture-{os.getpid()}"
    subprocess.run(["ip", "netns", "add", name], check=True)
    try:
        subprocess.run(["ip", "-n", name, "link", "set", "lo", "up"], check=True)
        yield ["ip", "netns", "exec", name]
    finally:
        subprocess.run(["ip", "netns", "delete", name], check=True)


@contextmanager
def captured(namespace: Sequence[str], path: Path) -> Iterator[dict[str, int]]:
    """Captures into `path` during the block; the dictionary is filled when it ends."""
    statistics: dict[str, int] = {}
    process = subprocess.Popen([*namespace, sys.executable, CAPTURE, path], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        assert process.stdout.readline() == "ready\n"
        yield statistics
    finally:
        process.send_signal(signal.SIGTERM)
        output, _ = process.communicate(timeout=COMMAND_TIMEOUT_S)
    statistics.update(json.loads(output))


def found(path: Path, needles: Sequence[bytes]) -> list[bytes]:
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        return [needle for needle in needles if content.find(needle) >= 0]


def spellings(text: str) -> list[bytes]:
    """As file systems write it, and as SMB does ([MS-SMB2] §2.2: UTF-16LE)."""
    return [text.encode(), text.encode("utf-16-le")]


def make_tree(folder: Path) -> list[bytes]:
    """Files with random, hence unmistakable content; pieces of it to look for."""
    pieces = []
    for name in FILE_NAMES:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        content = secrets.token_bytes(FILE_SIZE)
        path.write_bytes(content)
        pieces += [content[offset : offset + 16] for offset in range(0, FILE_SIZE, FILE_SIZE // 50)]
    return pieces


def test_nothing_of_a_share_is_seen_on_the_wire(namespace: list[str], tmp_path: Path) -> None:
    source, served = tmp_path / "source", tmp_path / "served"
    served.mkdir()
    pieces = make_tree(source)
    files = certs.create(tmp_path / "certificates", ["localhost", "127.0.0.1"])
    password = secrets.token_urlsafe(18)
    environment = os.environ | {"QUICFS_PASSWORD": password}
    quicfs = [sys.executable, "-m", "quicfs"]

    def run(*arguments: str | Path) -> str:
        done = subprocess.run(
            [*namespace, *quicfs, *arguments],
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=COMMAND_TIMEOUT_S,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    port = free_port()
    users = tmp_path / "users"
    run("user", "add", USER, "--users", users)
    url = f"smb+quic://{USER}@127.0.0.1:{port}/{SHARE}"
    serve = [
        *(*namespace, *quicfs, "serve", str(served), "--share", SHARE, "--listen", f"127.0.0.1:{port}"),
        *("--users", str(users), "--cert", str(files.cert), "--key", str(files.key)),
    ]
    capture = tmp_path / "capture"
    with captured(namespace, capture) as statistics, server(serve, "udp", port, tmp_path / "server.log"):
        run("put", "-r", source, f"{url}/copy", "--ca", files.ca)
        listed = run("ls", f"{url}/copy", "--ca", files.ca)
        run("get", "-r", f"{url}/copy", tmp_path / "back", "--ca", files.ca)
        script = "import socket, sys; socket.socket(type=2).sendto(sys.argv[1].encode(), ('127.0.0.1', 9))"
        subprocess.run([*namespace, sys.executable, "-c", script, CONTROL.decode()], check=True)

    assert FILE_NAMES[0] in listed
    for name in FILE_NAMES:
        assert (tmp_path / "back" / name).read_bytes() == (source / name).read_bytes()
    assert statistics["dropped"] == 0
    assert statistics["bytes"] > 2 * len(FILE_NAMES) * FILE_SIZE  # all of it went by, there and back
    assert found(capture, [CONTROL]) == [CONTROL]  # what is in the clear would have been found

    secrets_of_the_share = [part for name in FILE_NAMES for part in name.split("/")]
    secrets_of_the_share += [SHARE, USER, password]
    assert (
        found(capture, [s for text in secrets_of_the_share if len(text) > 4 for s in spellings(text)]) == []
    )
    assert found(capture, pieces) == []


@pytest.mark.fuse
@pytest.mark.timeout(900)
def test_nothing_of_the_demo_is_seen_on_the_wire(namespace: list[str], tmp_path: Path) -> None:
    """The whole of `quicfs demo`: agent, server, mount, a tree in and out. A sample of its tree is looked for."""
    if not os.access("/dev/fuse", os.R_OK | os.W_OK):
        (pytest.fail if os.environ.get("CI") else pytest.skip)("the demo mounts: no /dev/fuse here")
    tree = real_tree()
    capture = tmp_path / "capture"
    with captured(namespace, capture) as statistics:
        demo = subprocess.run(
            [*namespace, sys.executable, "-m", "quicfs", "demo"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=800,
            check=False,
        )
    assert demo.returncode == 0, demo.stdout
    assert statistics["dropped"] == 0
    assert statistics["bytes"] > 2 * tree.bytes

    names = sorted({Path(path).name for path in tree.files}, key=lambda name: (-len(name), name))[:100]
    assert found(capture, [spelling for name in names for spelling in spellings(name)]) == []
    large = sorted(tree.files.values(), key=lambda original: (-original.size, original.path))[:100]
    pieces = []
    for original in large:
        content = original.path.read_bytes()
        middle = len(content) // 2
        pieces += [content[middle : middle + 32], content[-32:]]
    # Stretches of one repeated byte say nothing about a file, and may stand anywhere.
    assert found(capture, [piece for piece in pieces if len(set(piece)) > 8]) == []
