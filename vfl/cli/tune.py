"""The command that searches for settings of a job's model."""

from pathlib import Path

import click

from vfl.cli.group import main
from vfl.cli.options import ALIGNMENT, FORCE, JSON, LOCAL_CLUSTER, PARTY, WAIT
from vfl.cli.running import need_role, open_site, run
from vfl.terminal.progress import show_progress
from vfl.terminal.streams import put_json, stderr


@main.command(short_help="Search for settings of a job's model.")
@PARTY
@click.argument("job", type=click.Path(path_type=Path), metavar="JOB.toml")
@ALIGNMENT
@click.option("--fresh", is_flag=True, help="Start anew where an earlier search would go on.")
@click.option("--train", "trains", is_flag=True, help="Then train with the best settings.")
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    metavar="FOLDER",
    help="Where the table and the job file go.  [default: ./tune-JOB]",
)
@FORCE
@WAIT
@LOCAL_CLUSTER
@JSON
def tune(
    party: Path,
    job: Path,
    alignment: str | None,
    fresh: bool,
    trains: bool,
    out: Path | None,
    force: bool,
    wait: float,
    local: int | None,
    as_json: bool,
) -> None:
    """Search for settings of a job's model, as its section [tune] says (vfl[tune]).

    Each trial is a training with the hosts, none of which is kept. The best settings are written as a
    job file for `vfl train`, beside a table of all trials. A search that is ended goes on when the same
    command runs again.
    """
    from vfl.jobs.cluster import on_cluster
    from vfl.jobs.connect import Site
    from vfl.jobs.training import train
    from vfl.jobs.tuned_folder import TunedFolder
    from vfl.jobs.tuning import tune as search
    from vfl.party.config import load_party
    from vfl.party.drafted import load_job_to_send
    from vfl.terminal.results import put_model
    from vfl.terminal.tune import put_tuned, tuned_document

    settings = load_party(party)
    need_role(settings.role, "guest", party)
    wanted = load_job_to_send(job)
    folder = TunedFolder.of(settings, wanted, out, force=force)
    with show_progress() as show, on_cluster(settings, show, local), open_site(settings, show) as site:
        done = run(search(site, wanted, folder, alignment=alignment, fresh=fresh, wait=wait, show=show))
        trained = None
        if trains:
            again = Site.open(settings)
            trained = run(train(again, done.best, alignment=done.alignment, wait=wait, show=show))
    if as_json:
        put_json(tuned_document(done, trained))
    else:
        put_tuned(done, None if trains else party.name)
    if trained is not None:
        if not as_json:
            put_model(trained)
        for warning in trained.warnings:
            stderr.put(f"warning: {warning}")
