"""SSLKEYLOGFILE: the file that GnuTLS appends the secrets of every handshake to, for Wireshark and its like.

GnuTLS does it by itself as soon as its environment has the variable. What is left to do is that the file belongs to us
alone, and that nobody is surprised: with it, whoever captured the traffic reads it.
"""

from __future__ import annotations

import logging
import os
from typing import Final

_log = logging.getLogger("quicfs.handshake_agent")

ENVIRONMENT: Final = "SSLKEYLOGFILE"


def prepare() -> None:
    """Before GnuTLS is loaded: make the file, with mode 0600, and warn. Where that fails there is no log."""
    path = os.environ.get(ENVIRONMENT)
    if not path:
        return
    try:
        os.close(os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600))
    except OSError as error:
        del os.environ[ENVIRONMENT]
        _log.warning("TLS secrets are not written to %s: %s", path, error.strerror)
        return
    _log.warning("%s is set: whoever can read %s can decrypt these connections", ENVIRONMENT, path)
