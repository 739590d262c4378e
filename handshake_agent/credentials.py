"""Certificates, keys and trusted CAs of one role, loaded once and again when a file changes."""

from __future__ import annotations

import logging
import os
from pathlib import Path

from quicfs.handshake_agent.config import X509, ConfigError
from quicfs.handshake_agent.gnutls import Credentials
from quicfs.handshake_agent.gnutls_library import GnutlsError

_log = logging.getLogger("quicfs.handshake_agent")

_Version = tuple[tuple[int, int, int], ...]


class CredentialStore:
    """`get` costs a few stat calls. A renewal that cannot be read is logged; the last good files serve on.

    `with_certificate` False leaves the own certificate out: for anonymous clients.
    """

    def __init__(self, files: X509, *, system_trust: bool, with_certificate: bool = True) -> None:
        self._files = files
        self._system_trust = system_trust
        self._with_certificate = with_certificate
        self._paths = [
            path
            for path in (files.certificate, files.private_key, files.truststore)
            if path is not None and (with_certificate or path is files.truststore)
        ]
        self._version: _Version | None = None
        self._loaded: Credentials | None = None

    def get(self) -> Credentials:
        """Raises ConfigError, which names the file, when there is nothing to go on with."""
        try:
            version = tuple(map(_version, self._paths))
        except OSError as error:
            if self._loaded is not None:
                return self._loaded  # in the middle of being replaced
            raise ConfigError(f"cannot read {error.filename}: {error.strerror}") from None
        if self._loaded is None or version != self._version:
            self._load(version)
        assert self._loaded is not None
        return self._loaded

    def _load(self, version: _Version) -> None:
        files = self._files
        try:
            loaded = Credentials(
                certificate=files.certificate if self._with_certificate else None,
                private_key=files.private_key if self._with_certificate else None,
                truststore=files.truststore,
                system_trust=self._system_trust,
            )
        except (OSError, GnutlsError) as error:
            reason = error.strerror if isinstance(error, OSError) else str(error)
            names = ", ".join(map(str, self._paths)) or "the system's CA certificates"
            if self._loaded is None:
                raise ConfigError(f"cannot use {names}: {reason}") from None
            _log.error("cannot use the new %s: %s; the old ones stay in use", names, reason)
        else:
            self._loaded = loaded
        self._version = version


def _version(path: Path) -> tuple[int, int, int]:
    status = os.stat(path)
    return status.st_mtime_ns, status.st_ino, status.st_size
