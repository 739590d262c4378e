"""What of the clients must outlive the server: who held state, so that after a restart they, and nobody else, may
reclaim it (RFC 8881 §8.4.3); and which server this is.

In the state directory:
    server.json     {"id": hex, "epoch": number of starts}
    clients.log     one line for each change, `{"add": owner, "principal": [...]}` or `{"drop": owner}`, owners in hex

A line is on disk before the coroutine that wrote it returns. A last line that is not whole never was acknowledged.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
from pathlib import Path
from typing import Final

from quicfs.nfs import limits

__all__ = ["Recovery"]

_log = logging.getLogger("quicfs.nfs")
Principal = tuple[str, int]


class Recovery:
    """`known`: owners that held state, with their principals. Without a directory nothing is kept, and each run is
    another server. OSError, here and from all coroutines, when the directory cannot be read or written."""

    def __init__(self, directory: Path | None) -> None:
        self.known: dict[bytes, Principal] = {}
        self._path: Final = None if directory is None else directory / "clients.log"
        self._lines = 0
        self._waiting: list[tuple[str, asyncio.Future[None]]] = []
        self._writer: asyncio.Task[None] | None = None
        if directory is None or self._path is None:
            self.server_id, self.epoch = os.urandom(16), int.from_bytes(os.urandom(4), "big") >> 1
            return
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.server_id, self.epoch = _identity(directory / "server.json")
        self.known = _read(self._path)
        self._rewrite()

    async def record(self, owner: bytes, principal: Principal) -> None:
        """`owner` may reclaim after the next restart."""
        if self.known.get(owner) == principal:
            return
        self.known[owner] = principal
        try:
            await self._append({"add": owner.hex(), "principal": principal})
        except OSError:
            self.known.pop(owner, None)
            raise

    async def forget(self, *owners: bytes) -> None:
        """They have lost what they held."""
        known = {owner: self.known.pop(owner) for owner in owners if owner in self.known}
        try:
            await asyncio.gather(*(self._append({"drop": owner.hex()}) for owner in known))
        except OSError:
            self.known = known | self.known
            raise

    async def aclose(self) -> None:
        if self._writer is not None:
            await self._writer

    async def _append(self, change: dict[str, object]) -> None:
        """Changes that come while the disk is busy go out together."""
        if self._path is None:
            return
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((json.dumps(change) + "\n", done))
        if self._writer is None:
            self._writer = asyncio.get_running_loop().create_task(self._write())
        await done

    async def _write(self) -> None:
        try:
            while self._waiting:
                batch, self._waiting = self._waiting, []
                try:
                    await asyncio.to_thread(self._write_lines, [line for line, _ in batch])
                except OSError as error:
                    for _, done in batch:
                        if not done.done():
                            done.set_exception(error)
                    continue
                for _, done in batch:
                    if not done.done():
                        done.set_result(None)
        finally:
            self._writer = None

    def _write_lines(self, lines: list[str]) -> None:
        assert self._path is not None
        self._lines += len(lines)
        if self._lines > limits.MAX_CLIENT_LINES:
            self._rewrite()  # `known` holds what the lines say already
            return
        kept, self._lines = self._lines, limits.MAX_CLIENT_LINES  # after a failure, half a line may be there
        descriptor = os.open(self._path, os.O_WRONLY | os.O_APPEND)
        try:
            _write_all(descriptor, "".join(lines).encode())
            os.fdatasync(descriptor)
        finally:
            os.close(descriptor)
        self._lines = kept

    def _rewrite(self) -> None:
        assert self._path is not None
        known = dict(self.known)
        lines = [json.dumps({"add": owner.hex(), "principal": known[owner]}) + "\n" for owner in known]
        _replace(self._path, "".join(lines).encode())
        self._lines = len(lines)


def _read(path: Path) -> dict[bytes, Principal]:
    known: dict[bytes, Principal] = {}
    try:
        lines = path.read_bytes().split(b"\n")
    except FileNotFoundError:
        return known
    for number, line in enumerate(lines[:-1], 1):  # what has no end of line was never acknowledged
        try:
            change = json.loads(line)
            if "add" in change:
                name, user = change["principal"]
                known[bytes.fromhex(change["add"])] = str(name), int(user)
            else:
                known.pop(bytes.fromhex(change["drop"]), None)
        except (ValueError, KeyError, TypeError):
            _log.warning("%s: line %d makes no sense and is left out", path, number)
    return known


def _identity(path: Path) -> tuple[bytes, int]:
    """(id, number of this start). The number makes client IDs of different runs different."""
    try:
        kept = json.loads(path.read_bytes())
        identity, epoch = bytes.fromhex(kept["id"]), int(kept["epoch"]) + 1
    except FileNotFoundError:
        identity, epoch = os.urandom(16), 1
    except (ValueError, KeyError, TypeError) as error:
        raise OSError(
            f"{path} is damaged ({error}); remove it, and clients will see another server"
        ) from None
    _replace(path, json.dumps({"id": identity.hex(), "epoch": epoch}).encode() + b"\n")
    return identity, epoch & 0x7FFFFFFF


def _replace(path: Path, data: bytes) -> None:
    """Atomic and on disk."""
    temporary = path.with_name(path.name + ".new")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    try:
        _write_all(descriptor, data)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    os.rename(temporary, path)
    directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def _write_all(descriptor: int, data: bytes) -> None:
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(descriptor, rest) :]
