"""A progress bar of a fit."""

import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from importlib.util import find_spec

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from vfl.errors import ConfigError
from vfl.estimators.parameters import shown
from vfl.models.kind import AnyKind, TrainingStep
from vfl.simulate import StepProgress

_PATIENCE = 1.0  # seconds before there is a bar: most fits are over by then


@contextmanager
def watch(asked: object, default: object, name: str, kind: type[AnyKind]) -> Iterator[StepProgress]:
    """What to tell of each step: a function, a bar, or nobody.

    asked, default: as given to fit and to the constructor; True is a bar, None one where a person looks
    on. Raises ConfigError for anything else.
    """
    wanted = default if asked is None else asked
    if callable(wanted):
        yield wanted
        return
    if wanted is not None and not isinstance(wanted, bool):
        raise ConfigError(f"progress must be True, False, None or a function, not {shown(wanted)}")
    if wanted is False or (wanted is None and not _looked_at()):
        yield lambda step: None
        return
    with ExitStack() as stack:
        yield _Bar(name, kind, stack, 0.0 if wanted else _PATIENCE)


def _looked_at() -> bool:
    """Whether this is a session at a prompt or in a notebook that can show a bar in place."""
    if not hasattr(sys, "ps1"):
        return False
    console = Console(stderr=True)
    return find_spec("ipywidgets") is not None if console.is_jupyter else console.is_terminal


class _Bar:
    """Told of each tree or iteration; there is no bar for a fit that is over before it is due."""

    def __init__(self, name: str, kind: type[AnyKind], stack: ExitStack, patience: float) -> None:
        self._name, self._kind, self._stack = name, kind, stack
        self._due = time.monotonic() + patience
        self._bar: Progress | None = None

    def __call__(self, step: TrainingStep) -> None:
        if self._bar is None:
            if time.monotonic() < self._due:
                return
            self._bar = self._stack.enter_context(_progress())
            self._bar.add_task(self._name, total=None, news="")
        news, done, of = self._kind.news(step)
        self._bar.update(self._bar.task_ids[0], completed=done, total=of, news=news)


def _progress() -> Progress:
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[news]}"),
    )
    return Progress(*columns, console=Console(stderr=True), transient=True)
