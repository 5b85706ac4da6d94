"""vfl online: scores while somebody waits, and the tokens of its clients."""

import contextlib
from datetime import UTC, date, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import click

from vfl.cli.group import main
from vfl.cli.options import JSON, LOG
from vfl.cli.running import need_role, open_party, run
from vfl.errors import ConfigError
from vfl.terminal.progress import show_progress
from vfl.terminal.streams import put_json, stdout
from vfl.terminal.usage import FileGroup, NumberType

if TYPE_CHECKING:
    from vfl.party.tokens import Scope

TOKENS = Path("online-tokens.toml")


class _Online(FileGroup):
    """A group whose first word may be a party file, which is served then."""

    default = "serve"


@main.group(
    "online",
    cls=_Online,
    short_help="Score single rows while somebody waits, over HTTP.",
    subcommand_metavar="PARTY.toml | token NAME",
)
def online() -> None:
    """Score single rows, or small batches, while somebody waits, over HTTP.

    `vfl online PARTY.toml` serves as [online] of the party file says, until SIGTERM or Ctrl-C: it takes
    no more connections then, answers what is asked, and ends; a second signal ends it at once. SIGHUP
    has it look for newer models and tokens right away.
    """


@online.command("serve", hidden=True)
@click.argument("party", type=click.Path(path_type=Path), metavar="PARTY.toml")
@LOG
def serve_online(party: Path) -> None:
    """Serve as [online] of the party file says."""
    from vfl.jobs.connect import Site
    from vfl.online.service import serve

    settings = open_party(party)
    need_role(settings.role, "guest", party)
    if settings.online is None:
        raise ConfigError(
            f"{party.name} has no section [online]: add one, which says where to listen and which "
            "certificate to show (docs/online.md)"
        )
    with contextlib.suppress(KeyboardInterrupt), show_progress(times=True) as show:
        ended_at_once = run(serve(Site.open(settings), settings.online, show))
        if ended_at_once:
            raise click.Abort


@online.command()
@click.argument("name")
@click.option(
    "--scope",
    "scopes",
    type=click.Choice(["score", "explain", "models", "metrics"]),
    multiple=True,
    help="What it allows; may be given several times.  [default: score]",
)
@click.option(
    "--rate",
    type=NumberType(0.001, 1e6),
    metavar="NUMBER",
    help="Most requests a second; any number by default.",
)
@click.option("--expires", metavar="DATE", help="Last day (UTC) of its use, as 2027-12-31.")
@click.option(
    "--file",
    "path",
    type=click.Path(path_type=Path),
    default=TOKENS,
    show_default=True,
    metavar="FILE",
    help="The file of tokens, as [online] tokens names it.",
)
@JSON
def token(
    name: str,
    scopes: tuple["Scope", ...],
    rate: float | None,
    expires: str | None,
    path: Path,
    as_json: bool,
) -> None:
    """Make a token for a client, which is shown this once.

    The file has its digest alone. A running service takes it in within seconds. To take a token back,
    remove its section from the file.
    """
    from vfl.party.tokens import add_token

    last = None if expires is None else _day(expires)
    made = add_token(path, name, scopes or ("score",), rate, last)
    if as_json:
        put_json({"name": name, "token": made, "file": str(path)})
    else:
        stdout.put(made)


def _day(text: str) -> date:
    try:
        day = date.fromisoformat(text)
    except ValueError:
        raise ConfigError("--expires must be a date such as 2027-12-31") from None
    if day < datetime.now(UTC).date():
        raise ConfigError("--expires is over already: name a later day")
    return day
