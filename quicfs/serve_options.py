"""What a server is told."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from quicfs.options import AgentOptions
from quicfs.url import Address

__all__ = ["NOBODY", "Folder", "NfsOptions", "ServeOptions", "SmbOptions"]

NOBODY: Final = 65534


@dataclass(frozen=True, slots=True)
class Folder:
    """A directory and what clients call it; "" is the directory's own name."""

    directory: Path
    name: str = ""


@dataclass(frozen=True, slots=True)
class SmbOptions:
    users: Path | None = None
    guest: bool = False
    tcp: Address | None = None


@dataclass(frozen=True, slots=True)
class NfsOptions:
    """The names are those of exports(5); `identities` is the file of the identity map."""

    no_root_squash: bool = False
    all_squash: bool = False
    anonuid: int = NOBODY
    anongid: int = NOBODY
    identities: Path | None = None
    tcp: Address | None = None


@dataclass(frozen=True, slots=True)
class ServeOptions:
    """`smb` and `nfs`: None leaves the protocol out."""

    folders: tuple[Folder, ...]
    listen: Address
    read_only: bool
    agent: AgentOptions
    smb: SmbOptions | None
    nfs: NfsOptions | None
