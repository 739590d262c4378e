from __future__ import annotations

import errno

import pytest

from quicfs.errors import UserError, explain
from quicfs.vfs import FsError, Status


@pytest.mark.parametrize("status", Status)
def test_every_status_is_a_sentence_that_names_the_thing(status: Status) -> None:
    sentence = explain(FsError(status, "a/file"))
    assert sentence is not None and sentence.startswith("a/file: ") and status.value in sentence


def test_one_line_whatever_comes() -> None:
    assert explain(UserError("two\nlines.\n")) == "two lines"
    assert explain(OSError(errno.ENOSPC, "No space left", "/a\nb")) == "/a b: No space left (free some space)"


def test_what_nobody_expected_has_no_sentence() -> None:
    assert explain(ValueError("x")) is None
    assert explain(ExceptionGroup("several", [UserError("known"), ValueError("x")])) is None


def test_the_first_of_several() -> None:
    assert (
        explain(ExceptionGroup("several", [UserError("one"), ExceptionGroup("more", [UserError("two")])]))
        == "one"
    )
