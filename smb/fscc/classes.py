"""Numbers of the information classes ([MS-FSCC] §2.4 and §2.5)."""

from __future__ import annotations

import enum

__all__ = ["FileInfoClass", "FsInfoClass"]


class FileInfoClass(enum.IntEnum):
    DIRECTORY = 1
    FULL_DIRECTORY = 2
    BOTH_DIRECTORY = 3
    BASIC = 4
    STANDARD = 5
    INTERNAL = 6
    EA = 7
    ACCESS = 8
    NAME = 9
    RENAME = 10
    LINK = 11
    NAMES = 12
    DISPOSITION = 13
    POSITION = 14
    FULL_EA = 15
    MODE = 16
    ALIGNMENT = 17
    ALL = 18
    ALLOCATION = 19
    END_OF_FILE = 20
    ALTERNATE_NAME = 21
    STREAM = 22
    PIPE = 23
    COMPRESSION = 28
    QUOTA = 32
    REPARSE_POINT = 33
    NETWORK_OPEN = 34
    ATTRIBUTE_TAG = 35
    ID_BOTH_DIRECTORY = 37
    ID_FULL_DIRECTORY = 38
    VALID_DATA_LENGTH = 39
    SHORT_NAME = 40
    NORMALIZED_NAME = 48
    ID = 59
    ID_EXTD_DIRECTORY = 60
    DISPOSITION_EX = 64
    RENAME_EX = 65
    POSIX = 100


class FsInfoClass(enum.IntEnum):
    VOLUME = 1
    SIZE = 3
    DEVICE = 4
    ATTRIBUTE = 5
    CONTROL = 6
    FULL_SIZE = 7
    OBJECT_ID = 8
    SECTOR_SIZE = 11
    POSIX = 100
