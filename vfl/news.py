"""Lines for the person at this party that say to programs, too, what they are about."""

from contextvars import ContextVar
from dataclasses import dataclass
from typing import Literal

RUN_DIGITS = 12
"""Hexadecimal digits of a run's name, in ledgers and logs; the first six are in its models' names."""
Event = Literal[
    "asked",  # a peer asks for a job
    "connection",  # a connection broke, or is back
    "dialling",
    "done",  # a job of a party that serves ended as it should
    "ended",  # it ended otherwise: refused, stopped, lost
    "failed",  # the command ends with an error
    "fault",  # an error of this party, which goes on
    "interrupted",
    "listening",
    "news",  # anything else
    "note",
    "progress",
    "warning",
]


class News(str):
    """A line, and what kind of event it tells of."""

    event: Event
    peer: str | None  # whom it is about, if one alone
    exit_code: int | None  # of a command that ends with it
    work: "Work | None"  # that it ended, if another than the present one

    def __new__(
        cls,
        line: str,
        event: Event,
        peer: str | None = None,
        exit_code: int | None = None,
        work: "Work | None" = None,
    ) -> "News":
        made = super().__new__(cls, line)
        made.event, made.peer, made.exit_code, made.work = event, peer, exit_code, work
        return made


@dataclass
class Work:
    """A task, which model or alignment it is about, and its run, once they are known."""

    task: str
    job: str | None = None
    run: str | None = None  # hexadecimal digits, as ledgers have them


_ENDED = "vfl_ended"  # an attribute of errors


def ended_by(error: BaseException, work: Work | None) -> None:
    """Note which work an error has ended, for who tells of it later."""
    vars(error).setdefault(_ENDED, work)


def work_ended_by(error: BaseException) -> Work | None:
    """The work that an error has ended, if it is known."""
    work = vars(error).get(_ENDED)
    return work if isinstance(work, Work) else None


WORK: ContextVar[Work | None] = ContextVar("WORK", default=None)
"""Of the caller's thread or coroutine."""
