"""The command that screens columns before a training."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from vfl.cli.group import main
from vfl.cli.options import ALIGNMENT, FORCE, JSON, PARTY, WAIT
from vfl.cli.running import need_role, open_site, run
from vfl.errors import ConfigError, DataError
from vfl.terminal.progress import show_progress
from vfl.terminal.streams import put_json, stderr, stdout

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
@click.option(
    "--page",
    type=click.Path(path_type=Path),
    metavar="FOLDER",
    help="Where a page with all figures and correlations goes.",
)
@click.option(
    "--write",
    is_flag=True,
    help="Have the party file leave out what is advised. At a host JOB.toml is the file of lines that a "
    "screening has left in its store.",
)
@FORCE
@WAIT
@JSON
def screen(
    party: Path,
    job: Path,
    alignment: str | None,
    out: Path | None,
    page: Path | None,
    write: bool,
    force: bool,
    wait: float,
    as_json: bool,
) -> None:
    """Find out how strong the columns of all parties are by themselves, and how inflated.

    Information value and deviance explained of each column, by sums under encryption; variance
    inflation, of which each party knows that of its own columns. Lines for the party file say which to
    leave out, by [screen] of the job; the owner of a column decides.
    """
    from vfl.jobs.page_folder import check_folder, write_folder
    from vfl.jobs.screening import screen as screen_columns
    from vfl.party.config import load_party
    from vfl.party.drafted import load_job_to_send
    from vfl.party.files import refuse_fixed
    from vfl.party.spreadsheet import write_rows
    from vfl.report.screen_page import SCREEN_FILES, SCREEN_PAGE, screen_files
    from vfl.terminal.results import account_document
    from vfl.terminal.screening import (
        evidence_of,
        page_of,
        put_screening,
        screening_document,
    )

    settings = load_party(party)
    if write and settings.role == "host":
        _take_over(party, job)
        return
    need_role(settings.role, "guest", party)
    wanted = load_job_to_send(job)
    if write:
        refuse_fixed(party)  # before anything is asked of hosts
    if page is not None:
        check_folder(page, SCREEN_FILES, "the page of a screening")
    target = None if out is None else _target(out, settings, force)
    with show_progress() as show, open_site(settings, show) as site:
        done = run(screen_columns(site, wanted, alignment=alignment, wait=wait, show=show))
    if target is not None:
        with target.writing() as file:
            write_rows(file, evidence_of(settings.name, done))
    if page is not None:
        write_folder(page, screen_files(page_of(settings.name, wanted.job.purpose, done)))
    if write:
        _write(party, done.lines)
    if as_json:
        written = {} if out is None else {"out": str(out.resolve())}
        put_json(screening_document(settings.name, done) | written | account_document(done.account))
    else:
        put_screening(settings.name, done)
        if page is not None:
            stdout.put(f"page in {page.resolve() / SCREEN_PAGE}")


def _take_over(party: Path, lines: Path) -> None:
    """A host's party file with the lines that a screening has left. Raises DataError."""
    try:
        text = lines.read_text("utf-8")
    except (OSError, UnicodeDecodeError):
        raise DataError(
            f"{lines} cannot be read: name the file of lines of a screening, in screens of the store"
        ) from None
    found = [line for line in text.splitlines() if line and not line.startswith("#")]
    if len(found) > 1 or not all(line.startswith(("ignore = ", "columns = ")) for line in found):
        raise DataError(f"{lines} is no file of lines of a screening: see screens in the store")
    _write(party, found)


def _write(party: Path, lines: Sequence[str]) -> None:
    from vfl.party.party_text import change_party

    for line in lines:
        change_party(party, line)
        stderr.put(f"{party} now has {line}")


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
