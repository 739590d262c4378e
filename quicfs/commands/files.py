"""`quicfs ls | cat | stat | rm | mkdir`: single files of a share, without mounting it."""

from __future__ import annotations

import datetime
import stat as stat_mode
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Final

import click

from quicfs.client import run_on_share, shares_of
from quicfs.errors import UserError
from quicfs.options import AgentOptions, UrlParameter, client_options, examples
from quicfs.url import SMB, Url
from quicfs.vfs import Attr, DirEntry, FileKind, FileSystem, FsError, Node, OpenFlags, Status

__all__ = ["cat", "ls", "mkdir", "rm", "stat"]

_CHUNK: Final = 1 << 20
_TYPE_BITS: Final = {
    FileKind.REGULAR: stat_mode.S_IFREG,
    FileKind.DIRECTORY: stat_mode.S_IFDIR,
    FileKind.SYMLINK: stat_mode.S_IFLNK,
    FileKind.FIFO: stat_mode.S_IFIFO,
    FileKind.SOCKET: stat_mode.S_IFSOCK,
    FileKind.CHARACTER: stat_mode.S_IFCHR,
    FileKind.BLOCK: stat_mode.S_IFBLK,
}


@click.command(
    epilog=examples(
        "quicfs ls smb://alice@files.example.org/projects",
        "quicfs ls -l smb://[::1]:8443/pub/music",
        "quicfs ls smb://alice@files.example.org           the shares that there are",
        "quicfs ls nfs+quic://files.example.org/projects",
    )
)
@click.option("-l", "--long", "long", is_flag=True, help="Mode, size and time of each as well.")
@click.argument("url", type=UrlParameter(share_needed=False))
@client_options
def ls(url: Url, long: bool, agent: AgentOptions, password_file: Path | None) -> None:
    """List a directory, or the shares of a server when the URL names none."""
    if not url.share and url.scheme == SMB:
        for share in shares_of(url, agent, password_file):
            click.echo(f"{share.name:<20} {share.remark}".rstrip() if long else share.name)
        return

    async def show(fs: FileSystem) -> None:
        node, attr = await fs.lookup(fs.root, url.path, follow=True)
        if attr.kind is not FileKind.DIRECTORY:
            click.echo(_line(url.name, attr) if long else url.name)
            return
        entries = [entry async for entry in _entries(fs, node)]
        for entry in sorted(entries, key=lambda entry: entry.name):
            click.echo(_line(entry.name, entry.attr) if long else entry.name)

    run_on_share(url, agent, password_file, show)


@click.command(
    epilog=examples(
        "quicfs cat smb://files.example.org/pub/README", "quicfs cat smb://alice@host/logs/today | grep error"
    )
)
@click.argument("url", type=UrlParameter())
@client_options
def cat(url: Url, agent: AgentOptions, password_file: Path | None) -> None:
    """Write a file's content to standard output."""

    async def show(fs: FileSystem) -> None:
        file, _, _ = await fs.open(fs.root, url.path, OpenFlags.READ)
        try:
            offset = 0
            while data := await file.read(offset, _CHUNK):
                sys.stdout.buffer.write(data)
                offset += len(data)
            sys.stdout.buffer.flush()
        finally:
            await file.close()

    run_on_share(url, agent, password_file, show)


@click.command(epilog=examples("quicfs stat smb://alice@files.example.org/projects/plan.odt"))
@click.argument("url", type=UrlParameter())
@client_options
def stat(url: Url, agent: AgentOptions, password_file: Path | None) -> None:
    """Show what is known of a file: kind, mode, size, times."""

    async def show(fs: FileSystem) -> None:
        node, attr = await fs.lookup(fs.root, url.path)
        target = f" -> {await fs.readlink(node)}" if attr.kind is FileKind.SYMLINK else ""
        click.echo(f"    name  {url.name}{target}")
        click.echo(f"    kind  {attr.kind.value}, {attr.nlink} link{'' if attr.nlink == 1 else 's'}")
        click.echo(f"    mode  {attr.mode:04o}  {_mode(attr)}")
        click.echo(f"    size  {attr.size} bytes, {attr.allocated} on disk")
        for label, time_ns in (
            ("modified", attr.mtime_ns),
            ("changed", attr.ctime_ns),
            ("accessed", attr.atime_ns),
            ("born", attr.btime_ns),
        ):
            click.echo(f"{label:>8}  {_time(time_ns, precise=True)}")

    run_on_share(url, agent, password_file, show)


@click.command(
    epilog=examples(
        "quicfs rm smb://alice@files.example.org/projects/old.odt",
        "quicfs rm -r smb://alice@files.example.org/projects/old",
    )
)
@click.option("-r", "--recursive", is_flag=True, help="A directory with all that it holds.")
@click.argument("url", type=UrlParameter())
@client_options
def rm(url: Url, recursive: bool, agent: AgentOptions, password_file: Path | None) -> None:
    """Remove a file, a link or, with -r, a directory."""
    if not url.path:
        raise UserError(f"{url} is the share itself, which cannot be removed from here")

    async def remove(fs: FileSystem) -> None:
        node, attr = await fs.lookup(fs.root, url.path)
        if attr.kind is not FileKind.DIRECTORY:
            await fs.unlink(fs.root, url.path)
        elif recursive:
            await _remove_tree(fs, node, url.path)
        else:
            raise FsError(Status.IS_DIR, url.path)

    run_on_share(url, agent, password_file, remove)


@click.command(
    epilog=examples(
        "quicfs mkdir smb://alice@files.example.org/projects/new",
        "quicfs mkdir -p smb://alice@host/projects/2027/january",
    )
)
@click.option(
    "-p", "--parents", is_flag=True, help="What is missing on the way as well; no error if it is there."
)
@click.argument("url", type=UrlParameter())
@client_options
def mkdir(url: Url, parents: bool, agent: AgentOptions, password_file: Path | None) -> None:
    """Make a directory."""
    if not url.path:
        raise UserError(f"{url} is the share itself: name a directory on it")

    async def make(fs: FileSystem) -> None:
        if not parents:
            await fs.mkdir(fs.root, url.path)
            return
        names = url.path.split("/")
        for count in range(1, len(names) + 1):
            path = "/".join(names[:count])
            try:
                await fs.mkdir(fs.root, path)
            except FsError as error:
                if error.status is not Status.EXISTS:
                    raise
                _, attr = await fs.lookup(fs.root, path, follow=True)
                if attr.kind is not FileKind.DIRECTORY:
                    raise

    run_on_share(url, agent, password_file, make)


async def _entries(fs: FileSystem, directory: Node) -> AsyncIterator[DirEntry]:
    cookie = 0
    while True:
        page = await fs.readdir(directory, cookie)
        for entry in page.entries:
            yield entry
        if page.eof or not page.entries:
            return
        cookie = page.entries[-1].cookie


async def _remove_tree(fs: FileSystem, node: Node, path: str) -> None:
    """Depth first; names are given relative to the root, as the directories go away on the way."""
    entries = [entry async for entry in _entries(fs, node)]
    for entry in entries:
        below = f"{path}/{entry.name}"
        if entry.attr.kind is FileKind.DIRECTORY:
            child, _ = await fs.lookup(node, entry.name)
            await _remove_tree(fs, child, below)
        else:
            await fs.unlink(fs.root, below)
    await fs.rmdir(fs.root, path)


def _mode(attr: Attr) -> str:
    return stat_mode.filemode(_TYPE_BITS[attr.kind] | attr.mode)


def _time(time_ns: int, *, precise: bool = False) -> str:
    moment = datetime.datetime.fromtimestamp(time_ns // 1_000_000_000).astimezone()
    if not precise:
        return moment.strftime("%Y-%m-%d %H:%M")
    return f"{moment:%Y-%m-%d %H:%M:%S}.{time_ns % 1_000_000_000:09d} {moment:%z}"


def _line(name: str, attr: Attr) -> str:
    return f"{_mode(attr)} {attr.size:>13} {_time(attr.mtime_ns)} {name}"
