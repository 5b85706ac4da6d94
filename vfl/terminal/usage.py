"""The command line's own groups and options: what is wrong with a command is said in our words.

Every failure ends in one line on stderr and its exit code, whatever has become of stdout and stderr.
"""

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from vfl.errors import INTERRUPTED, ConfigError, DataError, VflError, fault, not_installed
from vfl.news import News, Work, work_ended_by
from vfl.terminal.log import VARIABLE, wanted_format
from vfl.terminal.streams import open_closed, stderr, stdout
from vfl.text import MOST, counted, either, shown
from vfl.version import __version__

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

COMPUTING = "vfl-computing"  # the name of threads for which nobody waits
ENDING = [signal.SIGTERM, *([signal.SIGHUP] if hasattr(signal, "SIGHUP") else [])]
"""Signals that end a command as Ctrl-C does."""


class NumberType(click.ParamType):  # type: ignore[type-arg]  # generic in newer versions only
    """A number, or a whole one, with bounds."""

    name = "number"

    def __init__(self, least: float, most: float, whole: bool = False) -> None:
        self._kind: type[int] | type[float] = int if whole else float
        self._least, self._most = least, most

    def convert(
        self, value: str | float, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        """The number. Fails for text that is none, and beyond the bounds."""
        try:
            number = self._kind(value)
        except (ValueError, OverflowError):
            number = None
        if number is None or not self._least <= number <= self._most:
            self.fail(self.words, param, ctx)
        return number

    @property
    def words(self) -> str:
        kind = "a whole number" if self._kind is int else "a number"
        return f"{kind} from {self._least:.10g} to {self._most:.10g}"


class _Helpful(click.Command):
    """Prints its help as everything else is printed, and says of which command an error is."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Raises UsageError, which always knows of which command."""
        try:
            return super().parse_args(ctx, args)
        except click.UsageError as error:
            error.ctx = error.ctx or ctx
            raise

    def get_help_option(self, ctx: click.Context) -> click.Option | None:
        """The option --help."""
        option = super().get_help_option(ctx)
        if option is not None:
            option.callback = _put_help
        return option


def _put_help(ctx: click.Context, param: click.Parameter, value: bool) -> None:
    if value and not ctx.resilient_parsing:
        stdout.write(f"{ctx.get_help()}\n")
        ctx.exit()


def put_version(ctx: click.Context, param: click.Parameter, value: bool) -> None:
    """The callback of the option --version."""
    if value and not ctx.resilient_parsing:
        stdout.write(f"vfl, version {__version__}\n")
        ctx.exit()


class Command(_Helpful):
    """A command that says which words it cannot use."""

    allow_extra_args = True

    def invoke(self, ctx: click.Context) -> object:
        """Run it. Raises ConfigError for arguments too many."""
        if ctx.args:
            many = counted(len(ctx.args), "argument")
            raise ConfigError(f"{many} too many, from '{ctx.args[0]}' on: see {ctx.command_path} --help")
        return super().invoke(ctx)


class CommandGroup(click.Group, _Helpful):
    """Turns every failure into one line and its exit code."""

    command_class = Command
    group_class = type

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Raises ConfigError for a command that there is not."""
        name = args[0]
        known = self.get_command(ctx, name) is not None or name.startswith("-")
        if not known and not ctx.resilient_parsing:  # a shell completes what is there
            raise ConfigError(
                f"'{name}' is no command of {ctx.command_path}{_instead(name, self.list_commands(ctx))}"
            )
        return super().resolve_command(ctx, args)

    def invoke(self, ctx: click.Context) -> object:
        """Run the command that was named."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:  # of which click would make a line of its own
            raise click.Abort from None

    def main(
        self,
        args: Sequence[str] | None = None,
        prog_name: str | None = None,
        complete_var: str | None = None,
        standalone_mode: bool = True,
        **extra: Any,
    ) -> Any:
        """Run the command of a command line and exit."""

        def run() -> object:
            given = sys.argv[1:] if args is None else args
            stderr.log_as(wanted_format(given, os.environ.get(VARIABLE)))
            return super(CommandGroup, self).main(
                args, prog_name or "vfl", complete_var, standalone_mode=False, **extra
            )

        if not standalone_mode:
            return run()
        open_closed()
        stdout.start()
        stderr.start()
        with interrupted_by_signals():
            code = _run_to_code(run)
        stdout.flush()
        if stdout.failure is not None:
            code = code or DataError.exit_code
            line = f"error: stdout cannot be written ({stdout.failure.strerror}); what the command has "
            line += f"made is kept: {shown(stdout.beginning, MOST)}"
            stderr.put(News(line, "failed", exit_code=code))
        stderr.flush()
        sys.exit(code)

    def __call__(self, *args: Any, **extra: Any) -> Any:
        """Run the command of a command line, and end the process."""
        try:
            return self.main(*args, **extra)
        except SystemExit as end:
            if any(thread.name == COMPUTING for thread in threading.enumerate()):
                # Where a thread comes back from compiled code while the interpreter ends, it aborts.
                _give_back()
                os._exit(end.code if isinstance(end.code, int) else 0)
            raise


def _give_back() -> None:
    """Give the semaphores of worker processes back, of which the end of the interpreter would see to it:
    else a process of Python's own says later on stderr that they leaked."""
    if (used := sys.modules.get("multiprocessing.util")) is not None:
        used._run_finalizers()


class FileGroup(CommandGroup):
    """A group whose first word may be a party file: without a command its `default` is meant."""

    default = "list"

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Options before the file are the default's, but that for help."""
        if args and args[0].startswith("-") and args[0] not in ctx.help_option_names:
            args = [self.default, *args]
        return super().parse_args(ctx, args)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """A command that is not named is the default, unless the word is one that was misspelt."""
        word = args[0]
        if word == "delete" and "remove" in self.commands and not Path(word).exists():
            args = ["remove", *args[1:]]
        elif self.get_command(ctx, word) is None and not self._is_misspelt(word):
            args = [self.default, *args]
        return super().resolve_command(ctx, args)

    def shell_complete(self, ctx: click.Context, incomplete: str) -> "list[CompletionItem]":
        """A file beside commands: the first, as bash forgets what stands before it."""
        from click.shell_completion import CompletionItem

        return [CompletionItem(incomplete, type="file"), *super().shell_complete(ctx, incomplete)]

    def _is_misspelt(self, word: str) -> bool:
        from vfl.text import nearest_name

        is_file = Path(word).exists() or bool({*word} & {".", os.sep})
        return not is_file and nearest_name(word, self.commands) is not None


class _Interrupted(KeyboardInterrupt):
    """Not the one of Ctrl-C itself: where that passes through `exec`, as in modules that are imported
    while a command starts, Python ends by SIGINT whatever the exit code was.
    """


@contextlib.contextmanager
def interrupted_by_signals() -> Iterator[None]:
    """SIGTERM, and a terminal that goes away, interrupt the command as Ctrl-C does.

    By default they would end it on the spot, without a word to any peer; process 1 of a container would
    not even hear of them. Who started it with nohup wants it to stay.
    """

    def interrupt(number: int, frame: object) -> None:
        raise _Interrupted

    before = {}
    if threading.current_thread() is threading.main_thread():
        wanted = [number for number in ENDING if signal.getsignal(number) is signal.SIG_DFL]
        before = {number: signal.signal(number, interrupt) for number in wanted}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _run_to_code(run: Callable[[], object]) -> int:
    """The exit code, after one line on stderr about what went wrong."""
    try:
        code = run()
    except VflError as error:
        return _fail(str(error), error.exit_code, work_ended_by(error))
    except click.exceptions.NoArgsIsHelpError as error:
        if stderr.logs_json:
            return _fail("a command is missing: see vfl --help", ConfigError.exit_code)
        stderr.write(f"{error.format_message()}\n")
        return ConfigError.exit_code
    except click.UsageError as error:
        return _fail(_words(error), ConfigError.exit_code)
    except click.ClickException as error:
        return _fail(error.format_message(), error.exit_code)
    except (KeyboardInterrupt, click.Abort):  # the first before any command runs
        stderr.put(News("interrupted", "interrupted", exit_code=INTERRUPTED))
        return INTERRUPTED
    except ModuleNotFoundError as error:
        return _fail(not_installed(error), ConfigError.exit_code)
    except Exception as error:
        return _fail(fault(error), VflError.exit_code, work_ended_by(error))
    return code if isinstance(code, int) else 0


def _fail(text: str, code: int, work: Work | None = None) -> int:
    stderr.put(News(f"error: {text}", "failed", exit_code=code, work=work))
    return code


def _words(error: click.UsageError) -> str:
    """What is wrong with a command, and where to read more."""
    path = error.ctx.command_path if error.ctx else "vfl"
    more = f": see {path} --help"
    if isinstance(error, click.NoSuchOption):
        known = [name for p in _parameters(error.ctx) for name in (*p.opts, *p.secondary_opts)]
        return f"{path} has no option {error.option_name}" + (
            _instead(error.option_name, [*known, "--help"]) or more
        )
    if isinstance(error, click.BadOptionUsage):
        found = [p for p in _parameters(error.ctx) if error.option_name in (*p.opts, *p.secondary_opts)]
        if found and getattr(found[0], "is_flag", False):
            return f"{error.option_name} takes no value"
        return f"{error.option_name} needs {_allowed(found[0]) if found else 'a value'}"
    if isinstance(error, click.MissingParameter):
        return f"{_name(error.param)} is missing{more}"
    if isinstance(error, click.BadParameter):
        allowed = _allowed(error.param) if error.param is not None else "something else"
        return f"{_name(error.param)} must be {allowed}"
    return error.format_message()


def _parameters(ctx: click.Context | None) -> list[click.Parameter]:
    return ctx.command.get_params(ctx) if ctx is not None else []


def _name(param: click.Parameter | None) -> str:
    if param is None:
        return "an argument"
    if isinstance(param, click.Option):
        return param.opts[0]
    return (
        (param.name or "").upper() if isinstance(param.type, click.Choice) else param.human_readable_name
    )


def _allowed(param: click.Parameter) -> str:
    """What a value of a parameter may be."""
    kind = param.type
    if isinstance(kind, NumberType):
        return kind.words
    if isinstance(kind, click.Choice):
        return either([str(choice) for choice in kind.choices])
    if isinstance(kind, click.DateTime):
        return "a day or a time (UTC), such as 2026-11-23 or 2026-11-23T08:00:00"
    if isinstance(kind, click.Path):
        return "a path" if kind.file_okay else "a folder, one that is there or a new one"
    return "a value"


def _instead(name: str, known: list[str]) -> str:
    from vfl.text import nearest_name

    near = nearest_name(name, known)
    if near:
        return f": did you mean {near}?"
    return f": there are {', '.join(known)}" if len(known) < 40 and not name.startswith("-") else ""
