"""What is under way in one packet number space, remembered as runs of packets.

A run is a train, or the part of it that shares one send time and one contiguous range of one stream.
Runs are cut only where an acknowledgement or a loss cuts them, so that the cost of an ACK depends on the
number of trains and not of packets.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from quicfs.transport import limits
from quicfs.transport.errors import ProtocolViolation, TransportErrorCode
from quicfs.transport.stream import Stream

if TYPE_CHECKING:
    from quicfs.transport.path import CongestionState

Record = tuple[int, Any]
"""A frame that was sent: its type, and what `frame_ops` needs to know when it is acknowledged or lost."""


class StreamRange(NamedTuple):
    """What a run carried of a stream: packet i holds `[offset + i*step, offset + (i+1)*step)` up to `stop`."""

    stream: Stream
    offset: int
    stop: int
    step: int
    fin: bool


class SentRun:
    """Packets `first..last`, sent at one time."""

    __slots__ = (
        "bulk",
        "congestion",
        "eliciting",
        "first",
        "in_flight",
        "last",
        "last_size",
        "marked",
        "mtu_probe",
        "packet_size",
        "records",
        "time",
    )

    def __init__(
        self,
        first: int,
        last: int,
        time: float,
        packet_size: int,
        last_size: int,
        *,
        eliciting: bool,
        in_flight: bool,
        records: Sequence[Record] = (),
        bulk: StreamRange | None = None,
        mtu_probe: bool = False,
        marked: bool = False,
    ) -> None:
        self.first = first
        self.last = last
        self.time = time
        self.packet_size = packet_size
        self.last_size = last_size
        self.eliciting = eliciting
        self.in_flight = in_flight
        self.records = records
        self.bulk = bulk
        self.mtu_probe = mtu_probe
        self.marked = marked  # sent with ECT(0)
        self.congestion: CongestionState | None = (
            None  # of the path that it took; None: a probe of another path
        )

    @property
    def count(self) -> int:
        return self.last - self.first + 1

    @property
    def size(self) -> int:
        """Bytes of UDP payload."""
        return (self.last - self.first) * self.packet_size + self.last_size

    def part(self, first: int, last: int) -> SentRun:
        """The packets `first..last` of this run as a run of their own."""
        if first == self.first and last == self.last:
            return self
        bulk = self.bulk
        if bulk is not None:
            start = bulk.offset + (first - self.first) * bulk.step
            stop = min(bulk.stop, bulk.offset + (last + 1 - self.first) * bulk.step)
            bulk = StreamRange(bulk.stream, start, stop, bulk.step, bulk.fin and last == self.last)
        part = SentRun(
            first,
            last,
            self.time,
            self.packet_size,
            self.last_size if last == self.last else self.packet_size,
            eliciting=self.eliciting,
            in_flight=self.in_flight,
            bulk=bulk,
            marked=self.marked,
        )
        part.congestion = self.congestion
        return part


class SentPackets:
    """The runs of one packet number space that are neither acknowledged nor lost, in order."""

    __slots__ = (
        "_ack_only",
        "_firsts",
        "_runs",
        "_skip_period",
        "_skipped",
        "eliciting_in_flight",
        "largest_acked",
        "last_eliciting_at",
        "next_pn",
        "skip_at",
    )

    def __init__(self) -> None:
        self._runs: list[SentRun] = []
        self._firsts: list[int] = []
        self._skipped: list[int] = []  # the newest of the numbers that were never sent
        self._skip_period = limits.MIN_SKIP_PERIOD
        self.next_pn = 0
        self.skip_at = 0  # the number at which `skip` is to be called
        self.largest_acked = -1
        self.last_eliciting_at = 0.0
        self.eliciting_in_flight = 0  # packets
        self._ack_only = 0  # runs that do not count for congestion control, at most

    def __bool__(self) -> bool:
        return bool(self._runs)

    def __iter__(self) -> Iterator[SentRun]:
        return iter(self._runs)

    def add(self, run: SentRun) -> None:
        self._runs.append(run)
        self._firsts.append(run.first)
        self.next_pn = run.last + 1
        if run.eliciting and run.in_flight:
            self.last_eliciting_at = run.time
            self.eliciting_in_flight += run.last - run.first + 1
        elif not run.in_flight:
            self._ack_only += 1
            if self._ack_only > limits.MAX_ACK_ONLY_RUNS:
                self._forget_ack_only()

    def _forget_ack_only(self) -> None:
        """A peer that elicits ACKs and never acknowledges them must not make us remember all of them."""
        firsts = [run.first for run in self._runs if not run.in_flight]
        keep = limits.MAX_ACK_ONLY_RUNS // 2
        self._ack_only = min(len(firsts), keep)
        if len(firsts) > keep:
            oldest = firsts[-keep]
            self._runs = [run for run in self._runs if run.in_flight or run.first >= oldest]
            self._firsts = [run.first for run in self._runs]

    def skip(self, entropy: Callable[[int], bytes]) -> None:
        """Leave out a packet number, and choose where the next one will be: who acknowledges what it has not received
        does not know which it must not acknowledge (RFC 9000 §21.4). The first call only chooses."""
        if self.skip_at:
            self._skipped.append(self.next_pn)
            self.next_pn += 1
            del self._skipped[: -limits.MAX_SKIPPED]
        distance = 1 + int.from_bytes(entropy(4), "big") % (2 * self._skip_period)
        self.skip_at = self.next_pn + distance
        self._skip_period = min(2 * self._skip_period, limits.MAX_SKIP_PERIOD)

    def take_acked(self, ranges: Sequence[tuple[int, int]]) -> list[SentRun]:
        """Remove and return what the closed, descending `ranges` of an ACK newly acknowledge, newest first."""
        largest = ranges[0][1]
        # RFC 9000 §13.1: an ACK of a packet that was never sent -> PROTOCOL_VIOLATION
        if largest >= self.next_pn:
            raise ProtocolViolation(
                TransportErrorCode.PROTOCOL_VIOLATION, "ACK of a packet that was not sent", 0x02
            )
        if self._skipped and largest >= self._skipped[0]:
            self._check_skipped(ranges)
        self.largest_acked = max(self.largest_acked, largest)
        runs = self._runs
        if not runs:
            return []
        oldest = runs[0].first
        count = len(ranges)
        while count and ranges[count - 1][1] < oldest:  # what is known for long stands at the end
            count -= 1
        if not count:
            return []
        stop = bisect_right(self._firsts, ranges[0][1])
        start = max(0, bisect_right(self._firsts, ranges[count - 1][0]) - 1)
        taken = self._cut(start, stop, ranges, count)
        if len(runs) > limits.MAX_TRACKED_RUNS:
            raise ProtocolViolation(
                TransportErrorCode.PROTOCOL_VIOLATION, "ACKs cut the history to pieces", 0x02
            )
        return taken

    def _check_skipped(self, ranges: Sequence[tuple[int, int]]) -> None:
        # RFC 9000 §21.4: an ACK of a number that was left out -> PROTOCOL_VIOLATION
        skipped = self._skipped
        for low, high in ranges:
            if high < skipped[0]:
                return
            index = bisect_left(skipped, low)
            if index < len(skipped) and skipped[index] <= high:
                raise ProtocolViolation(
                    TransportErrorCode.PROTOCOL_VIOLATION, "ACK of a packet that was not sent", 0x02
                )

    def _cut(self, start: int, stop: int, ranges: Sequence[tuple[int, int]], count: int) -> list[SentRun]:
        """Take the first `count` of `ranges` out of the runs `[start, stop)`; both are passed once."""
        kept: list[SentRun] = []
        taken: list[SentRun] = []
        index = count - 1
        for run in self._runs[start:stop]:
            first = run.first
            while True:
                while index >= 0 and ranges[index][1] < first:
                    index -= 1
                if index < 0 or ranges[index][0] > run.last:
                    kept.append(run.part(first, run.last))
                    break
                low, high = ranges[index]
                if low > first:
                    kept.append(run.part(first, low - 1))
                    first = low
                last = min(high, run.last)
                taken.append(run.part(first, last))
                if run.eliciting and run.in_flight:
                    self.eliciting_in_flight -= last + 1 - first
                first = last + 1
                if first > run.last:
                    break
        self._runs[start:stop] = kept
        self._firsts[start:stop] = [run.first for run in kept]
        taken.reverse()
        return taken

    def take_lost(self, threshold_pn: int, sent_before: float) -> tuple[list[SentRun], float | None]:
        """Remove and return the packets below the largest acknowledged one that are lost: those numbered
        `threshold_pn` or less, and those sent at or before `sent_before` (RFC 9002 §6.1).

        The second result is the send time of the oldest one that is not lost yet, to arm the timer.
        """
        lost: list[SentRun] = []
        largest = self.largest_acked
        runs = self._runs
        index = 0
        pending: float | None = None
        for run in runs:
            if run.first > largest:
                break
            if run.time > sent_before:
                if run.first > threshold_pn:
                    pending = run.time
                    break
                if run.last > threshold_pn:
                    keep = run.part(threshold_pn + 1, run.last)
                    run = run.part(run.first, threshold_pn)  # noqa: PLW2901
                    runs[index] = keep
                    self._firsts[index] = keep.first
                    lost.append(run)
                    pending = keep.time if keep.first < largest else None
                    break
            index += 1
            lost.append(run)
        del runs[:index]
        del self._firsts[:index]
        for run in lost:
            if run.eliciting and run.in_flight:
                self.eliciting_in_flight -= run.last - run.first + 1
        return lost, pending

    def oldest_eliciting(self) -> SentRun | None:
        """Of those that carry something; an MTU probe does not."""
        for run in self._runs:
            if run.eliciting and not run.mtu_probe:
                return run
        return None

    def drain(self) -> list[SentRun]:
        """Remove and return everything; the keys of this space are gone."""
        runs = self._runs
        self._runs = []
        self._firsts = []
        self.eliciting_in_flight = 0
        return runs
