"""Change notification."""

from __future__ import annotations

import asyncio
import os

from quicfs.vfs import Change, LocalTree, Status, Watch


async def take(watch: Watch, count: int) -> list[Change]:
    async def some() -> list[Change]:
        return [await anext(watch) for _ in range(count)]

    return await asyncio.wait_for(some(), 10)


def test_one_directory(share) -> None:
    (share.path / "sub").mkdir()

    async def scenario(tree: LocalTree) -> None:
        watch = tree.watch(tree.root)
        (share.path / "sub/unseen").touch()
        fd = os.open(share.path / "a", os.O_CREAT | os.O_WRONLY)
        os.write(fd, b"x")
        os.close(fd)
        os.rename(share.path / "a", share.path / "b")
        (share.path / "b").unlink()
        assert await take(watch, 4) == [
            Change("a", created=True),
            Change("a", modified=True),
            Change("b", renamed_from="a"),
            Change("b", removed=True),
        ]
        os.rename(share.path / "sub/unseen", share.path / "seen")
        os.rename(share.path / "seen", share.path / "sub/unseen")
        assert await take(watch, 2) == [Change("seen", created=True), Change("seen", removed=True)]
        os.chmod(share.path / "sub", 0o700)
        assert await take(watch, 1) == [Change("sub", modified=True)]
        await watch.aclose()
        await watch.aclose()
        assert [change async for change in watch] == []

    share.run(scenario)


def test_all_below(share) -> None:
    (share.path / "d/e").mkdir(parents=True)

    async def scenario(tree: LocalTree) -> None:
        watch = tree.watch(tree.root, recursive=True)
        (share.path / "d/e/f").write_text("x")
        seen = await take(watch, 2)
        assert seen == [Change("d/e/f", created=True), Change("d/e/f", modified=True)]
        os.rename(share.path / "d", share.path / "moved")
        assert await take(watch, 1) == [Change("moved", renamed_from="d")]
        (share.path / "moved/e/f").unlink()
        assert await take(watch, 1) == [Change("moved/e/f", removed=True)]
        # Directories that come in are watched too, with what they already hold.
        (share.path / "new/deep").mkdir(parents=True)
        (share.path / "new/deep/file").touch()
        names = set()
        while "new/deep/file" not in names:
            names |= {change.name for change in await take(watch, 1)}
        assert {"new", "new/deep"} <= names
        os.rename(share.path / "moved", share.outside / "gone")
        while (await take(watch, 1))[0] != Change("moved", removed=True):
            pass
        (share.outside / "gone/e/unseen").touch()
        (share.path / "last").touch()
        while (change := (await take(watch, 1))[0]) != Change("last", created=True):
            assert "unseen" not in change.name
        await watch.aclose()

    share.run(scenario)


def test_too_much_at_once_means_list_again(share) -> None:
    async def scenario(tree: LocalTree) -> None:
        watch = tree.watch(tree.root)
        for i in range(3000):
            os.mkdir(share.path / f"{i}")
            os.rmdir(share.path / f"{i}")
            if i % 500 == 0:
                await asyncio.sleep(0)
        while (await take(watch, 1))[0] != Change("", modified=True):
            pass
        await watch.aclose()

    share.run(scenario)


def test_the_end_of_a_watch(share) -> None:
    (share.path / "d").mkdir()

    async def scenario(tree: LocalTree) -> None:
        node = (await tree.lookup(tree.root, "d"))[0]
        watch = tree.watch(node)
        (share.path / "d").rmdir()
        assert await asyncio.wait_for(drain(watch), 10) == []
        moving, _ = await tree.mkdir(tree.root, "m")
        watch = tree.watch(moving)
        await tree.mkdir(tree.root, "to")
        os.rename(share.path / "m", share.path / "to/n")
        (share.path / "to/n/f").touch()
        assert await take(watch, 1) == [Change("f", created=True)]
        (share.path / "to/n/f").unlink()
        (share.path / "to/n").rmdir()
        assert await asyncio.wait_for(drain(watch), 10) == [Change("f", removed=True)]
        other = tree.watch(tree.root)
        reader = asyncio.ensure_future(drain(other))
        await asyncio.sleep(0)
        await other.aclose()
        assert await asyncio.wait_for(reader, 10) == []
        tree.watch(tree.root)  # closed with the tree

    share.run(scenario)


async def drain(watch: Watch) -> list[Change]:
    return [change async for change in watch]


def test_what_cannot_be_watched(share) -> None:
    (share.path / "f").touch()

    async def scenario(tree: LocalTree) -> None:
        node = (await tree.lookup(tree.root, "f"))[0]

        async def watch() -> None:
            tree.watch(node)

        await share.fails(Status.NOT_DIR, watch())

    share.run(scenario)
