"""What nfs-rs does with a server: python -m tests.interop.nfs.nfs_rs_work PORT VERSION

It has a process of its own: its threads can crash the interpreter while that ends. Exits with 0 when all went well.
"""

from __future__ import annotations

import os
import sys
import traceback

import nfs_rs

SIZE = 3_000_000
MANY = 300


def work(port: int, version: str) -> None:
    client = nfs_rs.Client.connect(
        "nfs://127.0.0.1/data",
        versions=[version],
        nfs_port=port,
        mount_port=port,
        noresvport=True,
        uid=0,
        gid=0,
        connect_timeout=10.0,
        operation_timeout=30.0,
    )
    assert client.version.value == version
    client.mkdir("d")
    files(client)
    names(client)
    listings(client)
    client.rmdir("d")
    assert not client.exists("d")
    client.close()


def files(client: nfs_rs.Client) -> None:
    content = os.urandom(SIZE)
    with client.open("d/f", "wb") as file:
        file.write(content)
    with client.open("d/f", "rb") as file:
        assert file.read() == content
    with client.open("d/f", "rb") as file:
        assert file.read_at(SIZE - 10, 100) == content[-10:]
    with client.open("d/f", "r+b") as file:
        file.write_at(b"patched", 5)
    client.truncate("d/f", 20)
    with client.open("d/f", "rb") as file:
        assert file.read() == content[:5] + b"patched" + content[12:20]
    client.chmod("d/f", 0o640)
    client.chown("d/f", 12, 34)
    client.utime("d/f", ns=(1_000_000_007, 2_000_000_000_000_000_001))
    found = client.stat("d/f")
    assert (found.mode & 0o7777, found.uid, found.gid, found.size) == (0o640, 12, 34, 20)
    assert (found.atime, found.mtime) == (1_000_000_007, 2_000_000_000_000_000_001)
    assert client.access("d/f", os.R_OK)
    stat = client.fs_stat()
    assert stat.total_bytes >= stat.free_bytes > 0


def names(client: nfs_rs.Client) -> None:
    client.rename("d/f", "d/g")
    client.link("d/g", "d/h")
    assert client.stat("d/h").nlink == 2 and not client.exists("d/f")
    client.symlink("to/where", "d/s")
    assert client.readlink("d/s") == "to/where"
    try:
        client.mkdir("d/g")
    except nfs_rs.NfsAlreadyExistsError:
        pass
    else:
        raise AssertionError("a name was taken twice")
    try:
        client.rmdir("d")
    except nfs_rs.NfsError:
        pass
    else:
        raise AssertionError("a directory that is not empty was removed")
    for name in ("g", "h", "s"):
        client.remove(f"d/{name}")


def listings(client: nfs_rs.Client) -> None:
    wanted = {f"file-{number:04}" for number in range(MANY)}
    for name in wanted:
        client.touch(f"d/{name}")
    assert set(client.listdir("d")) == wanted
    assert all(entry.info.size == 0 for entry in client.scandir("d"))
    for name in wanted:
        client.remove(f"d/{name}")
    assert client.listdir("d") == []


if __name__ == "__main__":
    failed = 0
    try:
        work(int(sys.argv[1]), sys.argv[2])
    except BaseException:
        traceback.print_exc()
        failed = 1
    sys.stderr.flush()
    os._exit(failed)
