"""The one list of outcomes. Each protocol owns one table from it to its own codes."""

from __future__ import annotations

import enum


class Status(enum.Enum):
    NOT_FOUND = "no such file or directory"
    EXISTS = "the name is taken"
    NOT_DIR = "not a directory"
    IS_DIR = "is a directory"
    NOT_EMPTY = "the directory is not empty"
    ACCESS = "access denied"
    NOT_PERMITTED = "not permitted"
    READ_ONLY = "the file system is read-only"
    NO_SPACE = "no space left"
    QUOTA = "over quota"
    TOO_BIG = "the file would be too large"
    NAME_TOO_LONG = "the name is too long"
    BAD_NAME = "the name cannot be stored here"
    LOOP = "too many symbolic links"
    CROSS_DEVICE = "on another file system"
    TOO_MANY_LINKS = "too many links"
    INVALID = "invalid argument"
    BAD_FILE = "the file is not open for this"
    STALE = "the object is gone"
    BUSY = "in use"
    SHARING = "another open forbids it"
    LOCKED = "locked by another owner"
    NO_DATA = "no data there"
    RANGE = "the value is too large"
    NO_RESOURCES = "too many open files or no memory"
    NOT_SUPPORTED = "not supported"
    IO = "input/output error"
    TIMEOUT = "the server did not answer in time"
    DISCONNECTED = "the connection to the server is lost"


class FsError(Exception):
    """A call of the contract failed. `detail` names the thing, for a person."""

    def __init__(self, status: Status, detail: str = "") -> None:
        super().__init__(status, detail)
        self.status = status
        self.detail = detail

    def __str__(self) -> str:
        return f"{self.detail}: {self.status.value}" if self.detail else self.status.value
