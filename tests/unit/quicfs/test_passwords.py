from __future__ import annotations

import io
from pathlib import Path

import pytest

from quicfs.errors import UserError
from quicfs.passwords import ENVIRONMENT, get_password

WHAT = "the password of alice"


@pytest.fixture(autouse=True)
def no_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO())
    monkeypatch.delenv(ENVIRONMENT, raising=False)


@pytest.mark.parametrize("content", ["geheim", "geheim\n", "geheim\r\n", "geheim\nsecond line\n"])
def test_first_line_of_the_file(tmp_path: Path, content: str) -> None:
    (tmp_path / "file").write_bytes(content.encode())
    assert get_password(WHAT, tmp_path / "file") == "geheim"


def test_spaces_belong_to_the_password(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("  two words \n")
    assert get_password(WHAT, tmp_path / "file") == "  two words "


def test_the_file_comes_before_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(ENVIRONMENT, "of the environment")
    assert get_password(WHAT, None) == "of the environment"
    (tmp_path / "file").write_text("of the file")
    assert get_password(WHAT, tmp_path / "file") == "of the file"


def test_nowhere_to_ask() -> None:
    with pytest.raises(UserError, match=f"{WHAT} is needed.*{ENVIRONMENT}"):
        get_password(WHAT, None)


@pytest.mark.parametrize("content", [b"", b"\n", b"x" * 2000, b"\xff\xfe\n"])
def test_files_that_hold_no_password(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "file").write_bytes(content)
    with pytest.raises(UserError):
        get_password(WHAT, tmp_path / "file")
