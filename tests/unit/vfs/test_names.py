"""Paths of the contract."""

from __future__ import annotations

import pytest

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
