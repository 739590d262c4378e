"""A command that goes on after its prompt is back: fork at once, let go when the work really runs.

The parent waits for the child's word. Until it comes, what the child writes on stderr is what the user
sees, and its exit status is the command's.
"""

from __future__ import annotations

import logging
import logging.handlers
import os
import signal
import sys
from typing import Final

__all__ = ["Background", "fork"]

_SYSLOG: Final = "/dev/log"


class Background:
    """The child's end. `ready` lets the parent go."""

    def __init__(self, pipe: int) -> None:
        self._pipe = pipe

    def ready(self) -> None:
        """The work runs: leave the terminal and the directory we came from, and log to syslog from now on."""
        os.chdir("/")
        sys.stdout.flush()
        sys.stderr.flush()
        nowhere = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
        for descriptor in (0, 1, 2):
            os.dup2(nowhere, descriptor)
        os.close(nowhere)
        root = logging.getLogger()
        for handler in root.handlers[:]:
            root.removeHandler(handler)
        root.addHandler(_syslog())
        os.write(self._pipe, b"+")
        os.close(self._pipe)


def _syslog() -> logging.Handler:
    if not os.path.exists(_SYSLOG):
        return logging.NullHandler()
    handler = logging.handlers.SysLogHandler(_SYSLOG, facility=logging.handlers.SysLogHandler.LOG_DAEMON)
    handler.ident = f"quicfs[{os.getpid()}]: "
    return handler


def fork() -> Background:
    """Returns in the child only. To be called before there are threads or an event loop.

    The parent leaves with status 0 once the child is ready, with the child's own if it ends before.
    """
    read_end, write_end = os.pipe2(os.O_CLOEXEC)
    sys.stdout.flush()
    sys.stderr.flush()
    child = os.fork()
    if child == 0:
        os.close(read_end)
        os.setsid()
        return Background(write_end)
    os.close(write_end)
    try:
        is_ready = os.read(read_end, 1)
        status = 0 if is_ready else os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    except KeyboardInterrupt:
        os.kill(child, signal.SIGTERM)
        os.waitpid(child, 0)
        raise
    # Neither exit handlers nor buffers of what the child goes on with.
    os._exit(status if status >= 0 else 1)
