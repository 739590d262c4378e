"""Patterns of QUERY_DIRECTORY: FsRtlIsNameInExpression ([MS-FSA] §2.1.4.4)."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Final

__all__ = ["WILDCARDS", "has_wildcard", "matcher"]

_DOS_STAR: Final = "<"  # anything, but not past the last dot of the name
_DOS_QM: Final = ">"  # one character, or nothing before a dot or at the end
_DOS_DOT: Final = '"'  # a dot, or nothing at the end
WILDCARDS: Final = frozenset('*?<>"')
_ALL_NAMES: Final = frozenset(("*", "*.*", "<.*", '<"*'))
_MAX_PATTERN: Final = 512


def has_wildcard(pattern: str) -> bool:
    return not WILDCARDS.isdisjoint(pattern)


@lru_cache(maxsize=64)
def matcher(pattern: str, *, fold_case: bool) -> Callable[[str], bool]:
    """A test for names. Its time is at most the product of both lengths."""
    if pattern in _ALL_NAMES:
        return lambda name: True
    if len(pattern) > _MAX_PATTERN:
        return lambda name: False
    if fold_case:
        folded = pattern.lower()
        return lambda name: _matches(folded, name.lower())
    return lambda name: _matches(pattern, name)


def _matches(pattern: str, name: str) -> bool:
    """All positions that the pattern can have reached, moved on character by character."""
    last_dot = name.rfind(".")
    end = len(pattern)
    positions = _skip(pattern, {0}, name[:1])
    for at, char in enumerate(name):
        reached: set[int] = set()
        for position in positions:
            if position == end:
                continue
            piece = pattern[position]
            if piece == "*":
                reached.add(position)
            elif piece == _DOS_STAR:
                if last_dot < 0 or at < last_dot:
                    reached.add(position)
                elif at == last_dot:
                    reached.add(position + 1)
            elif piece == _DOS_QM:
                if char != "." or at == len(name) - 1:
                    reached.add(position + 1)
            elif piece in ("?", char) or (piece == _DOS_DOT and char == "."):
                reached.add(position + 1)
        if not reached:
            return False
        positions = _skip(pattern, reached, name[at + 1 : at + 2])
    return end in positions


def _skip(pattern: str, positions: set[int], following: str) -> set[int]:
    """With the positions behind pieces that may match nothing before `following` ("" at the end)."""
    todo = list(positions)
    while todo:
        position = todo.pop()
        piece = pattern[position : position + 1]
        empty = (
            piece in ("*", _DOS_STAR)
            or (piece == _DOS_QM and following in ("", "."))
            or (piece == _DOS_DOT and not following)
        )
        if piece and empty and position + 1 not in positions:
            positions.add(position + 1)
            todo.append(position + 1)
    return positions
