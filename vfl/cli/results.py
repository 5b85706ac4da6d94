"""Commands that show what this party keeps of a model."""

from dataclasses import asdict
from pathlib import Path

import click

from vfl.cli.group import main
from vfl.cli.options import FORCE, JSON, MODEL, PARTY
from vfl.terminal.streams import put_json, stdout


@main.command(short_help="Show a linear model's factors of own columns.")
@PARTY
@MODEL
@click.option(
    "--by",
    metavar="COLUMN",
    help="Tables of each factor that has pairs of levels with this column, by its levels: an own column "
    "(interactions), at a host the guest's (across), such as insurer:year.",
)
@JSON
def relativities(party: Path, model: str, by: str | None, as_json: bool) -> None:
    """Show what a linear model says about this party's own columns.

    A level's relativity is its factor against the base level, a numeric column's that of a step: a
    standard deviation (SD), or what step in [glm] of the party file says. Models over rows have standard
    errors, too, and with inference = true in [glm] of the job all have intervals and tests.
    """
    from vfl.jobs.relativities import load_crossed, load_lines
    from vfl.models.kinds import kind_of_model
    from vfl.models.relativities import table_of
    from vfl.party.config import load_party
    from vfl.party.store import Store
    from vfl.terminal.results import put_crossed, put_inference, put_relativities

    settings = load_party(party)
    store, steps = Store(settings.party.store), settings.glm.step
    if by is not None:
        name, tables = load_crossed(store, model, settings.role, by)
        if as_json:
            put_json({"model": name, "by": by, "tables": [asdict(table) for table in tables]})
            return
        for table in tables:
            put_crossed(name, table)
        return
    half, lines = load_lines(store, model, settings.role, steps)
    tests, said = kind_of_model(half.model).inferred(half.model)
    if as_json:
        columns, rows = table_of(lines)
        told = [dict(zip(columns, row, strict=True)) for row in rows]
        inferred = {"tests": {name: asdict(test) for name, test in tests.items()}, "notes": said}
        put_json({"model": half.name, "relativities": told, **(inferred if tests or said else {})})
        return
    put_relativities(half.name, lines)
    put_inference(tests, said)


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
    """Write a page about a model's run, or about a project, with its tables as CSV: from what this party
    keeps, offline.

    An earlier report in the same folder is replaced; a folder with other files is refused.
    """
    from vfl.cli.projects import write_project
    from vfl.jobs.connect import store_of
    from vfl.jobs.projects import resolve_project
    from vfl.jobs.report import write_report
    from vfl.party.config import load_party

    settings = load_party(party)
    if (project := resolve_project(store_of(settings), model)) is not None:
        write_project(settings, project, out, force=force, as_json=as_json)
        return
    written = write_report(settings, model, out, force=force)
    if as_json:
        files = sorted(path.name for path in written.page.parent.iterdir())
        told = {"report": str(written.page), "files": files, "replaced": written.replaced}
        put_json(told | {"left_out": written.left_out, "tables": written.tables})
        return
    if written.left_out:
        stdout.put(f"note: {written.left_out}")
    stdout.put(f"report in {written.page}{', in place of an earlier one' if written.replaced else ''}")
