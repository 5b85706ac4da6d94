"""vfl console: a web page of one party."""

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING

import click

from vfl.cli.group import main
from vfl.cli.options import PARTY
from vfl.cli.running import run
from vfl.errors import ConfigError
from vfl.terminal.progress import show_progress
from vfl.terminal.streams import stdout

if TYPE_CHECKING:
    from vfl.party.console_section import ConsoleSection


@main.command(short_help="A web page of this party: approve, watch, compare.")
@PARTY
@click.option(
    "--listen",
    metavar="HOST:PORT",
    help="Where to listen, in place of [console] listen; by default 127.0.0.1:8790.",
)
def console(party: Path, listen: str | None) -> None:
    """Serve a web page of this party alone: jobs that wait for a person, what runs, what was done.

    The tokens to sign in with are printed once, on stdout, unless [console] names files of them. Other
    addresses than this machine's need a certificate in [console]. Until SIGTERM or Ctrl-C.
    """
    from vfl.party.config import load_party
    from vfl.party.console_section import ConsoleSection

    try:
        from vfl.console.service import Service
    except ModuleNotFoundError as error:
        raise _missing(error) from None
    settings = load_party(party)
    if listen is not None:
        own = settings.console or ConsoleSection()
        settings = settings.model_copy(update={"console": _listening(own, listen)})
    with contextlib.suppress(KeyboardInterrupt), show_progress(times=True) as show:
        service = Service(settings, show.say)

        def show_tokens() -> None:
            for role, token in service.access.made.items():
                stdout.put(f"token to {role}: {token}")
            stdout.flush()

        run(service.run(show_tokens))


def _listening(own: "ConsoleSection", listen: str) -> "ConsoleSection":
    """The section with another address. Raises ConfigError for one that it may not have."""
    from pydantic import ValidationError

    try:
        return type(own).model_validate({**own.model_dump(), "listen": listen})
    except ValidationError as error:
        said = error.errors()[0]["msg"].removeprefix("Value error, ")
        raise ConfigError(f"--listen: {said}") from None


def _missing(error: ModuleNotFoundError) -> Exception:
    """The error for a package that the console needs; the same one for any other."""
    name = (error.name or "").partition(".")[0]
    if name not in ("anyio", "h11", "jinja2", "markupsafe", "starlette", "uvicorn"):
        return error
    text = f"{name} is not installed, which this command needs: pip install 'vfl[console]'"
    return ConfigError(f"{text} (in a clone: pip install '.[console]')")
