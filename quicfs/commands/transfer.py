"""`quicfs get` and `quicfs put`: copies out of a share and into it, without mounting it."""

from __future__ import annotations

import os
from pathlib import Path

import click

from quicfs.client import run_on_share
from quicfs.errors import UserError
from quicfs.options import AgentOptions, UrlParameter, client_options, examples
from quicfs.progress import CopyProgress
from quicfs.transfer import Copier
from quicfs.url import Url
from quicfs.vfs import FileKind, FileSystem, FsError, Status
from quicfs.vfs.local import LocalTree

__all__ = ["get", "put"]


@click.command(
    epilog=examples(
        "quicfs get smb://alice@files.example.org/projects/plan.odt .",
        "quicfs get -r smb://alice@files.example.org/projects /var/backups/projects",
    )
)
@click.option("-r", "--recursive", is_flag=True, help="A directory with all that it holds.")
@click.argument("url", type=UrlParameter())
@click.argument("dest", type=click.Path(path_type=Path))
@client_options
def get(url: Url, dest: Path, recursive: bool, agent: AgentOptions, password_file: Path | None) -> None:
    """Copy a file or, with -r, a directory from a share to DEST.

    Into DEST when it is a directory, to that name otherwise. Modes and times are preserved.
    """
    target = dest / url.name if dest.is_dir() else dest
    if not target.parent.is_dir():
        raise UserError(f"{target.parent} is no directory: make it first")

    async def copy(fs: FileSystem) -> None:
        local = LocalTree(target.parent.absolute())
        try:
            with CopyProgress(f"get {url.name}") as progress:
                copier = Copier(fs, local, progress)
                await (copier.copy_tree if recursive else copier.copy_file)(url.path, target.name)
        finally:
            await local.close()
        click.echo(f"got {progress.summary()}", err=True)

    run_on_share(url, agent, password_file, copy)


@click.command(
    epilog=examples(
        "quicfs put plan.odt smb://alice@files.example.org/projects",
        "quicfs put -r ~/photos smb://alice@files.example.org/projects/photos",
    )
)
@click.option("-r", "--recursive", is_flag=True, help="A directory with all that it holds.")
@click.argument("src", type=click.Path(exists=True, path_type=Path))
@click.argument("url", type=UrlParameter())
@client_options
def put(src: Path, url: Url, recursive: bool, agent: AgentOptions, password_file: Path | None) -> None:
    """Copy a file or, with -r, a directory from SRC to a share.

    Into the URL when it is a directory, to that name otherwise. Modes and times are preserved.
    """
    source = Path(os.path.realpath(src))
    is_tree = source.is_dir()
    if is_tree and not recursive:
        raise UserError(f"{src} is a directory: use -r to copy it with all that it holds")

    async def copy(fs: FileSystem) -> None:
        name = source.name
        target = f"{url.path}/{name}".lstrip("/") if name and await _is_directory(fs, url.path) else url.path
        local = LocalTree(source if is_tree else source.parent)
        try:
            with CopyProgress(f"put {name}") as progress:
                copier = Copier(local, fs, progress)
                await (copier.copy_tree("", target) if is_tree else copier.copy_file(name, target))
        finally:
            await local.close()
        click.echo(f"put {progress.summary()}", err=True)

    run_on_share(url, agent, password_file, copy)


async def _is_directory(fs: FileSystem, path: str) -> bool:
    try:
        _, attr = await fs.lookup(fs.root, path, follow=True)
    except FsError as error:
        if error.status is Status.NOT_FOUND:
            return False
        raise
    return attr.kind is FileKind.DIRECTORY
