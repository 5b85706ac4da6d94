"""What a job tells while it works: lines on stderr, and on a terminal one bar with the time left."""

import contextlib
import math
import os
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from vfl.news import News
from vfl.terminal.streams import stderr
from vfl.terminal.time_left import TimeLeft, rounded
from vfl.text import how_far, waits

if TYPE_CHECKING:
    from rich.progress import TaskID

_LOG_SECONDS = 30.0
_LEAVING = 2.0  # for a service's last lines to be read
_TELLING = 1.0  # seconds of a step from which the time left can be told


class ProgressDisplay:
    """The show of a command. With `times` its lines begin with the time where no terminal is."""

    def __init__(self, times: bool = False) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

        self._console = Console(
            file=stderr,  # type: ignore[arg-type]
            stderr=True,
            highlight=False,
            markup=False,
            emoji=False,
            soft_wrap=True,
        )
        self.bar = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            TextColumn("{task.fields[count]}", markup=False),
            TimeElapsedColumn(),
            console=self._console,
            disable=stderr.logs_json or not self._console.is_terminal,
            transient=True,
            redirect_stdout=False,  # they would be read back from the streams that it writes to
            redirect_stderr=False,
        )
        self._times = times and self.bar.disable and not (stderr.logs_json or _in_journal())
        self._step: tuple[str, TaskID | None] = ("", None)
        self._started = self._said = time.monotonic()
        self._done = 0  # of the step
        self._left = TimeLeft(self._started, 0)

    def say(self, line: str) -> None:
        """Print a line."""
        from rich.text import Text

        if not self.bar.disable:
            self._console.print(Text(stderr.line(line)), soft_wrap=True)
            return
        stderr.put(f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ} {line}" if self._times else line)
        stderr.flush()

    def progress(self, what: str, done: int, of: int | None) -> None:
        """Move the bar; another step, or the same of another job, starts a new one."""
        kind, now = what.partition(",")[0], time.monotonic()
        if self._step[0] != kind or done < self._done:
            self._started, self._left = now, TimeLeft(now, done)
            if self._step[1] is not None:
                self.bar.remove_task(self._step[1])
            self._step = (kind, self.bar.add_task("", total=None, count=""))
        task, self._done = self._step[1], done
        count = how_far(what, done, of)
        # Of a step that waits the bar has the time that passed already, and nobody knows how long still.
        left = None if of is None or waits(what) else self._left.seconds(now, done, of)
        if left is not None and now - self._started >= _TELLING:
            count += f", about {rounded(left):,} s left"
        if task is not None:
            beside = f"of {of:,} s at most" if waits(what) and of is not None else count
            self.bar.update(task, description=stderr.line(what), completed=done, total=of, count=beside)
        if self.bar.disable and now - self._said >= _LOG_SECONDS and done and done != of:
            # No terminal: a line now and then, for the log.
            self._said = now
            self.say(News(f"{what}: {count}", "progress"))


@contextlib.contextmanager
def show_progress(times: bool = False) -> Iterator[ProgressDisplay]:
    """The show of a command for as long as it works: no job waits for a reader of its news.

    A service, whose news have `times`, does not wait for one at its end either.
    """
    from vfl.jobs.compiling import announce_compiling

    with stderr.not_waiting(_LEAVING if times else math.inf):
        display = ProgressDisplay(times)
        with display.bar, announce_compiling(display.say):
            yield display


def _in_journal() -> bool:
    """Whether stderr goes to the journal of systemd, which has times of its own."""
    try:
        found = os.fstat(stderr.fileno())
    except OSError:
        return False
    return os.environ.get("JOURNAL_STREAM") == f"{found.st_dev}:{found.st_ino}"
