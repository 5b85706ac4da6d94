"""Commands that show what this party keeps of a model."""

from pathlib import Path

import click

from vfl.cli.group import main
from vfl.cli.options import FORCE, JSON, MODEL, PARTY
from vfl.terminal.streams import put_json, stdout


@main.command(short_help="Show a linear model's factors of own columns.")
@PARTY
@MODEL
@JSON
def relativities(party: Path, model: str, as_json: bool) -> None:
    """Show what a linear model says about this party's own columns.

    A level's relativity is its factor against the base level, a numeric column's that of a step: a
    standard deviation (SD), or what step in [glm] of the party file says. Models over rows have standard
    errors, too.
    """
    from vfl.jobs.relativities import load_lines
    from vfl.models.relativities import table_of
    from vfl.party.config import load_party
    from vfl.party.store import Store
    from vfl.terminal.results import put_relativities

    settings = load_party(party)
    store, steps = Store(settings.party.store), settings.glm.step
    name, lines = load_lines(store, model, settings.role, steps)
    if as_json:
        columns, rows = table_of(lines)
        told = [dict(zip(columns, row, strict=True)) for row in rows]
        put_json({"model": name, "relativities": told})
        return
    put_relativities(name, lines)


@main.command(short_help="Write a page about a model's run, offline.")
@PARTY
@MODEL
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    metavar="FOLDER",
    help="Where it goes.  [default: ./report-MODEL]",
)
@FORCE
@JSON
def report(party: Path, model: str, out: Path | None, force: bool, as_json: bool) -> None:
    """Write a page about a model's run, with its tables as CSV: from what this party keeps, offline.

    An earlier report in the same folder is replaced; a folder with other files is refused.
    """
    from vfl.jobs.report import write_report
    from vfl.party.config import load_party

    written = write_report(load_party(party), model, out, force=force)
    if as_json:
        files = sorted(path.name for path in written.page.parent.iterdir())
        put_json({"report": str(written.page), "files": files, "replaced": written.replaced})
        return
    stdout.put(f"report in {written.page}{', in place of an earlier one' if written.replaced else ''}")
