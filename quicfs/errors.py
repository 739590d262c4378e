"""What a person reads when something fails: one sentence that names the thing and the remedy.

Everything that is expected to go wrong becomes such a sentence here and nowhere else; what is left is a
mistake of ours and is reported as one.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from typing import Final

from quicfs.vfs import FsError, Status

__all__ = ["UserError", "explain"]


class UserError(Exception):
    """Something that the user can put right. Its text is the whole message."""


_FS_REMEDIES: Final = {
    Status.ACCESS: "check the user name and the rights on the server",
    Status.NOT_EMPTY: "use -r to remove it with all that it holds",
    Status.IS_DIR: "use -r for a directory",
    Status.READ_ONLY: "the server was started with --read-only, or its disk is read-only",
    Status.TIMEOUT: "check that the server is running and that nothing on the way blocks UDP",
    Status.DISCONNECTED: "check that the server is running, then try again",
}

_OS_REMEDIES: Final = {
    errno.EADDRINUSE: "another program uses that port: choose another with --listen",
    errno.EADDRNOTAVAIL: "this machine has no such address: choose another with --listen",
    errno.EACCES: "run as a user who may do that",
    errno.ENOSPC: "free some space",
    errno.EMFILE: "raise the limit with `ulimit -n`",
}


def _fs_error(error: FsError) -> str:
    return _with_remedy(str(error), _FS_REMEDIES.get(error.status))


def _os_error(error: OSError) -> str:
    text = error.strerror or str(error) or type(error).__name__
    if error.filename is not None:
        text = f"{os.fsdecode(error.filename)}: {text}"
    return _with_remedy(text, _OS_REMEDIES.get(error.errno or 0))


def _group(error: BaseExceptionGroup[BaseException]) -> str | None:
    """The first of several that has a sentence; a mistake of ours among them wins."""
    sentences = [explain(inner) for inner in error.exceptions]
    return None if None in sentences else sentences[0]


def _with_remedy(text: str, remedy: str | None) -> str:
    return f"{text} ({remedy})" if remedy else text


# Errors whose text is a sentence with the remedy already, by name: most commands need not import them.
_SENTENCES: Final = frozenset(
    {
        "quicfs.fuse_mount.options.MountError",
        "quicfs.handshake_agent.failures.AgentError",
        "quicfs.nfs.client.errors.ConnectError",
        "quicfs.nfs.rpc.identity.IdentityMapError",
        "quicfs.smb.client.errors.ConnectError",
        "quicfs.smb.users.UserDbError",
        "quicfs.transport.handshake_errors.HandshakeError",
    }
)

# The order matters: the narrower type first.
_EXPLANATIONS: Final[tuple[tuple[type[BaseException], Callable[..., str | None]], ...]] = (
    (UserError, str),
    (FsError, _fs_error),
    (
        UnicodeError,
        lambda error: f"text that is not UTF-8: {error.reason}" if hasattr(error, "reason") else None,
    ),
    (OSError, _os_error),
    (BaseExceptionGroup, _group),
)


def explain(error: BaseException) -> str | None:
    """The sentence for `error`, on one line; None when it is a mistake of ours."""
    if any(f"{kind.__module__}.{kind.__qualname__}" in _SENTENCES for kind in type(error).__mro__):
        return _one_line(str(error))
    for kind, sentence in _EXPLANATIONS:
        if isinstance(error, kind):
            text = sentence(error)
            return None if text is None else _one_line(text)
    return None


def _one_line(text: str) -> str:
    return " ".join(text.split()).removesuffix(".")
