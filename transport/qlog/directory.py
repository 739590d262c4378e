"""qlog files: one for each connection, in one directory.

Writing never stops a connection: after an error the log ends with a warning, and the connection goes on.
"""

from __future__ import annotations

import functools
import logging
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Final

from quicfs.transport import limits
from quicfs.transport.qlog.tracer import QlogTracer
from quicfs.transport.trace import Tracer

if TYPE_CHECKING:
    from quicfs.transport.conn import Connection

__all__ = ["ENVIRONMENT", "QlogDirectory"]

_log = logging.getLogger("quicfs.transport")

ENVIRONMENT: Final = "QLOGDIR"
_BUFFER: Final = 1 << 16


class QlogDirectory:
    """A `TracerFactory`: connections write `ODCID_client.sqlog` and `ODCID_server.sqlog` into `path`, which is made
    when it is needed. ODCID is the first Destination Connection ID, the same on both sides, in hexadecimal.

    At most `limits.QLOG_OPEN` connections at one time are traced, and one of these makes at most
    `limits.QLOG_FILES` files of `limits.QLOG_TOTAL` bytes together; connections after that are not traced.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        self.open = 0
        self.made = 0
        self.written = 0
        self._told = False

    @staticmethod
    def from_environment() -> QlogDirectory | None:
        """For the directory that QLOGDIR names, the same one each time; None if it names none."""
        name = os.environ.get(ENVIRONMENT)
        return _shared(name) if name else None

    def __call__(self, conn: Connection, now: float) -> Tracer | None:
        if (
            self.open >= limits.QLOG_OPEN
            or self.made >= limits.QLOG_FILES
            or self.written >= limits.QLOG_TOTAL
        ):
            return None
        role = "server" if conn.is_server else "client"
        name = f"{conn.original_dcid.hex()}_{role}.sqlog"
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            # A client chooses the ID: a file that is there is not written to again.
            stream = (self.path / name).open("xb", buffering=_BUFFER)
        except OSError as error:
            self.warn(error)
            return None
        self.open += 1
        self.made += 1
        return QlogTracer(conn, now, _QlogFile(self, stream), time.time() * 1000)

    def warn(self, error: OSError) -> None:
        """Said once for each directory."""
        if not self._told:
            self._told = True
            _log.warning("connections are not logged in %s: %s", self.path, error.strerror or error)


@functools.cache
def _shared(name: str) -> QlogDirectory:
    return QlogDirectory(name)


class _QlogFile:
    """A `qlog.Sink`."""

    __slots__ = ("_directory", "_stream")

    def __init__(self, directory: QlogDirectory, stream: BinaryIO) -> None:
        self._directory = directory
        self._stream = stream

    def write(self, record: bytes) -> bool:
        directory = self._directory
        directory.written += len(record)
        if directory.written > limits.QLOG_TOTAL:
            return False
        try:
            self._stream.write(record)
        except OSError as error:
            directory.warn(error)
            return False
        return True

    def flush(self) -> None:
        try:
            self._stream.flush()
        except OSError as error:
            self._directory.warn(error)

    def close(self) -> None:
        self._directory.open -= 1
        try:
            self._stream.close()
        except OSError as error:
            self._directory.warn(error)
