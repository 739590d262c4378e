"""Listings of directories, with attributes: as much as the server gives in one round trip, then on demand.

The contract continues a listing by a cookie; SMB continues by an open handle. So each listing keeps its
handle and the names it has seen until it is read to the end and pushed out by newer ones.
"""

from __future__ import annotations

import itertools
from collections import OrderedDict
from typing import Final

from quicfs.smb.client import requests
from quicfs.smb.client.entries import INFO_CLASS, named_attributes
from quicfs.smb.client.link import Link
from quicfs.smb.client.node import SmbNode
from quicfs.smb.client.operation import Answer, Operation, close
from quicfs.smb.client.session import Session
from quicfs.smb.limits import MAX_DIRECTORY_BUFFER
from quicfs.smb.messages.access import CreateOptions
from quicfs.smb.messages.create import RELATED_FILE_ID
from quicfs.smb.messages.header import Command
from quicfs.smb.messages.output import parse_output
from quicfs.smb.messages.query_directory import QueryDirectoryRequest
from quicfs.smb.ntstatus import NtStatus
from quicfs.vfs.api import DirEntry, DirPage

__all__ = ["Listings"]

MAX_LISTINGS: Final = 32
"""Listings that can be continued; a directory read further after that starts over."""
MAX_ENTRIES: Final = 1 << 18
"""Entries of all these listings together, but for the newest."""
_DIRECTORY: Final = int(CreateOptions.DIRECTORY_FILE)
_INDEX_BITS: Final = 32
_FIRST_BUFFER: Final = 128 * 1024


class _Listing:
    """One listing: the entries so far, and the handle as long as there may be more."""

    __slots__ = ("complete", "entries", "handle", "node", "seen", "session")

    def __init__(self, node: SmbNode) -> None:
        self.node = node
        self.entries: list[DirEntry] = []
        self.session: Session | None = None
        self.handle = b""
        self.complete = False
        self.seen: frozenset[str] = frozenset()
        """What had been read when the listing had to start over; it is not added again."""

    def close(self) -> None:
        if self.handle and self.session is not None:
            self.session.post((close(self.handle),))
        self.handle = b""


class Listings:
    def __init__(self) -> None:
        self._open: OrderedDict[int, _Listing] = OrderedDict()
        self._numbers = itertools.count(1)

    async def page(self, link: Link, node: SmbNode, cookie: int, limit: int, *, posix: bool) -> DirPage:
        number, start = cookie >> _INDEX_BITS, cookie & ((1 << _INDEX_BITS) - 1)
        listing = self._open.get(number)
        if listing is None or listing.node is not node:
            number = next(self._numbers) & 0x3FFFFFFF
            listing = _Listing(node)
            self._remember(number, listing)
        else:
            self._open.move_to_end(number)
        end = start + max(1, limit)
        self._make_room()
        while len(listing.entries) < end and not listing.complete:
            await link.run(lambda session: self._fetch(session, listing, number, posix), node.shown)
        return DirPage(listing.entries[start:end], listing.complete and end >= len(listing.entries))

    def _remember(self, number: int, listing: _Listing) -> None:
        self._open[number] = listing

    def _make_room(self) -> None:
        entries = sum(len(listing.entries) for listing in self._open.values())
        while len(self._open) > MAX_LISTINGS or (entries > MAX_ENTRIES and len(self._open) > 1):
            oldest = self._open.popitem(last=False)[1]
            entries -= len(oldest.entries)
            oldest.close()

    async def _fetch(self, session: Session, listing: _Listing, number: int, posix: bool) -> None:
        if listing.session is not session:
            # The first time, or after the connection was lost: from the start, past what we have.
            answers = await self._start(session, listing, posix)
            listing.seen = frozenset(entry.name for entry in listing.entries)
        else:
            answers = await session.exchange((self._query(session, listing.handle, posix),))
        for answer in answers:
            if answer.status == NtStatus.NO_MORE_FILES:
                listing.complete = True
                listing.close()
                return
            session.check(answer)
            self._add(listing, parse_output(answer.message), number, posix)

    async def _start(self, session: Session, listing: _Listing, posix: bool) -> list[Answer]:
        request = requests.create(listing.node.path, requests.LIST, posix=posix, options=_DIRECTORY)

        def close_again(answers: list[Answer]) -> None:
            if not answers[0].status:
                session.post((close(requests.create_response(answers[0])[0].file_id),))

        first = self._query(session, RELATED_FILE_ID, posix, _FIRST_BUFFER)
        more = self._query(session, RELATED_FILE_ID, posix)
        opened, *answers = await session.exchange((request, first, more), orphaned=close_again)
        session.check(opened)
        response, _ = requests.create_response(opened)
        listing.session, listing.handle = session, response.file_id
        return answers

    def _query(
        self, session: Session, handle: bytes, posix: bool, most: int = MAX_DIRECTORY_BUFFER
    ) -> Operation:
        connection = session.connection
        size = connection.payload_limit(min(most, connection.max_transact))
        body = QueryDirectoryRequest(handle, INFO_CLASS[posix], "*", size).pack()
        return Operation(Command.QUERY_DIRECTORY, (body,), size)

    def _add(self, listing: _Listing, data: memoryview, number: int, posix: bool) -> None:
        entries, seen = listing.entries, listing.seen
        base = (number << _INDEX_BITS) + 1
        for name, attr in named_attributes(data, posix=posix):
            if name not in seen:
                entries.append(DirEntry(name, attr, base + len(entries)))
