"""Papers for compliance: vfl dpia, vfl modelcard, vfl person."""

import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from vfl.cli.group import main
from vfl.cli.options import FORCE, JSON, MODEL, PARTY
from vfl.errors import ConfigError
from vfl.terminal.streams import put_json, stdout
from vfl.terminal.usage import NumberType

if TYPE_CHECKING:
    from vfl.jobs.papers import Paper
    from vfl.report.card import Profile


@main.command(short_help="Draft a data protection impact assessment.")
@click.argument("subject", metavar="JOB.toml|MODEL")
@PARTY
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    metavar="FOLDER",
    help="Where it goes.  [default: ./dpia-NAME]",
)
@click.option(
    "--rows",
    type=NumberType(1, 10**9, whole=True),
    metavar="N",
    help="Of a job: how many rows all parties know.  [default: those of the latest alignment]",
)
@click.option(
    "--guest", metavar="NAME", help="Of a job: who would start it, where a host's file does not say."
)
@FORCE
@JSON
def dpia(
    subject: str,
    party: Path,
    out: Path | None,
    rows: int | None,
    guest: str | None,
    force: bool,
    as_json: bool,
) -> None:
    """Draft a data protection impact assessment of a job before it, or of a model's run: from what is
    configured and what ran, offline. What no program knows is marked for a person to fill in.

    It is written as a page (dpia.html) and as Markdown (dpia.md).
    """
    from vfl.jobs.assessment import write_dpia
    from vfl.party.config import load_party

    written = write_dpia(load_party(party), subject, out, rows=rows, guest=guest, force=force)
    _put_paper(written, as_json)


@main.command("modelcard", short_help="Draft the card of a model.")
@PARTY
@MODEL
@click.option(
    "--profile",
    type=click.Choice(["plain", "ai-act", "eiopa"]),
    default="plain",
    show_default=True,
    help="By whose headings: of Annex IV of the AI Act, or of EIOPA's opinion on AI governance.",
)
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    metavar="FOLDER",
    help="Where it goes.  [default: ./modelcard-MODEL]",
)
@FORCE
@JSON
def modelcard(
    party: Path, model: str, profile: "Profile", out: Path | None, force: bool, as_json: bool
) -> None:
    """Draft the card of a model: what it is for, what it was made of, how good it is, where its limits
    are; from what this party keeps, offline. What no run knows is marked for a person to fill in.

    It is written as a page (modelcard.html) and as Markdown (modelcard.md), with tables as CSV.
    """
    from vfl.jobs.model_card import write_card
    from vfl.party.config import load_party

    _put_paper(write_card(load_party(party), model, out, profile=profile, force=force), as_json)


def _put_paper(written: "Paper", as_json: bool) -> None:
    if as_json:
        files = sorted(path.name for path in written.page.parent.iterdir())
        put_json({"page": str(written.page), "files": files, "replaced": written.replaced})
        return
    instead = ", in place of an earlier one" if written.replaced else ""
    stdout.put(f"draft in {written.page} and {written.text.name}{instead}")


@main.command(short_help="Say which jobs an id was in, by what is kept here.")
@PARTY
@click.option(
    "--id",
    "given",
    multiple=True,
    metavar="VALUE",
    help="The id, once for each id column of [data]. Others on this machine may see it: leave it out "
    "to be asked.",
)
@click.option(
    "--id-file",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="A file with the id, a line for each id column; - for stdin.",
)
@click.option(
    "--batch",
    "batches",
    multiple=True,
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Look into a batch that was scored, or its scores, too; more than once for several.",
)
@JSON
def person(
    party: Path,
    given: tuple[str, ...],
    id_file: Path | None,
    batches: tuple[Path, ...],
    as_json: bool,
) -> None:
    """Say which alignments and trainings an id was in, when, for what and with whom, and what cannot be
    known: for a request of the person under Article 15 of the GDPR. By what this party keeps alone.

    The id is asked for, or read from a file. It is normalised as in an alignment, and neither kept,
    logged nor shown.
    """
    from vfl.jobs.person import find_person
    from vfl.party.config import load_party
    from vfl.terminal.person import put_person

    settings = load_party(party)
    if settings.role == "coordinator":
        find_person(settings, ())
    found = find_person(settings, _values(given, id_file, settings.data.id_columns), batches)
    if as_json:
        put_json(asdict(found))
    else:
        put_person(found)


def _values(given: tuple[str, ...], file: Path | None, columns: Sequence[str]) -> Sequence[str]:
    """The parts of an id, from the command line, a file or a person."""
    if given and file is not None:
        raise ConfigError("--id and --id-file exclude each other")
    if given:
        return given
    if file is None:
        if not sys.stdin.isatty():
            raise ConfigError("nobody can be asked for the id: name a file with --id-file, - for stdin")
        return [click.prompt(name, default="", show_default=False, err=True) for name in columns]
    try:
        text = sys.stdin.read() if str(file) == "-" else file.read_text("utf-8-sig")
    except OSError as error:
        raise ConfigError(f"{file} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ConfigError(f"{file} is no text in UTF-8") from None
    lines = text.splitlines()
    while len(lines) > len(columns) and not lines[-1].strip():
        lines.pop()
    return lines
