"""Paths of the contract."""

from __future__ import annotations

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quicfs.vfs import FsError, Status
from quicfs.vfs.names import encode_path, split_path


@pytest.mark.parametrize(
    ("path", "parent", "name"),
    [("a", b"", b"a"), ("a/b", b"a", b"b"), ("a/b/c", b"a/b", b"c"), ("ä/\udcff", "ä".encode(), b"\xff")],
)
def test_good_paths(path: str, parent: bytes, name: bytes) -> None:
    assert split_path(path) == (parent, name)


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("..", Status.INVALID),
        (".", Status.INVALID),
        ("/", Status.INVALID),
        ("/etc/passwd", Status.INVALID),
        ("a/../b", Status.INVALID),
        ("a/..", Status.INVALID),
        ("a//b", Status.INVALID),
        ("a/", Status.INVALID),
        ("a\0b", Status.INVALID),
        ("a/\0", Status.INVALID),
        ("x" * 256, Status.NAME_TOO_LONG),
        ("ä" * 128, Status.NAME_TOO_LONG),
        ("a/" + "x" * 256, Status.NAME_TOO_LONG),
        ("a/" * 3000 + "b", Status.NAME_TOO_LONG),
        ("\ud800", Status.BAD_NAME),
    ],
)
def test_bad_paths(path: str, status: Status) -> None:
    with pytest.raises(FsError) as caught:
        encode_path(path)
    assert caught.value.status is status
    str(caught.value).encode("utf-8", "surrogateescape")  # a log can always take it


def test_long_paths_of_short_names_pass() -> None:
    assert len(encode_path("/".join(["x" * 255] * 10))) == 2559


def test_the_empty_path_names_the_directory_itself_only() -> None:
    assert encode_path("") == b""
    with pytest.raises(FsError):
        split_path("")


@given(st.text(st.characters() | st.sampled_from("/.\0\udc80\udcff"), max_size=300))
def test_any_text_is_a_path_or_refused(path: str) -> None:
    try:
        raw = encode_path(path)
    except FsError as error:
        assert error.status in (Status.INVALID, Status.NAME_TOO_LONG, Status.BAD_NAME)
        str(error).encode("utf-8", "surrogateescape")
        return
    assert b"\0" not in raw and not raw.startswith(b"/")
    assert not raw or {b"", b".", b".."}.isdisjoint(raw.split(b"/"))
    assert os.fsdecode(raw) == path
