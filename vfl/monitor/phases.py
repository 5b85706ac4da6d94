"""The phases of a job: how long each takes."""

from dataclasses import dataclass

from vfl.jobs.activity import JobNow

PREPARING, ENDING, OTHER = "preparing", "ending", "other"
_PHASES = {
    "adding up totals": "adding up",
    "blinding ids": "matching",
    "choosing alpha": "choosing alpha",
    "comparing samples": "matching",
    "evaluating own ids": "matching",
    "fetching": "fetching",
    "fitting": "training",
    "gradient": "training",
    "making a hint": "hints",
    "matching ids": "matching",
    "opening sums": "opening sums",
    "receiving hints": "hints",
    "receiving the common rows": "matching",
    "receiving the store": "matching",
    "replaying": "replaying",
    "scoring": "scoring",
    "sealing rows": "sealing",
    "searching": "searching",
    "sorting own ids": "matching",
    "standard errors": "inference",
    "training": "training",
    "trying ways to write ids": "matching",
    "variance inflation": "inference",
    "waiting for a person's approval": "waiting for approval",
    "waiting for approval": "waiting for approval",
}
"""By how a step begins; names of jobs and of other parties stand behind it, or before a colon."""

PHASES = (PREPARING, *dict.fromkeys(_PHASES.values()), OTHER, ENDING)


def phase_of(step: str) -> str:
    """Which phase a step belongs to, one of PHASES."""
    text = step.partition(": ")[2] or step
    return next((phase for start, phase in _PHASES.items() if text.startswith(start)), OTHER)


@dataclass(frozen=True)
class Span:
    """A phase from when to when, in seconds of the clock that was used."""

    phase: str
    start: float
    end: float


class PhaseClock:
    """Where a job's time went. A step is told when a part of it is done: the time before is its own."""

    def __init__(self, now: float) -> None:
        self._phase, self._since, self._last = PREPARING, now, now

    def mark(self, now: float) -> None:
        """Whatever comes next begins now."""
        self._last = now

    def move(self, job: JobNow, now: float) -> Span | None:
        """The job's present step; returns the phase that is over with it, if one is."""
        phase, over = phase_of(job.step), None
        if phase != self._phase:
            boundary = now if not job.done else self._last
            over = Span(self._phase, self._since, boundary)
            self._phase, self._since = phase, boundary
        self._last = now
        return over

    def end(self, now: float) -> list[Span]:
        """The phases that were not over yet."""
        if self._phase == PREPARING:
            return [Span(PREPARING, self._since, now)]
        return [Span(self._phase, self._since, self._last), Span(ENDING, self._last, now)]
