"""What a host counts of lookups: by the minute in its process, by the day in files of its store."""

import asyncio
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from weakref import WeakKeyDictionary

from vfl.errors import DayIsFull, Refused
from vfl.jobs.connect import Site
from vfl.jobs.offer import Approved
from vfl.party.approval_uses import ApprovalOver, ApprovalUses
from vfl.party.config_values import Limit
from vfl.party.policy import check_rate, limit_breach, today
from vfl.party.policy_section import PolicySection
from vfl.protocols.common.checkpoints import to_the_end
from vfl.text import counted

_MINUTE = 60.0
ROWS_AHEAD = 500  # lookups that are counted ahead, so that files are not written for each
_TOGETHER = 1.0  # seconds: lookups of a moment are counted as one, so that there are few

CountOfDay = Callable[[int, date], None]
"""Counts so many on a day, or takes them back where they are fewer than none. Raises DayIsFull."""


@dataclass
class Day:
    """What all sessions of this process take of a count by the day; the store's file counts for all
    processes. `more` at a time are counted ahead, so that the file is not written for each. Not
    `by_day`: of a count that goes on from day to day."""

    more: int
    by_day: bool = True
    ahead: int = 0
    day: date = date.min  # on which these were counted
    sessions: int = 0
    turn: asyncio.Lock = field(default_factory=asyncio.Lock)

    def begin(self) -> None:
        """A session begins that will take of it."""
        self.sessions += 1

    async def take(self, count: CountOfDay, many: int) -> None:
        """Count before it is done. Raises DayIsFull."""
        async with self.turn:
            self._begin_day()
            if self.ahead < many:
                missing = many - self.ahead
                try:
                    await self._count(count, missing + self.more)
                    self.ahead += missing + self.more
                except DayIsFull:  # the last of the day are counted one by one
                    await self._count(count, missing)
                    self.ahead += missing
            self.ahead -= many

    async def give_back(self, many: int) -> None:
        """What was taken and not done."""
        async with self.turn:
            self.ahead += many

    async def end(self, count: CountOfDay) -> None:
        """A session ends. With the last one what was counted ahead today is given back."""
        async with self.turn:
            self.sessions -= 1
            self._begin_day()
            if self.ahead and not self.sessions:
                ahead, self.ahead = self.ahead, 0
                # In no thread: where the whole process ends, one that has not begun never does.
                count(-ahead, self.day)

    def _begin_day(self) -> None:
        """What was counted ahead on another day is of no use on this one."""
        if (on := today()) != self.day:
            self.day, self.ahead = on, 0 if self.by_day else self.ahead

    async def _count(self, count: CountOfDay, many: int) -> None:
        await to_the_end(count, many, self.day)


@dataclass
class Taken:
    """Lookups of a moment."""

    first: float
    last: float
    many: int


class Rates:
    """How many lookups each guest had in the last minute, over all of its sessions with this process."""

    def __init__(self) -> None:
        self._taken: dict[str, deque[Taken]] = {}

    def take(self, policy: PolicySection, guest: str, points: int) -> Taken:
        """Count lookups; with which they are counted. Raises RateIsFull where they would be too many,
        and then counts nothing."""
        now, taken = time.monotonic(), self._taken.setdefault(guest, deque())
        while taken and taken[0].last <= now - _MINUTE:
            taken.popleft()
        oldest = taken[0].last if taken else now
        check_rate(policy, sum(one.many for one in taken) + points, oldest + _MINUTE - now)
        if not taken or now - taken[-1].first >= _TOGETHER:
            taken.append(Taken(now, now, 0))
        taken[-1].last = now
        taken[-1].many += points
        return taken[-1]


class ApprovedLookups:
    """What the sessions of a guest take of the approval under which they look up rows of a model."""

    def __init__(self, site: Site, subject: str, approved: Approved) -> None:
        """subject: what was approved, by `approval.subject_of`."""
        self._policy, self._uses = site.party.policy, ApprovalUses(site.store)
        self._subject, self._decided = subject, approved.decided
        whose = f"{subject} {approved.decided}"
        self._taken = day_of(site, "approved", whose, ROWS_AHEAD, by_day=False)

    def begin(self) -> None:
        """A session begins."""
        self._taken.begin()

    def check(self) -> None:
        """Raises ApprovalOver for an approval that is too old."""
        days = self._policy.approved_lookup_days
        if is_old(self._decided, days):
            raise self._over(f"looking up under the approval of {self._decided}", "approved_lookup_days")

    async def take(self, points: int) -> None:
        """Count lookups before they are answered. Raises ApprovalOver for the first for which there is
        no room: after it a person is asked."""
        try:
            await self._taken.take(self._count, points)
        except DayIsFull:
            await to_the_end(self._uses.end, self._subject, self._decided)
            what = f"{counted(points, 'more lookup')} under the approval of {self._decided}"
            raise self._over(what, "max_approved_lookups") from None

    async def give_back(self, points: int) -> None:
        """Of what was taken so many were not answered."""
        await self._taken.give_back(points)

    async def end(self) -> None:
        """A session ends."""
        await self._taken.end(self._count)

    def _count(self, many: int, on: date) -> None:
        self._uses.count(self._subject, self._decided, many, self._policy.max_approved_lookups)

    def _over(self, what: str, rule: str) -> ApprovalOver:
        return ApprovalOver(Refused(limit_breach(what, self._policy, rule)))


def is_old(decided: str, days: Limit) -> bool:
    """Whether an approval of lookups, given then, holds no more."""
    if isinstance(days, str):
        return False
    return datetime.now(UTC) - datetime.fromisoformat(decided) >= timedelta(days)


_days: WeakKeyDictionary[asyncio.AbstractEventLoop, dict[tuple[str, str, str], Day]] = (
    WeakKeyDictionary()
)
_rates: dict[str, Rates] = {}


def rates_of(site: Site) -> Rates:
    """Those of a party: only one process serves from a store."""
    return _rates.setdefault(str(site.store.root), Rates())


def day_of(site: Site, what: str, whose: str, more: int, *, by_day: bool = True) -> Day:
    """What the sessions of a party take of one count: what is counted, of whom."""
    days = _days.setdefault(asyncio.get_running_loop(), {})
    return days.setdefault((str(site.store.root), what, whose), Day(more, by_day))
