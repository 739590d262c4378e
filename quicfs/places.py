"""Where things are kept unless the user says otherwise."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

__all__ = ["CertificateFiles", "default_directory", "default_users", "existing_certificate"]


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


def existing_certificate() -> CertificateFiles | None:
    """What `quicfs cert init` left in the default directory earlier."""
    files = CertificateFiles(default_directory())
    return files if files.cert.exists() and files.key.exists() else None
