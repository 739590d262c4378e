"""What the tests of mounts use: errors as numbers, other processes."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest


def errno_of(call: Callable[[], object]) -> int:
    with pytest.raises(OSError) as caught:
        call()
    assert caught.value.errno is not None
    return caught.value.errno


def python(code: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    """Another process: for what one process cannot do to itself, and for what may block."""
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def run(*command: object, cwd: Path | None = None) -> str:
    environment = dict(os.environ, HOME=str(cwd or "/nonexistent"), GIT_CONFIG_NOSYSTEM="1")
    done = subprocess.run(
        list(map(str, command)),
        cwd=cwd,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout
