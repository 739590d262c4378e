"""LocalTree.as_caller: the kernel decides as if the user's own program had called, and the identity never leaks."""

from __future__ import annotations

import asyncio
import os
import stat
import threading
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from quicfs.vfs import (
    Access,
    Caller,
    FileKind,
    FsError,
    LocalTree,
    OpenFlags,
    SetAttr,
    Status,
)

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="takes on the identity of others")

READ, WRITE, CREATE = OpenFlags.READ, OpenFlags.WRITE, OpenFlags.CREATE
NEW = READ | WRITE | CREATE

ANNE = Caller(4001, 4001, (4100,))
BERT = Caller(4002, 4002)
CLUB = 4100  # a group of Anne's


def threads_of_others() -> list[str]:
    """Threads of this process that are not wholly root, by their IDs and groups."""
    own = sorted(os.getgroups())
    found = []
    for task in os.listdir("/proc/self/task"):
        try:
            status = Path(f"/proc/self/task/{task}/status").read_text()
        except (FileNotFoundError, ProcessLookupError):
            continue  # a thread of the pool that has just ended
        fields = dict(line.split(":", 1) for line in status.splitlines())
        groups = sorted(int(number) for number in fields["Groups"].split())
        ids = {*fields["Uid"].split(), *fields["Gid"].split()}
        if ids != {"0"} or groups != own or int(fields["CapEff"], 16) != int(fields["CapPrm"], 16):
            found.append(str(fields))
    return found


@pytest.fixture(autouse=True)
def no_identity_leaks():
    yield
    assert not threads_of_others()


@pytest.fixture
def shared(share):
    """A folder where everybody may write, with files of Anne's, of Bert's and of root's."""
    os.chmod(share.path, 0o777)
    for name, owner, group, mode in (
        ("anne", 4001, 4001, 0o600),
        ("bert", 4002, 4002, 0o600),
        ("club", 4002, CLUB, 0o640),
        ("root", 0, 0, 0o600),
        ("all", 0, 0, 0o644),
    ):
        path = share.path / name
        path.write_text(name)
        os.chown(path, owner, group)
        os.chmod(path, mode)
    (share.path / "private").mkdir()
    (share.path / "private" / "inside").write_text("inside")
    os.chmod(share.path / "private" / "inside", 0o666)
    os.chown(share.path / "private", 4002, 4002)
    os.chmod(share.path / "private", 0o700)
    return share


async def may_read(tree, name: str) -> bool:
    try:
        file, _, _ = await tree.open(tree.root, name, READ)
    except FsError as error:
        assert error.status is Status.ACCESS
        return False
    await file.close()
    return True


def test_who_may_read_what(shared) -> None:
    async def scenario(tree: LocalTree) -> None:
        anne, bert = tree.as_caller(ANNE), tree.as_caller(BERT)
        for name, readers in (
            ("anne", {anne, tree}),
            ("bert", {bert, tree}),
            ("club", {anne, bert, tree}),
            ("root", {tree}),
            ("all", {anne, bert, tree}),
            ("private/inside", {bert, tree}),
        ):
            for who in (anne, bert, tree):
                assert await may_read(who, name) is (who in readers), name
        await shared.fails(Status.ACCESS, anne.readdir((await anne.lookup(anne.root, "private"))[0]))
        await shared.fails(Status.ACCESS, anne.lookup(anne.root, "private/inside"))
        private, _ = await bert.lookup(bert.root, "private")
        assert [entry.name for entry in (await bert.readdir(private)).entries] == ["inside"]
        await shared.fails(Status.ACCESS, anne.lookup(private, "inside"))
        # Who holds a node need not be able to walk there, and anybody may see its attributes.
        inside, _ = await bert.lookup(private, "inside")
        assert (await anne.getattr(inside)).size == 6
        assert (await anne.from_handle(await anne.handle(inside)))[0] is inside
        file, _, _ = await anne.open(inside, "", READ | WRITE)
        await file.close()

    shared.run(scenario)


def test_what_is_made_belongs_to_who_made_it(shared) -> None:
    async def scenario(tree: LocalTree) -> None:
        anne = tree.as_caller(ANNE)
        file, attr, _ = await anne.open(anne.root, "f", NEW, 0o444)
        assert (attr.uid, attr.gid, attr.mode) == (4001, 4001, 0o444)
        assert await file.write(0, b"x") == 1
        await file.close()
        for _, attr in (
            await anne.mkdir(anne.root, "d", 0o1750),
            await anne.symlink(anne.root, "s", "f"),
            await anne.mknod(anne.root, "p", FileKind.FIFO, 0o620),
            await anne.mknod(anne.root, "u", FileKind.SOCKET, 0o600),
        ):
            assert (attr.uid, attr.gid) == (4001, 4001)
        assert (await tree.lookup(tree.root, "d"))[1].mode == 0o1750
        assert (await tree.lookup(tree.root, "p"))[1].mode == 0o620
        await shared.fails(
            Status.NOT_PERMITTED, anne.mknod(anne.root, "null", FileKind.CHARACTER, 0o666, 0x103)
        )
        await shared.fails(Status.INVALID, tree.mknod(tree.root, "r", FileKind.REGULAR))
        _, attr = await tree.mknod(tree.root, "null", FileKind.CHARACTER, 0o666, os.makedev(1, 3))
        assert attr.kind is FileKind.CHARACTER and attr.rdev == os.makedev(1, 3)
        # Root with another group: what it makes is of that group.
        _, attr = await tree.as_caller(Caller(0, CLUB)).mkdir(tree.root, "g")
        assert (attr.uid, attr.gid) == (0, CLUB)
        # A directory with the set-group-ID bit passes on its group.
        os.chown(shared.path / "d", 4001, CLUB)
        os.chmod(shared.path / "d", 0o2777)
        _, attr = await tree.as_caller(BERT).mkdir((await tree.lookup(tree.root, "d"))[0], "e")
        assert (attr.uid, attr.gid, attr.mode) == (4002, CLUB, 0o2755)

    shared.run(scenario)


def test_changes_of_others_are_refused(shared) -> None:
    os.chmod(shared.path, 0o1777)  # sticky: only owners remove and rename

    async def scenario(tree: LocalTree) -> None:
        anne = tree.as_caller(ANNE)
        root = anne.root
        bert, _ = await anne.lookup(root, "bert")
        mine, _ = await anne.lookup(root, "anne")
        denied = Status.NOT_PERMITTED
        await shared.fails(denied, anne.unlink(root, "bert"))
        await shared.fails(denied, anne.rename(root, "bert", root, "x"))
        await shared.fails(denied, anne.rename(root, "anne", root, "bert"))
        await shared.fails(denied, anne.rmdir(root, "private"))
        await shared.fails(denied, anne.setattr(bert, SetAttr(mode=0o666)))
        await shared.fails(denied, anne.setattr(bert, SetAttr(mtime_ns=1)))
        await shared.fails(denied, anne.setattr(mine, SetAttr(uid=4002)))
        await shared.fails(denied, anne.setattr(mine, SetAttr(gid=4002)))
        await shared.fails(Status.ACCESS, anne.setattr(bert, SetAttr(size=0)))
        await shared.fails(Status.ACCESS, anne.open(root, "bert", WRITE | OpenFlags.TRUNCATE))
        await shared.fails(Status.ACCESS, anne.open(root, "private/new", NEW))
        await shared.fails(Status.ACCESS, anne.mkdir(root, "private/new"))
        await shared.fails(Status.ACCESS, anne.link(mine, (await anne.lookup(root, "private"))[0], "l"))
        await shared.fails(Status.ACCESS, anne.getxattr(bert, "user.x"))
        await shared.fails(Status.ACCESS, anne.setxattr(bert, "user.x", b"1"))
        await shared.fails(Status.NOT_SUPPORTED, _watch(anne))
        assert (await anne.setattr(mine, SetAttr(gid=CLUB, mode=0o640, size=1))).gid == CLUB
        await anne.rename(root, "anne", root, "anne2")
        await anne.unlink(root, "anne2")
        assert (shared.path / "bert").read_text() == "bert"

    shared.run(scenario)


async def _watch(tree: LocalTree) -> None:
    tree.watch(tree.root)


def test_access(shared) -> None:
    everything = Access.READ | Access.WRITE | Access.EXECUTE

    async def scenario(tree: LocalTree) -> None:
        anne = tree.as_caller(ANNE)
        for name, allowed in (
            ("anne", Access.READ | Access.WRITE),
            ("bert", Access.NONE),
            ("club", Access.READ),
            ("all", Access.READ),
            ("private", Access.NONE),
            ("", everything),
        ):
            node, _ = await tree.lookup(tree.root, name)
            assert await anne.access(node, everything) == allowed, name
            assert await anne.access(node, Access.READ) == allowed & Access.READ
            assert await anne.access(node, Access.NONE) is Access.NONE
        node, _ = await tree.lookup(tree.root, "bert")
        assert await tree.access(node, everything) == Access.READ | Access.WRITE  # no x bit at all

    shared.run(scenario)

    async def frozen(tree: LocalTree) -> None:
        assert await tree.as_caller(ANNE).access(tree.root, everything) == Access.READ | Access.EXECUTE

    shared.run(frozen, read_only=True)


def test_writing_takes_set_id_bits_away_unless_root_writes(shared) -> None:
    path = shared.path / "anne"
    for_all = shared.path / "all"

    async def scenario(tree: LocalTree) -> None:
        anne = tree.as_caller(ANNE)

        async def mode_after(who: LocalTree, change: Callable[..., Awaitable[object]]) -> int:
            os.chmod(path, 0o4755)
            file, _, _ = await who.open(who.root, "anne", READ | WRITE)
            await change(file)
            await file.close()
            return stat.S_IMODE(path.stat().st_mode)

        for change in (
            lambda file: file.write(0, b"x"),
            lambda file: file.write(0, b"x", stable=True),
            lambda file: file.setattr(SetAttr(size=1)),
            lambda file: file.allocate(0, 100),
        ):
            assert await mode_after(anne, change) == 0o755
        assert await mode_after(tree, lambda file: file.write(0, b"x")) == 0o4755
        source, _, _ = await anne.open(anne.root, "all", READ)
        assert await mode_after(anne, lambda file: anne.copy_range(source, 0, file, 0, 3)) == 0o755
        await source.close()
        assert for_all.read_text() == "all"

    shared.run(scenario)


def test_views_are_kept_and_cost_nothing_for_oneself(shared) -> None:
    async def scenario(tree: LocalTree) -> None:
        assert tree.as_caller(Caller(0, 0)) is tree
        assert tree.as_caller(Caller(0, 0, (5, 6))) is tree
        anne = tree.as_caller(ANNE)
        assert tree.as_caller(Caller(4001, 4001, (4100,))) is anne
        assert anne.as_caller(BERT) is tree.as_caller(BERT)
        assert anne.as_caller(Caller(0, 0)) is tree
        assert anne.root is tree.root and anne.read_only is tree.read_only
        for number in range(1000):
            tree.as_caller(Caller(5000 + number, 5000))
        assert await may_read(anne, "anne")
        await anne.close()
        assert await may_read(tree, "root")
        for bad in (Caller(-1, 0), Caller(0xFFFFFFFF, 1), Caller(1, 0xFFFFFFFF), Caller(1, 1, (1 << 32,))):
            with pytest.raises(FsError) as caught:
                tree.as_caller(bad)
            assert caught.value.status is Status.INVALID

    shared.run(scenario)


def test_tasks_and_threads_do_not_mix(shared) -> None:
    """Many users at once, with work in the pool, failures and cancellations; and a witness in every gap."""
    users = [Caller(6000 + number, 7000 + number) for number in range(8)]
    stop = threading.Event()
    seen: set[tuple[int, int]] = set()

    def witness() -> None:  # a thread of its own, with the IDs that it sees of itself
        while not stop.is_set():
            seen.add((os.geteuid(), os.getegid()))

    async def scenario(tree: LocalTree) -> None:
        async def loop_witness() -> None:
            while not stop.is_set():
                seen.add((os.geteuid(), os.getegid()))
                seen.add((await asyncio.get_running_loop().run_in_executor(None, os.geteuid), 0))
                await asyncio.sleep(0)

        async def work(caller: Caller) -> None:
            view = tree.as_caller(caller)
            for turn in range(15):
                name = f"{caller.uid}-{turn}"
                file, attr, _ = await view.open(view.root, name, NEW)
                assert (attr.uid, attr.gid) == (caller.uid, caller.gid)
                writing = asyncio.ensure_future(file.write(0, b"x" * 100_000, stable=True))
                if turn % 3:
                    await writing
                else:
                    await asyncio.sleep(0)
                    writing.cancel()
                with pytest.raises(FsError):
                    await view.open(view.root, "root", READ | WRITE)
                with pytest.raises(FsError):
                    await view.mkdir(view.root, name)
                await file.setattr(SetAttr(size=1000))
                await file.close()
                await view.readdir(view.root)

        watching = asyncio.ensure_future(loop_witness())
        await asyncio.gather(*map(work, users))
        stop.set()
        await watching

    thread = threading.Thread(target=witness)
    thread.start()
    try:
        shared.run(scenario)
    finally:
        stop.set()
        thread.join()
    assert seen == {(0, 0)}
    for caller in users:
        for turn in range(15):
            found = (shared.path / f"{caller.uid}-{turn}").stat()
            assert (found.st_uid, found.st_gid) == (caller.uid, caller.gid)


def test_a_link_that_is_swapped_in_time_opens_no_file_of_others(shared) -> None:
    """Anne swaps her file for a link to root's, as fast as she can."""
    mine, link, name = shared.path / "anne", shared.path / "link", shared.path / "x"
    os.symlink("root", link)
    os.link(mine, name)
    stop = threading.Event()

    def swap() -> None:
        while not stop.is_set():
            for source in (link, mine):
                spare = shared.path / "spare"
                os.link(source, spare, follow_symlinks=False)
                os.replace(spare, name)
                spare.unlink(missing_ok=True)

    async def scenario(tree: LocalTree) -> None:
        anne = tree.as_caller(ANNE)
        opened = refused = 0
        for turn in range(4000):
            flags = READ | WRITE if turn & 1 else READ | WRITE | CREATE
            try:
                file, attr, _ = await anne.open(anne.root, "x", flags)
            except FsError as error:
                assert error.status in (Status.ACCESS, Status.BUSY), error
                refused += 1
                continue
            assert attr.uid == 4001
            assert bytes(await file.read(0, 10)) == b"anne"
            await file.close()
            opened += 1
        assert opened and refused

    thread = threading.Thread(target=swap)
    thread.start()
    try:
        shared.run(scenario)
    finally:
        stop.set()
        thread.join()
    assert (shared.path / "root").read_text() == "root"


def test_an_interrupt_between_two_steps_gives_the_identity_back(shared, monkeypatch) -> None:
    from quicfs.vfs import local_rights

    system_call = local_rights._syscall
    left = 0

    def interrupted(*args: int) -> int:
        nonlocal left
        left -= 1
        if left == 0:
            system_call(*args)
            raise KeyboardInterrupt
        return system_call(*args)

    async def scenario(tree: LocalTree) -> None:
        nonlocal left
        anne = tree.as_caller(ANNE)
        monkeypatch.setattr(local_rights, "_syscall", interrupted)
        for step in range(1, 7):
            left = step
            with pytest.raises(KeyboardInterrupt):
                await anne.lookup(anne.root, "anne")
            assert not threads_of_others()
        monkeypatch.undo()
        assert await may_read(anne, "anne")

    shared.run(scenario)


def test_parents(shared) -> None:
    (shared.path / "a" / "b").mkdir(parents=True)

    async def scenario(tree: LocalTree) -> None:
        below, _ = await tree.lookup(tree.root, "a/b")
        above, attr = await tree.parent(below)
        assert above is (await tree.lookup(tree.root, "a"))[0] and attr.kind is FileKind.DIRECTORY
        assert (await tree.as_caller(ANNE).parent(above))[0] is tree.root
        await shared.fails(Status.NOT_FOUND, tree.parent(tree.root))
        await shared.fails(Status.NOT_DIR, tree.parent((await tree.lookup(tree.root, "all"))[0]))
        os.rename(shared.path / "a" / "b", shared.path / "b")
        assert (await tree.parent(below))[0] is tree.root
        os.rename(shared.path / "b", shared.outside / "b")
        await shared.fails(Status.STALE, tree.parent(below))

    shared.run(scenario)


def test_cloning_shares_blocks_or_says_that_it_cannot(shared) -> None:
    async def scenario(tree: LocalTree) -> None:
        source, _, _ = await tree.open(tree.root, "all", READ | WRITE)
        await source.write(0, b"y" * 8192)
        target, _, _ = await tree.open(tree.root, "copy", NEW)
        try:
            await tree.clone_range(source, 0, target, 0, 0)
        except FsError as error:
            assert error.status is Status.NOT_SUPPORTED
        else:
            assert bytes(await target.read(0, 9000)) == b"y" * 8192
        await shared.fails(Status.INVALID, tree.clone_range(source, -1, target, 0, 0))
        await shared.fails(Status.TOO_BIG, tree.clone_range(source, (1 << 63) - 1, target, 0, 4096))
        await source.close()
        reading, _, _ = await tree.open(tree.root, "copy", READ)
        await shared.fails(Status.BAD_FILE, tree.clone_range(target, 0, reading, 0, 0))
        await reading.close()
        await target.close()

    shared.run(scenario)
