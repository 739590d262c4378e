"""What all tests share: how a test says what it needs of the machine."""

from __future__ import annotations

import ctypes.util
import importlib.util
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import hypothesis
import pytest

# A busy machine is not a failure.
hypothesis.settings.register_profile("quicfs", deadline=None)
hypothesis.settings.load_profile("quicfs")

Require = Callable[..., None]


def _has_fuse() -> bool:
    return Path("/dev/fuse").exists() and shutil.which("fusermount3") is not None


def _has_netns() -> bool:
    """Making a namespace is the only reliable answer."""
    if shutil.which("ip") is None or shutil.which("unshare") is None:
        return False
    command = ["unshare", "--net", "ip", "link", "set", "lo", "up"]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


# Things that are neither a program on PATH nor a module of Python.
_SPECIAL: Final[dict[str, Callable[[], bool]]] = {
    "fuse": _has_fuse,
    "netns": _has_netns,
    "root": lambda: os.geteuid() == 0,
    "libgnutls": lambda: ctypes.util.find_library("gnutls") is not None,
}


def _is_there(thing: str) -> bool:
    if thing in _SPECIAL:
        return _SPECIAL[thing]()
    return shutil.which(thing) is not None or importlib.util.find_spec(thing) is not None


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """What commands keep for later goes to a directory of the tests, in child processes too."""
    before = os.environ.get("XDG_CACHE_HOME")
    # The prepared Samba root is large, belongs to no test, and is kept from run to run.
    kept = Path(before or Path.home() / ".cache") / "quicfs" / "samba-sid"
    os.environ.setdefault("QUICFS_SAMBA_ROOT", str(kept))
    os.environ["XDG_CACHE_HOME"] = str(tmp_path_factory.mktemp("cache"))
    yield
    if before is None:
        del os.environ["XDG_CACHE_HOME"]
    else:
        os.environ["XDG_CACHE_HOME"] = before


@pytest.fixture(scope="session")
def require() -> Require:
    """`require("smbclient", "aioquic", "fuse")`: go on only where all of these are there.

    Programs on PATH, Python modules, or "fuse", "netns", "root", "libgnutls". What is missing is a skip on
    a laptop and a failure where CI=true.
    """

    def check(*things: str) -> None:
        missing = [thing for thing in things if not _is_there(thing)]
        if not missing:
            return
        sentence = f"this machine has no {', no '.join(missing)} (`make setup` installs what it can)"
        if os.environ.get("CI") == "true":
            pytest.fail(sentence, pytrace=False)
        pytest.skip(sentence)

    return check
