"""vfl leakage: what a job could give away."""

from pathlib import Path

import click

from vfl.cli.group import main
from vfl.cli.options import JSON, PARTY
from vfl.terminal.streams import put_json
from vfl.terminal.usage import NumberType


@main.command(short_help="Say what a job could tell whom, before it.")
@click.argument("job", type=click.Path(path_type=Path), metavar="JOB.toml")
@PARTY
@click.option(
    "--rows",
    type=NumberType(1, 10**9, whole=True),
    metavar="N",
    help="How many rows all parties know.  [default: those of the latest alignment]",
)
@click.option(
    "--guest",
    metavar="NAME",
    help="Who would start the job, where a host's file has several peers with data.",
)
@click.option(
    "--simulate",
    is_flag=True,
    help="Make the attacks on tables drawn at random; a minute or so.",
)
@JSON
def leakage(
    job: Path, party: Path, rows: int | None, guest: str | None, simulate: bool, as_json: bool
) -> None:
    """Say what each party could work out about each other by a job: how much better than guessing, how
    that is known, and what makes it less. No peer is needed.

    The guest's file will do, and a host's, whose table is read for how many columns it has. "curve" is
    what attacks got on other tables, "at most" what the protocol allows; see docs/leakage.md.
    """
    from vfl.jobs.leakage import foresee
    from vfl.party.config import load_job, load_party
    from vfl.terminal.results import put_leakage

    wanted, settings = load_job(job), load_party(party)
    found = foresee(settings, wanted, rows=rows, guest=guest, simulate=simulate)
    if as_json:
        put_json(found.document)
    else:
        put_leakage(found)
