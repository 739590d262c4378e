"""A server: folders as SMB shares, as NFS exports or both, on QUIC and, when asked, on TCP.

A protocol that is not served is not imported.
"""

from __future__ import annotations

import logging
import socket
from collections.abc import Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Final

from quicfs.agents import server_net
from quicfs.errors import UserError
from quicfs.listen import Protocol, listen_quic
from quicfs.places import state_directory
from quicfs.reset_key import kept_reset_key
from quicfs.serve_options import Folder, ServeOptions
from quicfs.service import allow_many_files, announce, reachable, tell_service_manager, told_to_stop
from quicfs.url import NFS, SMB, Address, Url
from quicfs.vfs.local import LocalTree

__all__ = ["serve_until_told"]

_log = logging.getLogger("quicfs.serve")

MAX_NAME: Final = 80  # characters of a share's name


async def serve_until_told(options: ServeOptions) -> None:
    """Until SIGINT or SIGTERM. Prints one line when it serves. Raises UserError when it cannot."""
    async with AsyncExitStack() as cleanup:
        told = told_to_stop()
        allow_many_files()
        trees: dict[str, LocalTree] = {}
        folders = _folders(options.folders)
        for name, directory in folders.items():
            trees[name] = LocalTree(directory, read_only=options.read_only)
            cleanup.push_async_callback(trees[name].close)
        host = socket.gethostname().partition(".")[0]
        protocols: list[Protocol] = []
        schemes: list[str] = []
        tcp: list[str] = []
        if options.smb is not None:
            from quicfs.serve_smb import start_smb

            protocol, addresses = await start_smb(
                options.smb, trees, host, cleanup, read_only=options.read_only
            )
            protocols.append(protocol)
            schemes.append(SMB)
            tcp += addresses
        if options.nfs is not None:
            from quicfs.serve_nfs import start_nfs

            protocol, addresses = await start_nfs(
                options.nfs, trees, options.listen, cleanup, read_only=options.read_only
            )
            protocols.append(protocol)
            schemes.append(NFS)
            tcp += addresses
            _say_whom_nfs_believes(options)

        net = await cleanup.enter_async_context(server_net(options.agent))
        key = kept_reset_key(state_directory())
        listener = await listen_quic(net, options.listen, protocols, reset_key=key)
        cleanup.push_async_callback(listener.aclose)
        announce(_ready(folders, schemes, reachable(options.listen, listener.address.port), tcp))
        await told.wait()
        tell_service_manager("STOPPING=1")


def _ready(folders: dict[str, Path], schemes: Sequence[str], address: Address, tcp: Sequence[str]) -> str:
    served = []
    for name, directory in folders.items():
        urls = " and ".join(str(Url(address, name, scheme=scheme)) for scheme in schemes)
        served.append(f"{directory} as {urls}")
    also = ", and on TCP " + ", ".join(tcp) if tcp else ""
    url = Url(address, next(iter(folders)), scheme=schemes[0])
    return f"serving {', '.join(served)}{also}; mount it with: quicfs mount {url} MOUNTPOINT"


def _say_whom_nfs_believes(options: ServeOptions) -> None:
    nfs = options.nfs
    assert nfs is not None
    if nfs.identities is None and options.agent.ca is None and not nfs.all_squash:
        _log.warning(
            "NFS has no logins: everybody who can connect is believed to be the user that he says; --client-ca lets in "
            "only clients with a certificate, --identity-map tells which user each of them is, --all-squash makes all "
            "of them nobody"
        )


def _folders(asked: Sequence[Folder]) -> dict[str, Path]:
    """Name -> directory."""
    found: dict[str, Path] = {}
    for folder in asked:
        directory = folder.directory
        if not directory.is_dir():
            what = "is no directory" if directory.exists() else "does not exist"
            raise UserError(f"{directory} {what}: name the folder to serve")
        directory = directory.resolve()
        name = folder.name or directory.name
        if not name:
            raise UserError(f"{directory} has no name that a share could have: give --share NAME")
        if (
            any(character in '\\/:*?"<>|' or not character.isprintable() for character in name)
            or len(name) > MAX_NAME
        ):
            raise UserError(f"{name!r} cannot be a share's name: give another with NAME=DIR or --share")
        if name.casefold() in {known.casefold() for known in found}:
            raise UserError(f"two folders would be called {name!r}: name one of them with NAME=DIR")
        found[name] = directory
    return found
