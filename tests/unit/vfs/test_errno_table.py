from __future__ import annotations

import errno

import pytest

from quicfs.vfs import Status
from quicfs.vfs.errno_table import fs_error


@pytest.mark.parametrize(
    ("number", "status"),
    [
        (errno.ENOENT, Status.NOT_FOUND),
        (errno.EMFILE, Status.NO_RESOURCES),
        (errno.EDQUOT, Status.QUOTA),
        (errno.ENOTUNIQ, Status.IO),  # not in the table
    ],
)
def test_status_of_errno(number: int, status: Status) -> None:
    failed = fs_error(OSError(number, "x"), "the thing")
    assert failed.status is status and str(failed) == f"the thing: {status.value}"


def test_an_error_without_a_number() -> None:
    assert fs_error(OSError("odd")).status is Status.IO
