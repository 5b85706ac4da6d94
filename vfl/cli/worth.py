"""The command that finds out what partners' data is worth."""

from pathlib import Path

import click

from vfl.cli.group import main
from vfl.cli.options import ALIGNMENT, FORCE, JSON, LOCAL_CLUSTER, PARTY, WAIT
from vfl.cli.running import need_role, open_site, run
from vfl.terminal.progress import show_progress
from vfl.terminal.streams import put_json
from vfl.terminal.usage import NumberType


@main.command(short_help="What each partner's data adds to a job's model.")
@PARTY
@click.argument("job", type=click.Path(path_type=Path), metavar="JOB.toml")
@click.option(
    "--rows",
    type=NumberType(1, 1_000_000_000, whole=True),
    metavar="N",
    help="Of the aligned rows, drawn by the job's seed; all by default.",
)
@ALIGNMENT
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    metavar="FOLDER",
    help="Where the page goes.  [default: ./worth-JOB]",
)
@FORCE
@WAIT
@LOCAL_CLUSTER
@JSON
def worth(
    party: Path,
    job: Path,
    rows: int | None,
    alignment: str | None,
    out: Path | None,
    force: bool,
    wait: float,
    local: int | None,
    as_json: bool,
) -> None:
    """Find out what each partner's data adds to a job's model, before any of it is bought.

    Models with and without each host's columns are trained on the same rows and compared on those held
    out. No party keeps a part of any model; all get the same page.
    """
    from vfl.jobs.cluster import on_cluster
    from vfl.jobs.worth import worth as find_worth
    from vfl.party.config import load_party
    from vfl.party.drafted import load_job_to_send
    from vfl.terminal.worth import put_worth, worth_document

    settings = load_party(party)
    need_role(settings.role, "guest", party)
    wanted = load_job_to_send(job)
    with show_progress() as show, on_cluster(settings, show, local), open_site(settings, show) as site:
        done = run(
            find_worth(
                *(site, wanted),
                alignment=alignment,
                rows=rows,
                out=out,
                force=force,
                wait=wait,
                show=show,
            )
        )
    if as_json:
        put_json(worth_document(done))
    else:
        put_worth(done)
