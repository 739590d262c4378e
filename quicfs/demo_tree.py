"""The tree that the demo copies, and how a copy is compared with it."""

from __future__ import annotations

import hashlib
import os
import stat
import sysconfig
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

__all__ = ["TIME_GRANULARITY_NS", "Tree", "differences", "real_tree"]

LEAST_FILES: Final = 2_000
LEAST_BYTES: Final = 50_000_000
TIME_GRANULARITY_NS: Final = 100
"""Of the times in SMB ([MS-DTYP] §2.3.3)."""

_LINKS: Final = {
    "links/by-name": "../stdlib",
    "links/to-file": "../stdlib/os.py",
    "links/to-nothing": "not/there",
}
_CHUNK: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class Original:
    """A file or directory as it was when the tree was listed; importing a module may touch its directory."""

    path: Path
    mode: int
    mtime_ns: int
    size: int

    @classmethod
    def of(cls, path: Path) -> Original:
        status = path.stat()
        return cls(path, stat.S_IMODE(status.st_mode), status.st_mtime_ns, status.st_size)

    def mark(self, copy: Path) -> None:
        os.chmod(copy, self.mode)
        os.utime(copy, ns=(self.mtime_ns, self.mtime_ns))


@dataclass(frozen=True, slots=True)
class Tree:
    """Keys are paths within the tree; a directory stands before what it holds."""

    directories: dict[str, Original]
    files: dict[str, Original]
    links: dict[str, str]  # and their targets

    @property
    def bytes(self) -> int:
        return sum(original.size for original in self.files.values())

    def make_directories(self, root: Path) -> None:
        for path in self.directories:
            (root / path).mkdir()

    def copy_file(self, root: Path, path: str) -> int:
        """One file into the tree at `root`, mode and times as well; returns its size."""
        original = self.files[path]
        with original.path.open("rb") as source, (root / path).open("wb") as target:
            while data := source.read(_CHUNK):
                target.write(data)
        original.mark(root / path)
        return original.size

    def finish(self, root: Path) -> None:
        """Links, then modes and times of the directories, the deepest first."""
        for path, target in self.links.items():
            (root / path).symlink_to(target)
        for path, original in reversed(self.directories.items()):
            original.mark(root / path)


def real_tree(least_files: int = LEAST_FILES, least_bytes: int = LEAST_BYTES) -> Tree:
    """This interpreter's own library, and of the packages installed beside it as many as it takes."""
    paths = sysconfig.get_paths()
    library = Path(paths["stdlib"])
    tree = Tree({"links": Original.of(library)}, {}, _LINKS)
    size = 0
    for name, top in (("stdlib", library), ("packages", Path(paths["purelib"]))):
        for path, source in _walk(top, name):
            original = Original.of(source)
            if source.is_dir():
                tree.directories[path] = original
                continue
            tree.files[path] = original
            size += original.size
            if len(tree.files) >= least_files and size >= least_bytes:
                return tree
    return tree


def _walk(top: Path, name: str) -> Iterator[tuple[str, Path]]:
    """Directories and regular, readable files below `top`, sorted; paths begin with `name`."""
    for here, folders, entries in os.walk(top):
        # What is compiled on the way changes while we look.
        folders[:] = sorted(
            folder
            for folder in folders
            if folder not in {"__pycache__", "site-packages"} and not Path(here, folder).is_symlink()
        )
        prefix = Path(name, os.path.relpath(here, top)).as_posix()
        yield prefix, Path(here)
        for entry in sorted(entries):
            source = Path(here, entry)
            if source.is_file() and not source.is_symlink() and os.access(source, os.R_OK):
                yield f"{prefix}/{entry}", source


def differences(tree: Tree, copy: Path, step: Callable[[int], None]) -> list[str]:
    """Sentences on what differs in kind, content, mode or time; `step` gets each compared file's size."""
    there = {path.relative_to(copy).as_posix() for path in copy.rglob("*")}
    expected = tree.directories.keys() | tree.files.keys() | tree.links.keys()
    found = [f"{path} is in the copy only" for path in sorted(there - expected)]
    found += [f"{path} is missing" for path in sorted(expected - there)]
    for path in there & tree.directories.keys():
        found += _facts_differ(path, tree.directories[path], copy / path, stat.S_ISDIR)
    for path in there & tree.links.keys():
        target = os.readlink(copy / path) if (copy / path).is_symlink() else "no link"
        if target != tree.links[path]:
            found.append(f"{path}: target {tree.links[path]} became {target}")
    for path in sorted(there & tree.files.keys()):
        original = tree.files[path]
        wrong = _facts_differ(path, original, copy / path, stat.S_ISREG)
        if not wrong and _checksum(original.path) != _checksum(copy / path):
            wrong = [f"{path}: the checksum differs"]
        found += wrong
        step(original.size)
    return found


def _facts_differ(path: str, original: Original, copy: Path, is_kind: Callable[[int], bool]) -> list[str]:
    status = copy.lstat()
    if not is_kind(status.st_mode):
        return [f"{path} is of another kind"]
    found: list[str] = []
    if stat.S_IMODE(status.st_mode) != original.mode:
        found.append(f"{path}: mode {original.mode:o} became {stat.S_IMODE(status.st_mode):o}")
    if status.st_mtime_ns // TIME_GRANULARITY_NS != original.mtime_ns // TIME_GRANULARITY_NS:
        found.append(f"{path}: time {original.mtime_ns} ns became {status.st_mtime_ns} ns")
    if stat.S_ISREG(status.st_mode) and status.st_size != original.size:
        found.append(f"{path}: {original.size} bytes became {status.st_size}")
    return found


def _checksum(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
