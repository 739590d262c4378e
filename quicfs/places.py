"""Where things are kept unless the user says otherwise."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

__all__ = [
    "CertificateFiles",
    "default_directory",
    "default_users",
    "existing_certificate",
    "state_directory",
]


@dataclass(frozen=True, slots=True)
class CertificateFiles:
    """What `quicfs cert init` makes in one directory."""

    directory: Path

    @property
    def ca(self) -> Path:
        return self.directory / "ca.pem"

    @property
    def ca_key(self) -> Path:
        return self.directory / "ca.key"

    @property
    def cert(self) -> Path:
        return self.directory / "server.pem"

    @property
    def key(self) -> Path:
        return self.directory / "server.key"

    def all(self) -> tuple[Path, ...]:
        return self.ca, self.ca_key, self.cert, self.key


def default_directory() -> Path:
    """Of the whole machine for root, of the user otherwise."""
    if os.geteuid() == 0:
        return Path("/etc/quicfs")
    return Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config") / "quicfs"


def default_users() -> Path:
    """The file of users."""
    return default_directory() / "users"


def state_directory() -> Path:
    """What a server keeps between its runs: where the service manager says, or as for `default_directory`."""
    given = os.environ.get("STATE_DIRECTORY", "").partition(":")[0]
    if given:
        return Path(given)
    if os.geteuid() == 0:
        return Path("/var/lib/quicfs-server")
    return Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state") / "quicfs"


def existing_certificate() -> CertificateFiles | None:
    """What `quicfs cert init` left in the default directory earlier."""
    files = CertificateFiles(default_directory())
    return files if files.cert.exists() and files.key.exists() else None
