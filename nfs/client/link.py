"""The way to the server: a session that outlives its connections, and is made anew after it was lost.

    DOWN --connect--> (bind, or new session, or new client ID and recovery) --> UP --lost--> DOWN ...

A call waits for the way, at most as long as the server may take to answer one call, counted from the moment it went
down. When the server has been away for that long, one call a second tries again, and the others fail at once.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from quicfs.nfs.client.channel import Channel, Connect, Operation, Way
from quicfs.nfs.client.errors import (
    CompoundFailed,
    ConnectError,
    ConnectProblem,
    NfsProtocolError,
    SessionGone,
)
from quicfs.nfs.client.establish import ClientId, bind, create_session, exchange_id
from quicfs.nfs.client.session import Orphaned, Session
from quicfs.nfs.client.status import fs_error
from quicfs.nfs.rpc.message import Credential
from quicfs.nfs.rpc.service import Program
from quicfs.nfs.v4.const import MINOR_VERSIONS, CreateSession, Op, SeqStatus, Stat
from quicfs.nfs.v4.operations_files import PutfhArgs
from quicfs.nfs.v4.operations_sessions import DestroyClientidArgs, DestroySessionArgs
from quicfs.nfs.v4.types import ClientOwner
from quicfs.vfs.status import FsError, Status

if TYPE_CHECKING:
    from quicfs.nfs.client.observing import Sight

__all__ = ["Link", "LinkSettings"]

_log = logging.getLogger("quicfs.nfs")

_FIRST_DELAY_S: Final = 0.2
_LONGEST_DELAY_S: Final = 1.0
_LEAST_WAIT_S: Final = 2.0  # for a call that tries whether the server is back
_CLOSE_S: Final = 2.0  # for a polite end

_BUSY_FIRST_S: Final = 0.01  # after DELAY and GRACE
_BUSY_LONGEST_S: Final = 1.0

# What the user has to change.
_PERMANENT: Final = {
    ConnectProblem.ACCESS: Status.ACCESS,
    ConnectProblem.EXPORT: Status.NOT_FOUND,
    ConnectProblem.PROTOCOL: Status.IO,
}
_MOST_EXPIRED: Final = 8  # file handles of one COMPOUND
_GRACE_S: Final = 10.0  # that a server's grace period may last longer than its lease
_BUSY: Final = frozenset({Stat.DELAY, Stat.GRACE, Stat.CLIENTID_BUSY})
# Once one of these is done, the COMPOUND is not to be sent as a whole again.
_ONCE: Final = frozenset({Op.OPEN, Op.CREATE, Op.REMOVE, Op.RENAME, Op.LINK, Op.COPY, Op.LOCK, Op.CLOSE})

STATE_FLAGS: Final = (
    SeqStatus.EXPIRED_ALL_STATE_REVOKED
    | SeqStatus.EXPIRED_SOME_STATE_REVOKED
    | SeqStatus.ADMIN_STATE_REVOKED
    | SeqStatus.RECALLABLE_STATE_REVOKED
    | SeqStatus.RESTART_RECLAIM_NEEDED
)
_BACK_FLAGS: Final = SeqStatus.CB_PATH_DOWN | SeqStatus.CB_PATH_DOWN_SESSION | SeqStatus.BACKCHANNEL_FAULT


@dataclass(frozen=True, slots=True)
class LinkSettings:
    """`host`: for sentences. `owner`: who we are to the server; its verifier is new for each life of ours."""

    host: str
    owner: ClientOwner
    credential: Credential
    streams: int = 4
    timeout: float = 30.0


Recover = Callable[[Session, int], Awaitable[None]]


async def _not_found(fh: bytes) -> bytes | None:
    return None


class Link:
    """Owns connection, client ID and session.

    `recover(session, generation)` runs in each new session before all other calls. What was opened and locked under an
    earlier generation the server does not hold, be it that it restarted or that it gave up waiting for us. What
    `recover` raises, save ConnectError, is tried again. `on_state_flags` hears `sr_status_flags` that say that state
    is gone.
    """

    def __init__(
        self,
        connect: Connect,
        settings: LinkSettings,
        recover: Recover,
        *,
        programs: Sequence[Program] = (),
        on_state_flags: Callable[[int], None] = lambda _: None,
        find_again: Callable[[bytes], Awaitable[bytes | None]] = _not_found,
        observe: Callable[[Sequence[Operation]], Sight | None] = lambda _: None,
    ) -> None:
        self._connect = connect
        self.settings = settings
        self._recover = recover
        self._programs = programs
        self._on_state_flags = on_state_flags
        self._find_again = find_again
        self._observe = observe
        self._minor = MINOR_VERSIONS.stop - 1
        self._channel: Channel | None = None
        self._client: ClientId | None = None
        self._session: Session | None = None
        self._recovered: Session | None = None  # the session that is ready for everybody's calls
        self.generation = 0
        """Counts the client IDs that we had: state of an older one is gone."""
        self._attempt: asyncio.Task[None] | None = None
        self._delay = 0.0
        self._not_before = 0.0
        self._down_since: float | None = None
        self._failed: ConnectError | None = None  # the last attempt since then
        self._lease = 0.0
        self._renewing: asyncio.Task[None] | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._closed = False

    @property
    def minor(self) -> int:
        """Of NFSv4: 1 or 2, whichever the server knows."""
        return self._minor

    @property
    def current(self) -> Session | None:
        """The session, if it is there."""
        return self._recovered

    def session_known(self, session_id: bytes) -> bool | None:
        """Whether a session of the server is ours. None: perhaps, one is being made."""
        session = self._session
        if session is not None and session.id == session_id:
            return True
        return None if self._recovered is None or not self._recovered.alive else False

    # Coming up

    async def open(self) -> None:
        """Connect now. ConnectError with a sentence when that fails."""
        try:
            async with asyncio.timeout(self.settings.timeout):
                await self._establish()
        except TimeoutError as error:
            raise ConnectError(ConnectProblem.UNREACHABLE, f"{self.settings.host} does not answer") from error

    async def _establish(self) -> None:
        """Whatever is missing between us and a session that works."""
        host = self.settings.host
        try:
            await self._come_up()
        except ConnectError:
            raise
        except NfsProtocolError as error:
            raise ConnectError(ConnectProblem.PROTOCOL, f"{host} is no NFSv4.1 server ({error})") from error
        except CompoundFailed as error:
            refused = error.status in (Stat.ACCESS, Stat.PERM, Stat.WRONGSEC, Stat.WRONG_CRED)
            problem = ConnectProblem.ACCESS if refused else ConnectProblem.PROTOCOL
            if error.status in _BUSY:
                problem = ConnectProblem.UNREACHABLE
            sentence = f"{host} refuses the session ({error.what}: {error.status.name})"
            raise ConnectError(problem, sentence) from error
        except (SessionGone, FsError) as error:
            raise ConnectError(ConnectProblem.UNREACHABLE, f"{host}: {error}") from error
        except ConnectionError as error:
            raise ConnectError(ConnectProblem.UNREACHABLE, str(error)) from error
        except OSError as error:
            sentence = f"{host} cannot be reached: {error.strerror or error}"
            raise ConnectError(ConnectProblem.UNREACHABLE, sentence) from error

    async def _come_up(self) -> None:
        channel = self._channel
        if channel is None or not channel.alive:
            if channel is not None:
                await channel.aclose()
            channel = self._channel = await self._new_channel()
        way = await channel.first()
        session = self._session
        if session is not None and session.alive and session.channel is not channel:
            if await bind(channel, way, session.id, back=True, timeout=self.settings.timeout):
                session.attach(channel)
            else:
                session.end("the server does not know the session any more")
        if session is None or not session.alive:
            session = self._session = await self._new_session(channel, way)
        channel.serve(self._binder(session))
        if self._recovered is not session:
            await self._recover(session, self.generation)
            self._recovered = session
        if self._closed:
            raise ConnectError(ConnectProblem.UNREACHABLE, "the file system was closed")
        self._down_since = self._failed = None
        self._delay = 0.0

    async def _new_channel(self) -> Channel:
        connection = await self._connect(self._programs)
        settings = self.settings
        return Channel(
            connection,
            settings.credential,
            minor=self._minor,
            limit=settings.streams,
            timeout=settings.timeout,
        )

    async def _new_session(self, channel: Channel, way: Way) -> Session:
        channel.unbind()
        made = None
        if self._client is not None:
            try:
                made = await create_session(channel, way, self._client, timeout=self.settings.timeout)
            except CompoundFailed as failed:
                _log.info("%s: the client ID is gone (%s)", self.settings.host, failed.status.name)
        if made is None:
            client = await self._identify(channel, way)
            made = await create_session(channel, way, client, timeout=self.settings.timeout)
        if self._session is not None and self._session.unusable:
            await self._give_back(channel, way, self._session)
        session_id, fore, flags = made
        if not flags & CreateSession.CONN_BACK_CHAN:
            _log.debug("%s: no back channel", self.settings.host)
        session = Session(
            session_id, self._minor, fore, self.settings.credential, self._reconnect, self._heed
        )
        session.attach(channel)
        return session

    async def _give_back(self, channel: Channel, way: Way, session: Session) -> None:
        """A session that the server still knows would count against us."""
        try:
            destroy = (Op.DESTROY_SESSION, DestroySessionArgs(session.id))
            await channel.compound(way, [destroy], timeout=self.settings.timeout)
        except CompoundFailed as failed:
            _log.debug("%s: DESTROY_SESSION: %s", self.settings.host, failed.status.name)

    async def _identify(self, channel: Channel, way: Way) -> ClientId:
        owner, timeout = self.settings.owner, self.settings.timeout
        while True:
            try:
                client, same = await exchange_id(channel, way, owner, self._client, timeout=timeout)
                break
            except CompoundFailed as failed:
                if failed.status is not Stat.MINOR_VERS_MISMATCH or self._minor == MINOR_VERSIONS.start:
                    raise
                self._minor -= 1
                channel.minor = self._minor
        self._client = client
        if not same:
            self.generation += 1
        return client

    def _binder(self, session: Session) -> Callable[[Channel, Way], Awaitable[None]]:
        async def bind_way(channel: Channel, way: Way) -> None:
            # The first after a reconnection may be called back already; more back channels help nobody.
            if not await bind(channel, way, session.id, back=False, timeout=self.settings.timeout):
                session.end("the server does not know the session any more")
                raise ConnectionError("a stream for a session that is gone")

        return bind_way

    # Staying up

    async def session(self, deadline: float) -> Session:
        """A session that works, connecting if need be. FsError when none is there in time."""
        session = self._recovered
        if session is not None and session.alive:
            return session
        while True:
            await self._wait_up(deadline)
            session = self._recovered
            if session is not None and session.alive:
                return session

    async def _reconnect(self, session: Session, deadline: float) -> None:
        """For calls that were under way in `session` when its connection was lost."""
        if not session.alive:
            raise SessionGone("the session is gone", sent=False)
        if asyncio.current_task() is self._attempt or session is not self._recovered:
            # Recovery runs over this very connection: the next attempt goes on with it.
            raise ConnectionError("the connection was lost again")
        await self._wait_up(deadline)

    async def _wait_up(self, deadline: float) -> None:
        """Until an attempt to come up has succeeded."""
        if self._closed:
            raise FsError(Status.DISCONNECTED, "the file system was closed")
        loop = asyncio.get_running_loop()
        now = loop.time()
        if self._down_since is None:
            self._down_since = now
        patience = self._down_since + self.settings.timeout
        if now >= patience and self._failed is not None and now < self._not_before:
            raise self._failure()
        deadline = min(deadline, max(patience, now + _LEAST_WAIT_S))
        while True:
            if self._attempt is None:
                self._attempt = loop.create_task(self._attempt_once())
                # Those who waited may all have given up by the time that it fails.
                self._attempt.add_done_callback(lambda task: task.cancelled() or task.exception())
            attempt = self._attempt
            done, _ = await asyncio.wait((attempt,), timeout=max(0.0, deadline - loop.time()))
            if not done:
                raise self._failure()
            if attempt.cancelled():
                raise FsError(Status.DISCONNECTED, "the file system was closed")
            error = attempt.exception()
            if error is None:
                return
            if not isinstance(error, ConnectError):
                raise error
            if error.problem in _PERMANENT or loop.time() >= deadline:
                raise self._failure()

    def _failure(self) -> FsError:
        last = self._failed
        if last is None:
            return FsError(Status.DISCONNECTED, self.settings.host)
        return FsError(_PERMANENT.get(last.problem, Status.DISCONNECTED), str(last))

    async def _attempt_once(self) -> None:
        """One attempt for all who wait, not too soon after the last one."""
        loop = asyncio.get_running_loop()
        try:
            if (pause := self._not_before - loop.time()) > 0:
                await asyncio.sleep(pause)
            await self.open()
        except ConnectError as error:
            if self._delay == 0:
                _log.warning("cannot connect: %s", error)
            self._failed = error
            self._delay = min(_LONGEST_DELAY_S, self._delay * 2 or _FIRST_DELAY_S)
            self._not_before = loop.time() + self._delay
            raise
        finally:
            self._attempt = None

    @property
    def leased(self) -> bool:
        """Whether the server has heard of us lately enough to keep all that we hold (RFC 8881 §8.3)."""
        session = self._recovered
        return (
            session is not None
            and session.alive
            and asyncio.get_running_loop().time() < session.used_at + self._lease
        )

    def keep_alive(self, lease: float) -> None:
        """From now on the lease is renewed when nothing else does it (RFC 8881 §8.3)."""
        self._lease = lease
        if self._renewing is not None:
            self._renewing.cancel()
        self._renewing = asyncio.get_running_loop().create_task(self._renew(max(lease, 3.0) / 3))

    async def _renew(self, interval: float) -> None:
        loop = asyncio.get_running_loop()
        while True:
            session = self._recovered
            used = session.used_at if session is not None else 0.0
            await asyncio.sleep(max(0.1, used + interval - loop.time()))
            if session is not self._recovered or (session is not None and session.used_at > used):
                continue
            try:
                await self.compound((), "the lease", deadline=loop.time() + interval)
            except FsError as error:
                _log.debug("renewing the lease: %s", error)
                await asyncio.sleep(interval)

    def _heed(self, flags: int) -> None:
        if flags & STATE_FLAGS:
            self._on_state_flags(flags)
        if flags & _BACK_FLAGS:
            _log.debug("the server cannot call back (flags %#x)", flags)

    # Calls

    async def compound(
        self,
        operations: Sequence[Operation],
        what: str,
        *,
        cache: bool = False,
        again: bool = True,
        deadline: float | None = None,
        credential: Credential | None = None,
        orphaned: Orphaned | None = None,
    ) -> list[Any]:
        """The values of all results; CompoundFailed for the operation that failed, FsError when there is no answer.

        A server that is busy, or in grace, is asked again until the deadline. When the session is lost under the
        call, it is made once more in a new one, if `again` says that doing it twice does no harm, or if the server
        cannot have done it.
        """
        if deadline is None:
            deadline = asyncio.get_running_loop().time() + self.settings.timeout
        for _ in range(_MOST_EXPIRED):
            sight = self._observe(operations)
            try:
                values = await self._until_done(
                    operations, what, cache, again, deadline, credential, orphaned
                )
            except CompoundFailed as failed:
                if sight is not None:
                    sight.failed(failed)
                found = await self._with_new_handle(operations, failed)
                if found is None:
                    raise
                operations = found
                continue
            except BaseException:
                if sight is not None:
                    sight.lost()
                raise
            if sight is not None:
                sight.done(values)
            return values
        raise FsError(Status.STALE, f"{what}: its file handles expire again and again")

    async def _with_new_handle(
        self, operations: Sequence[Operation], failed: CompoundFailed
    ) -> list[Operation] | None:
        """The same operations, after one of their file handles has expired (RFC 8881 §4.2.3) and the object was found
        under another; None if that is not it. No operation with an effect came before: the handles come first."""
        if failed.status is not Stat.FHEXPIRED or not failed.results:
            return None
        op, args = operations[failed.index]
        if op is not Op.PUTFH or any(result.op in _ONCE for result in failed.results):
            return None
        old = args.object  # type: ignore[union-attr]
        new = await self._find_again(old)
        if new is None:
            return None
        renewed: Operation = (Op.PUTFH, PutfhArgs(new))
        return [
            renewed if each[0] is Op.PUTFH and each[1].object == old else each  # type: ignore[union-attr]
            for each in operations
        ]

    async def _until_done(
        self,
        operations: Sequence[Operation],
        what: str,
        cache: bool,
        again: bool,
        deadline: float,
        credential: Credential | None,
        orphaned: Orphaned | None,
    ) -> list[Any]:
        while True:
            session = self._recovered
            if session is None or not session.alive:
                session = await self.session(deadline)
            try:
                return await self.through(
                    session,
                    operations,
                    what,
                    cache=cache,
                    deadline=deadline,
                    credential=credential,
                    orphaned=orphaned,
                )
            except SessionGone as gone:
                if gone.sent and not again:
                    sentence = f"{what}: the server lost its memory during the call, which may have been done"
                    raise FsError(Status.DISCONNECTED, sentence) from gone
                _log.info("%s: %s", self.settings.host, gone)
            except NfsProtocolError as error:
                raise FsError(Status.IO, f"{what}: {error}") from error
            except ConnectionError as error:
                raise FsError(Status.DISCONNECTED, f"{what}: {error}") from error

    async def through(
        self,
        session: Session,
        operations: Sequence[Operation],
        what: str,
        *,
        deadline: float,
        cache: bool = False,
        credential: Credential | None = None,
        orphaned: Orphaned | None = None,
    ) -> list[Any]:
        """As `compound`, in this session and no other: for recovery."""
        loop = asyncio.get_running_loop()
        delay = _BUSY_FIRST_S
        grace_ends = loop.time() + self._lease + _GRACE_S
        while True:
            reply = await session.call(
                operations, deadline=deadline, cache=cache, credential=credential, orphaned=orphaned
            )
            if not reply.status:
                return [result.value for result in reply.results]
            if reply.status is Stat.GRACE and loop.time() < grace_ends:
                # It waits for its clients of before (§8.4.2.1), and says so: it is not away.
                deadline = max(deadline, loop.time() + delay + _BUSY_LONGEST_S)
            if (
                reply.status not in _BUSY
                or loop.time() + delay > deadline
                or any(result.op in _ONCE for result in reply.results[:-1])
            ):
                raise CompoundFailed(reply.status, reply.results, what)
            await asyncio.sleep(delay)
            delay = min(2 * delay, _BUSY_LONGEST_S)

    async def run(self, operations: Sequence[Operation], what: str, **options: Any) -> list[Any]:
        """As `compound`; what fails is an FsError that names `what`."""
        try:
            return await self.compound(operations, what, **options)
        except CompoundFailed as failed:
            raise fs_error(failed, what) from failed

    def spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Something to be done that nobody need wait for."""
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._done)
        return task

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            level = logging.INFO if isinstance(error, FsError) else logging.ERROR
            _log.log(level, "%s: %r", self.settings.host, error)

    # The end

    async def aclose(self) -> None:
        self._closed = True
        tasks = [task for task in (self._attempt, self._renewing, *self._tasks) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        session, channel = self._session, self._channel
        if session is not None:
            await session.aclose()
        if channel is not None:
            if channel.alive and session is not None and self._client is not None:
                await self._leave(channel, session, self._client)
            await channel.aclose()

    async def _leave(self, channel: Channel, session: Session, client: ClientId) -> None:
        """DESTROY_SESSION and DESTROY_CLIENTID: the server need not wait for the lease to run out."""
        channel.unbind()
        try:
            way = await channel.first()
            destroy = (Op.DESTROY_SESSION, DestroySessionArgs(session.id))
            await channel.compound(way, [destroy], timeout=_CLOSE_S)
            forget = (Op.DESTROY_CLIENTID, DestroyClientidArgs(client.id))
            await channel.compound(way, [forget], timeout=_CLOSE_S)
        except (ConnectionError, TimeoutError, CompoundFailed, NfsProtocolError) as error:
            _log.debug("leaving %s: %s", self.settings.host, error)
