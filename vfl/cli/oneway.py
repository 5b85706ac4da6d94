"""The command that makes tables by factors."""

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from vfl.cli.completion import names_of
from vfl.cli.group import main
from vfl.cli.options import FORCE, JSON, PARTY, WAIT
from vfl.cli.running import need_role, open_site, run
from vfl.errors import ConfigError
from vfl.terminal.progress import show_progress
from vfl.terminal.streams import put_json

if TYPE_CHECKING:
    from vfl.party.config import Party
    from vfl.party.output import OutputPlace
    from vfl.protocols.oneway.messages import TableEncryption


@main.command(short_help="Claims, exposure and A/E by the levels of factors.")
@PARTY
@click.option(
    "--by",
    metavar="PARTY:COLUMN",
    multiple=True,
    required=True,
    help="A factor of this party or of a host; twice for a table by two. A host that shows no names has "
    "numbers in place of columns.",
)
@click.option(
    "--model",
    metavar="NAME",
    help="Compare with what this model expects, on the rows that were held out of its training.",
    shell_complete=names_of("model", jobs=True),
)
@click.option(
    "--alignment",
    metavar="NAME",
    help="An alignment, or what --name called it (the newest); that of the model, or the latest, by "
    "default.",
    shell_complete=names_of("alignment", jobs=True),
)
@click.option(
    "--encryption",
    type=click.Choice(["lattice", "paillier"]),
    help="How sums are encrypted; lattice where the host's policy has it, by default.",
)
@click.option(
    "--purpose",
    metavar="WORDS",
    help="What for, as the host's policy knows it.  [default: a table by factors]",
)
@click.option(
    "--out", type=click.Path(path_type=Path), metavar="FILE.csv", help="Where the table goes, too."
)
@click.option(
    "--share",
    is_flag=True,
    help="Let the host have the table, too: rows, exposure, claims and A/E by its own factors.",
)
@FORCE
@WAIT
@JSON
def oneway(
    party: Path,
    by: Sequence[str],
    model: str | None,
    alignment: str | None,
    encryption: "TableEncryption | None",
    purpose: str | None,
    out: Path | None,
    share: bool,
    force: bool,
    wait: float,
    as_json: bool,
) -> None:
    """Add up rows, exposure and claims by the levels of one factor or two, of any party.

    A host's levels are added up under encryption: it sees no label and no exposure, this party no row's
    level. Cells of fewer rows than the host's min_cell_rows are put together or withheld.
    """
    from vfl.jobs.oneway import PURPOSE, TableRequest
    from vfl.jobs.oneway import oneway as make_table
    from vfl.party.config import load_party
    from vfl.party.spreadsheet import write_rows
    from vfl.terminal.factor_tables import put_factor_table
    from vfl.terminal.results import account_document

    settings = load_party(party)
    need_role(settings.role, "guest", party)
    request = TableRequest.of(
        by,
        model=model,
        alignment=alignment,
        encryption=encryption,
        purpose=purpose or PURPOSE,
        share=share,
    )
    target = None if out is None else _target(out, settings, force)
    with show_progress() as show, open_site(settings, show) as site:
        done = run(make_table(site, request, wait=wait, show=show))
    heads, rows = done.table.heads, done.table.rows
    if target is not None:
        with target.writing() as file:
            write_rows(file, [heads, *rows])
    if as_json:
        put_json(
            {
                "by": list(done.table.by),
                "rows_are": done.rows_are,
                "counts": done.table.counts,
                "table": [dict(zip(heads, row, strict=True)) for row in rows],
                "withheld": done.table.withheld,
                "min_cell_rows": done.least,
                "encryption": done.encryption,
                "alignment": done.alignment,
                "model": done.model,
                **({} if out is None else {"out": str(out.resolve())}),
                **account_document(done.account),
            }
        )
    else:
        put_factor_table(done)


def _target(out: Path, settings: "Party", force: bool) -> "OutputPlace":
    """Where the table goes. Raises ConfigError and DataError."""
    from vfl.party.output import OutputPlace

    if out.suffix != ".csv":
        raise ConfigError("--out must end in .csv")
    return OutputPlace.of(out, "oneway", party=settings, is_former=_is_table, force=force)


def _is_table(path: Path) -> bool:
    """Whether a file is such a table, by its header."""
    from vfl.learn.factor_tables import SUMS

    try:
        with path.open(encoding="utf-8", newline="") as file:
            heads = next(csv.reader(file), [])
    except (OSError, UnicodeDecodeError, csv.Error):
        return False
    return any(tuple(heads[by : by + len(SUMS)]) == SUMS for by in (1, 2))
