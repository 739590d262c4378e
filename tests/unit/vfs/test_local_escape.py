"""Nothing outside of the tree is reached, and nothing that blocks is opened."""

from __future__ import annotations

import asyncio
import os
import socket
import threading
import time

import pytest

from quicfs.vfs import FileKind, FsError, LocalTree, OpenFlags, SetAttr, Status

READ = OpenFlags.READ
NEW = OpenFlags.READ | OpenFlags.WRITE | OpenFlags.CREATE


def test_symbolic_links_out_of_the_tree(share) -> None:
    secret = share.outside / "secret"
    secret.write_text("secret")
    (share.outside / "dir").mkdir()
    links = {
        "absolute": "/etc/passwd",
        "up": "../secret",
        "updir": "../dir",
        "absdir": str(share.outside / "dir"),
        "dangling": "../made",
        "self": str(share.path / "inside"),  # absolute, though it leads inside
    }
    for name, target in links.items():
        (share.path / name).symlink_to(target)
    (share.path / "inside").touch()

    async def scenario(tree: LocalTree) -> None:
        root = tree.root
        for name, where in links.items():
            await share.fails(Status.ACCESS, tree.open(root, name, READ))
            await share.fails(Status.ACCESS, tree.open(root, name, NEW))
            await share.fails(Status.ACCESS, tree.lookup(root, name, follow=True))
            node, attr = await tree.lookup(root, name)
            assert attr.kind is FileKind.SYMLINK and await tree.readlink(node) == where
            await share.fails(Status.INVALID, tree.setattr(node, SetAttr(size=0)))
            await share.fails(Status.NOT_SUPPORTED, tree.setattr(node, SetAttr(mode=0o777)))
            await tree.setattr(node, SetAttr(mtime_ns=1, uid=12345 if os.geteuid() == 0 else None))
            await share.fails(Status.NOT_DIR, tree.readdir(node))
            await share.fails(Status.NOT_PERMITTED, tree.setxattr(node, "user.x", b""))
        for name in ("updir", "absdir"):
            for call in (
                tree.open(root, f"{name}/f", NEW), tree.mkdir(root, f"{name}/d"),
                tree.lookup(root, f"{name}/f"),
                tree.symlink(root, f"{name}/s", "x"), tree.unlink(root, f"{name}/f"),
                tree.rename(root, "inside", root, f"{name}/f"), tree.rename(root, f"{name}/f", root, "x"),
                tree.link((await tree.lookup(root, "inside"))[0], root, f"{name}/f"),
            ):  # fmt: skip
                await share.fails(Status.ACCESS, call)

    share.run(scenario)
    assert secret.read_text() == "secret" and secret.stat().st_uid != 12345
    assert not (share.outside / "made").exists() and not list((share.outside / "dir").iterdir())


def test_dotdot_and_absolute_paths(share) -> None:
    (share.path / "d").mkdir()

    async def scenario(tree: LocalTree) -> None:
        directory = (await tree.lookup(tree.root, "d"))[0]
        for path in ("..", "../share", "d/../..", "/etc/passwd", "/", ".", "d/.", "d//x", "a\0"):
            for call in (
                tree.lookup(directory, path), tree.open(directory, path, NEW), tree.mkdir(directory, path),
                tree.unlink(directory, path), tree.rmdir(directory, path), tree.symlink(directory, path, "x"),
                tree.rename(directory, path, tree.root, "x"), tree.rename(tree.root, "d", directory, path),
            ):  # fmt: skip
                await share.fails(Status.INVALID, call)
        await share.fails(Status.INVALID, tree.symlink(tree.root, "s", ""))
        await share.fails(Status.INVALID, tree.symlink(tree.root, "s", "a\0b"))
        await share.fails(Status.NAME_TOO_LONG, tree.symlink(tree.root, "s", "x" * 5000))
        await share.fails(Status.INVALID, tree.rename(tree.root, "d", directory, "below-itself"))

    share.run(scenario)


def test_magic_links(share) -> None:
    """/proc's links leave a tree without any "..": served is a process's own folder of /proc."""

    async def main() -> None:
        tree = LocalTree("/proc/self")
        for path in ("cwd", "root", "exe", "fd/0", "cwd/x", "root/etc/passwd"):
            with pytest.raises(FsError) as caught:
                await tree.open(tree.root, path, READ)
            assert caught.value.status in (Status.LOOP, Status.ACCESS, Status.NOT_FOUND), path
        await tree.close()

    asyncio.run(main())


def test_special_files_are_seen_but_never_opened(share) -> None:
    os.mkfifo(share.path / "fifo")
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(share.path / "socket"))
    kinds = {"fifo": FileKind.FIFO, "socket": FileKind.SOCKET}
    if os.geteuid() == 0:
        os.mknod(share.path / "tty", 0o20666, os.makedev(5, 0))
        kinds["tty"] = FileKind.CHARACTER

    async def scenario(tree: LocalTree) -> None:
        for name, kind in kinds.items():
            node, attr = await tree.lookup(tree.root, name)
            assert attr.kind is kind
            for flags in (READ, OpenFlags.WRITE, NEW):
                call = tree.open(tree.root, name, flags)
                await share.fails(Status.NOT_SUPPORTED, asyncio.wait_for(call, 5))
            await share.fails(Status.NOT_SUPPORTED, tree.open(node, "", READ))
            await share.fails(Status.EXISTS, tree.open(tree.root, name, NEW | OpenFlags.EXCLUSIVE))
            await share.fails(Status.INVALID, tree.setattr(node, SetAttr(size=0)))
            assert (await tree.setattr(node, SetAttr(mode=0o640, mtime_ns=5))).mtime_ns == 5
            await tree.fsync(node)
            await tree.unlink(tree.root, name)

    try:
        share.run(scenario)
    finally:
        listener.close()


def test_directory_swapped_for_a_link_in_a_loop(share) -> None:
    """CVE-2017-2619, CVE-2021-20316: somebody swaps a directory and a symbolic link all the time."""
    outside = share.outside / "outside"
    outside.mkdir()
    (outside / "f").write_text("outside")
    inside = share.path / "d"
    inside.mkdir()
    (inside / "f").write_text("inside")
    (share.path / "link").symlink_to("../outside")
    stop = threading.Event()
    swaps = 0

    def swap() -> None:
        nonlocal swaps
        parked = share.path / "parked"
        while not stop.is_set():
            os.rename(inside, parked)
            os.rename(share.path / "link", inside)
            os.rename(inside, share.path / "link")
            os.rename(parked, inside)
            swaps += 1

    async def scenario(tree: LocalTree) -> None:
        deadline = time.monotonic() + 2
        reads = 0
        while time.monotonic() < deadline:
            try:
                file, _, _ = await tree.open(tree.root, "d/f", READ)
            except FsError as error:
                assert error.status in (Status.ACCESS, Status.NOT_FOUND, Status.BUSY), error
            else:
                assert bytes(await file.read(0, 100)) == b"inside"
                reads += 1
                await file.close()
            for call in (
                tree.open(tree.root, "d/new", NEW), tree.mkdir(tree.root, "d/newdir"),
                tree.symlink(tree.root, "d/news", "x"), tree.rename(tree.root, "d/new", tree.root, "d/new2"),
            ):  # fmt: skip
                try:
                    made = await call
                except FsError:
                    continue
                if isinstance(made, tuple) and len(made) == 3:
                    await made[0].close()
        assert reads

    thread = threading.Thread(target=swap)
    thread.start()
    try:
        share.run(scenario)
    finally:
        stop.set()
        thread.join()
    assert swaps > 10
    assert [entry.name for entry in outside.iterdir()] == ["f"]


def test_a_node_whose_name_now_means_another_object_is_stale(share) -> None:
    victim = share.outside / "victim"
    victim.write_text("x" * 10)
    (share.path / "f").write_text("mine")
    (share.path / "d").mkdir()

    async def scenario(tree: LocalTree) -> None:
        file, _ = await tree.lookup(tree.root, "f")
        (share.path / "f").unlink()
        (share.path / "f").symlink_to(victim)
        await share.fails(Status.STALE, tree.setattr(file, SetAttr(size=0, mode=0)))
        await share.fails(Status.STALE, tree.open(file, "", READ))
        (share.path / "f").unlink()
        (share.path / "f").write_text("another")
        await share.fails(Status.STALE, tree.getattr(file))
        (share.path / "f").unlink()
        await share.fails(Status.STALE, tree.getattr(file))

    share.run(scenario)
    assert victim.read_text() == "x" * 10


def test_nodes_of_another_tree_are_stale(share) -> None:
    async def scenario(tree: LocalTree) -> None:
        other = LocalTree(share.outside)
        await share.fails(Status.STALE, tree.getattr(other.root))
        await share.fails(Status.STALE, tree.lookup(other.root, "x"))
        await share.fails(Status.STALE, tree.rename(tree.root, "x", other.root, "x"))
        await other.close()

    share.run(scenario)


def test_more_directories_than_the_cache_holds(share) -> None:
    import resource

    async def scenario(tree: LocalTree) -> None:
        nodes = [(await tree.mkdir(tree.root, f"d{i}"))[0] for i in range(400)]
        for node in nodes:
            await (await tree.open(node, "f", NEW))[0].close()
        await tree.rename(tree.root, "d0", tree.root, "first")
        os.rename(share.path / "d399", share.path / "last")  # by somebody else, while it is cached
        for node in nodes:
            assert (await tree.lookup(node, "f"))[1].size == 0
            assert (await tree.getattr(node)).kind is FileKind.DIRECTORY

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, hard))
    try:
        share.run(scenario)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
