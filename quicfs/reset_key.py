"""The secret with which a server that was restarted resets the connections that it has forgotten (RFC 9000 §10.3.2).

Without it their clients would wait for a timeout; with it they hear at once and connect again.
"""

from __future__ import annotations

import logging
from pathlib import Path

from quicfs.transport.kept_secret import kept_secret

__all__ = ["kept_reset_key"]

_log = logging.getLogger("quicfs")


def kept_reset_key(directory: Path) -> bytes | None:
    """What is kept in the file reset.key of `directory`, which is made when it is missing.

    None, and a line in the log, where nothing can be kept: then a restart has clients wait.
    """
    path = directory / "reset.key"
    try:
        return kept_secret(path)
    except OSError as error:
        _log.info("connections will not be reset after a restart: %s: %s", path, error.strerror)
        return None
