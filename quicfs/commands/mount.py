"""`quicfs mount` and `quicfs umount`."""

from __future__ import annotations

from pathlib import Path

import click

from quicfs import mount as mounting
from quicfs.fuse_mount.mounts import unmount_path
from quicfs.options import AgentOptions, UrlParameter, client_options, common_options, examples
from quicfs.url import Url

__all__ = ["mount", "umount"]


@click.command(
    epilog=examples(
        "quicfs mount smb+quic://alice@files.example.org/projects /mnt/projects",
        "quicfs mount smb://files.example.org:8443/pub ~/pub --ca ca.pem -o ro,attr_timeout=30",
        "quicfs mount smb://backup@host/backup /mnt --password-file /root/backup.password --foreground",
    )
)
@click.argument("url", type=UrlParameter())
@click.argument("mountpoint", type=click.Path(path_type=Path))
@click.option("-f", "--foreground", is_flag=True, help="Stay until unmounted or Ctrl-C, which unmounts.")
@click.option(
    "-o",
    "--options",
    "words",
    multiple=True,
    metavar="OPTIONS",
    help="As mount(8) takes them, with commas: ro, allow_other, uid=, gid=, attr_timeout=, entry_timeout=, "
    "deadline= (seconds that a call may take), readahead=, writeback= (bytes), ...",
)
@client_options
def mount(
    url: Url,
    mountpoint: Path,
    foreground: bool,
    words: tuple[str, ...],
    agent: AgentOptions,
    password_file: Path | None,
) -> None:
    """Mount the share that URL names, or a directory of it, on MOUNTPOINT.

    Returns when the mount is up; what happens later is said to syslog. A connection that breaks is made anew.
    """
    mounting.run(url, mountpoint, ",".join(words), agent, password_file, foreground=foreground)


@click.command(
    epilog=examples("quicfs umount /mnt/projects", "quicfs umount --lazy /mnt/projects    while it is in use")
)
@click.argument("mountpoint", type=click.Path(path_type=Path))
@click.option("-l", "--lazy", is_flag=True, help="Now, and give it back when the last one using it is done.")
@common_options
def umount(mountpoint: Path, lazy: bool) -> None:
    """Unmount MOUNTPOINT. What was written is at the server when this returns."""
    unmount_path(str(mountpoint), lazy=lazy)
