"""The command that screens columns before a training."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from vfl.cli.group import main
from vfl.cli.options import ALIGNMENT, FORCE, JSON, PARTY, WAIT
from vfl.cli.running import need_role, open_site, run
from vfl.errors import ConfigError
from vfl.terminal.progress import show_progress
from vfl.terminal.streams import put_json

if TYPE_CHECKING:
    from vfl.party.config import Party
    from vfl.party.output import OutputPlace


@main.command(short_help="How strong each party's columns are, before a training.")
@PARTY
@click.argument("job", type=click.Path(path_type=Path), metavar="JOB.toml")
@ALIGNMENT
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    metavar="FILE.csv",
    help="Where weights of evidence go, a line a level.",
)
@FORCE
@WAIT
@JSON
def screen(
    party: Path,
    job: Path,
    alignment: str | None,
    out: Path | None,
    force: bool,
    wait: float,
    as_json: bool,
) -> None:
    """Find out how strong the columns of all parties are by themselves, and how inflated.

    Information value and deviance explained of each column, by sums under encryption; variance
    inflation, of which each party knows that of its own columns. Lines for the party file say which to
    leave out, by [screen] of the job; the owner of a column decides.
    """
    from vfl.jobs.screening import screen as screen_columns
    from vfl.party.config import load_job, load_party
    from vfl.party.spreadsheet import write_rows
    from vfl.terminal.results import account_document
    from vfl.terminal.screening import evidence_of, put_screening, screening_document

    settings = load_party(party)
    need_role(settings.role, "guest", party)
    wanted = load_job(job)
    target = None if out is None else _target(out, settings, force)
    with show_progress() as show, open_site(settings, show) as site:
        done = run(screen_columns(site, wanted, alignment=alignment, wait=wait, show=show))
    if target is not None:
        with target.writing() as file:
            write_rows(file, evidence_of(settings.name, done))
    if as_json:
        written = {} if out is None else {"out": str(out.resolve())}
        put_json(screening_document(settings.name, done) | written | account_document(done.account))
    else:
        put_screening(settings.name, done)


def _target(out: Path, settings: "Party", force: bool) -> "OutputPlace":
    """Where the file goes. Raises ConfigError and DataError."""
    from vfl.party.output import OutputPlace

    if out.suffix != ".csv":
        raise ConfigError("--out must end in .csv")
    return OutputPlace.of(out, "screen", party=settings, is_former=_is_evidence, force=force)


def _is_evidence(path: Path) -> bool:
    """Whether a file is one of weights of evidence, by its header."""
    from vfl.jobs.screening_advice import EVIDENCE

    try:
        with path.open(encoding="utf-8", newline="") as file:
            return file.readline().strip() == ",".join(("party", *EVIDENCE))
    except (OSError, UnicodeDecodeError):
        return False
