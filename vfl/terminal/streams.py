"""stdout and stderr, which take any text and outlive their readers.

A reader may go away (`| head`), a disk may be full, a stream may be closed from the start, a terminal
may not have all characters. None of these ends a job: what could not be written of a result is known at
the end, when the exit code says so. News that could not be written are counted, and those that follow
are written again as soon as there is room: a service outlives a full disk, and so does its log.
"""

import errno
import io
import json
import math
import os
import stat
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Literal, TextIO

from vfl.terminal.backlog import Backlog
from vfl.text import counted, shown, shown_in

if TYPE_CHECKING:
    from vfl.terminal.log import JsonLog

_MOST = 4000  # characters of a line


class Stream:
    """A stream of this process. It is looked up at every use: tests and callers replace it."""

    def __init__(self, name: Literal["stdout", "stderr"]) -> None:
        self._name = name
        self._missed, self._why = 0, ""
        self._backlog: Backlog | None = None
        self._log: JsonLog | None = None
        self._end_log: Callable[[], None] = lambda: None
        self.left = False
        """Whether nobody reads it any more: its reader went away, or it was closed from the start."""
        self.failure: OSError | None = None
        """Why what was written did not arrive, where somebody waits for it."""
        self.beginning = ""
        """The first line that was written: a result begins with what it is called."""

    def start(self) -> None:
        """Forget what happened to an earlier command of this process."""
        self.left, self.failure, self.beginning = self._file is None, None, ""
        self._missed = 0
        self.log_as("text")
        if isinstance(self._file, io.TextIOWrapper):
            self._file.reconfigure(errors="backslashreplace")
        with suppress(OSError, ValueError):  # it has no descriptor
            # A parent that shares it may have set it so; half of a line would be lost when it is full.
            os.set_blocking(self.fileno(), True)

    def log_as(self, kind: str) -> None:
        """Have each line written as an object, where the kind is "json", or as it is."""
        self._end_log()
        self._log, self._end_log = None, lambda: None
        if kind == "json":
            from vfl.terminal.log import JsonLog, hear_python

            self._log, self._end_log = JsonLog(), hear_python(lambda line: self.put(line))

    @property
    def logs_json(self) -> bool:
        """Whether lines are written as objects."""
        return self._log is not None

    def name_party(self, name: str) -> None:
        """Whose command it is, for the log."""
        if self._log is not None:
            self._log.party = name

    def put(self, *lines: str) -> None:
        """Write lines. What is no plain text in one is escaped: it cannot become two lines."""
        for line in lines:
            self.write(f"{self._written(line)}\n")

    def _written(self, line: str) -> str:
        return self.line(line) if self._log is None else self._log.line(line, self.line)

    def line(self, text: str) -> str:
        """A line of plain text that the stream can take."""
        return shown_in(shown(text, _MOST), self.encoding)

    def write(self, text: str) -> int:
        """Write text as it is."""
        file = self._file
        self.beginning = self.beginning or text.partition("\n")[0]
        if file is None or self.left or self.failure is not None:
            return len(text)
        if self._backlog is not None:
            self._backlog.put(text)
            return len(text)
        try:
            if self._missed:
                lacks = f"note: {counted(self._missed, 'line')} could not be written ({self._why})"
                file.write(f"{self._written(lacks)}\n")
                self._missed = 0
            file.write(text)
        except OSError as error:
            self._lose(error, text)
        except ValueError:  # closed meanwhile
            self.left = True
        return len(text)

    def flush(self) -> None:
        """Hand on what was written."""
        file = self._file
        if file is None or self.left or self.failure is not None or self._backlog is not None:
            return
        try:
            file.flush()
        except OSError as error:
            self._lose(error)
        except ValueError:
            self.left = True

    @contextmanager
    def not_waiting(self, seconds: float = math.inf) -> Iterator[None]:
        """Within the block nobody who writes waits for a reader (backlog.py).

        At its end the reader has so many seconds to take what waits. A file has no reader: it gets each
        line at once, and all of them.
        """
        if self.left or self._backlog is not None or not self._has_reader():
            yield
            return
        self.flush()

        def gone() -> None:
            if self._backlog is backlog:  # else it speaks of what the stream was before
                self._lose(BrokenPipeError(errno.EPIPE, os.strerror(errno.EPIPE)))

        self._backlog = backlog = Backlog(self.fileno(), self.encoding, gone, self._written)
        written = False
        try:
            yield
        finally:
            self._backlog = None
            try:
                written = backlog.close(seconds)
            finally:
                self.left = self.left or not written

    def _has_reader(self) -> bool:
        with suppress(OSError, ValueError):
            mode = os.fstat(self.fileno()).st_mode
            return stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode) or self.isatty()
        return False

    def isatty(self) -> bool:
        """Whether a person sees it."""
        file = self._file
        with suppress(ValueError):
            return file is not None and not self.left and file.isatty()
        return False

    def fileno(self) -> int:
        """Raises OSError for a stream that has none."""
        if self._file is None:
            raise OSError(errno.EBADF, os.strerror(errno.EBADF))
        return int(self._file.fileno())

    @property
    def encoding(self) -> str:
        return getattr(self._file, "encoding", None) or "utf-8"

    @property
    def _file(self) -> TextIO | None:
        file: TextIO | None = getattr(sys, self._name)
        return file

    def _lose(self, error: OSError, text: str = "") -> None:
        """Write no more of a result that will not be whole; what lies in buffers must not fail again
        when the process ends.
        """
        if error.errno in (errno.EPIPE, errno.EBADF):
            self.left = True
        elif self._name == "stderr":
            self._missed, self._why = self._missed + text.count("\n"), error.strerror or ""
            return
        else:
            self.failure = error
        with suppress(OSError, ValueError):
            descriptor = self.fileno()
            nothing = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nothing, descriptor)
            os.close(nothing)


stdout = Stream("stdout")
stderr = Stream("stderr")


def open_closed() -> None:
    """Put /dev/null where the process was started without stdin, stdout or stderr.

    Else the next file that is opened, such as a ledger, takes the place and gets what is written there.
    """
    for descriptor in (0, 1, 2):
        try:
            os.fstat(descriptor)
        except OSError:
            with suppress(OSError):
                os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free: this one


def put_json(result: Mapping[str, object]) -> None:
    """Write a result as one JSON object, in ASCII. Numbers that JSON has not are null."""
    stdout.write(json.dumps(finite(result), allow_nan=False) + "\n")


def finite(value: object) -> object:
    """The value with None in place of numbers that are not finite."""
    if isinstance(value, dict):
        return {key: finite(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [finite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
