"""Lines of stderr as JSON, one object a line, for programs that gather logs."""

import json
import sys
import threading
import warnings
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TextIO

from vfl.errors import ConfigError, fault
from vfl.news import WORK, Event, News

VARIABLE = "VFL_LOG"
FORMATS = ("text", "json")
_BY_FIRST_WORD: dict[str, Event] = {"note": "note", "warning": "warning", "error": "fault"}
_LEVELS: dict[Event, str] = {
    **dict.fromkeys(("failed", "fault"), "error"),
    **dict.fromkeys(("connection", "ended", "interrupted", "warning"), "warning"),
}


class JsonLog:
    """Makes an object of a line. `party`: whose command it is, once that is known."""

    party: str | None = None

    def line(self, text: str, plain: Callable[[str], str]) -> str:
        """One object, in ASCII. `plain` makes text of a line that holds nothing but text."""
        event: Event = text.event if isinstance(text, News) else _event_of(text)
        ended = text.work if isinstance(text, News) else None
        work = ended or WORK.get()
        record: dict[str, str | int | None] = {
            "time": datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "level": _LEVELS.get(event, "info"),
            "party": self.party,
            "event": event,
            "task": work.task if work else None,
            "job": work.job if work else None,
            "run": work.run if work else None,
            "peer": text.peer if isinstance(text, News) else None,
            "message": plain(text),
        }
        if isinstance(text, News) and text.exit_code is not None:
            record["exit_code"] = text.exit_code
        return json.dumps(record)


def _event_of(line: str) -> Event:
    """Of a line that does not say itself what it is: its first word does, for people."""
    return _BY_FIRST_WORD.get(line.partition(": ")[0], "news")


def wanted_format(arguments: Sequence[str], variable: str | None) -> str:
    """How a command line wants its log, before anything else of it is read; else the variable's value.

    Raises ConfigError for a variable of another value.
    """
    for word, value in zip(arguments, [*arguments[1:], ""], strict=False):
        given = value if word == "--log" else word.removeprefix("--log=")
        if word.startswith("--log") and given in FORMATS:
            return given
    if variable and variable not in FORMATS:
        raise ConfigError(f"{VARIABLE} must be {' or '.join(FORMATS)}")
    return variable or "text"


def hear_python(put: Callable[[str], None]) -> Callable[[], None]:
    """Have what Python itself writes to stderr put as lines: warnings, errors of threads. Without their
    texts, which may quote a value. Returns what ends that."""
    before = warnings.showwarning, threading.excepthook, sys.unraisablehook

    def warn(
        message: Warning | str,
        category: type[Warning],
        filename: str,
        lineno: int,
        file: TextIO | None = None,
        line: str | None = None,
    ) -> None:
        put(News(f"warning: {category.__name__} at {Path(filename).name}:{lineno}", "warning"))

    def fail(error: BaseException | None) -> None:
        if error is not None:
            put(News(f"error: {fault(error)}", "fault"))

    warnings.showwarning = warn
    threading.excepthook = lambda raised: fail(raised.exc_value)
    sys.unraisablehook = lambda raised: fail(raised.exc_value)

    def end() -> None:
        warnings.showwarning, threading.excepthook, sys.unraisablehook = before

    return end
