"""Commands that need peers: doctor, serve, align, train, score."""

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from vfl.cli.completion import names_of
from vfl.cli.group import main
from vfl.cli.options import ALIGNMENT, FORCE, JSON, LOCAL_CLUSTER, LOG, MODEL, PARTY, WAIT
from vfl.cli.running import need_role, open_party, open_site, run
from vfl.errors import ConfigError
from vfl.news import News
from vfl.terminal.progress import show_progress
from vfl.terminal.streams import put_json, stderr, stdout
from vfl.terminal.usage import NumberType

if TYPE_CHECKING:
    from vfl.jobs.check_result import Reporter
    from vfl.monitor.experiment import Experiment
    from vfl.party.config import Job, Party
    from vfl.party.config_values import Engine, JoinKind

_MLFLOW = "vfl.mlflow"  # the option's value in the command's context
_COLUMNS = "vfl.host_columns"
_MOST_COLUMNS = 10_000
_COMPILING = "some 25 s of a core"  # see benchmarks/README.md


@main.command()
@PARTY
@click.option(
    "--wait",
    type=NumberType(0, 3600),
    metavar="SECONDS",
    default=5.0,
    show_default=True,
    help="How long to wait for each peer.",
)
@click.option(
    "--job",
    type=click.Path(path_type=Path),
    metavar="JOB.toml",
    help="Check a guest's table as this job would use it, too.",
)
@click.option(
    "--compile",
    "compiling",
    is_flag=True,
    help=f"Compile what jobs need for this machine now, {_COMPILING}, so that none waits for it.",
)
@JSON
def doctor(party: Path, wait: float, job: Path | None, compiling: bool, as_json: bool) -> None:
    """Check files, keys, table and peers before any job.

    Exit code 1 where a line begins with FAIL.
    """
    from vfl.jobs.check_result import CheckResult
    from vfl.jobs.doctor import examine
    from vfl.jobs.storage import serves_an_older_file
    from vfl.party.config import load_job, load_party
    from vfl.party.drafted import missing_purpose

    findings = []

    def report(finding: CheckResult) -> None:
        findings.append(asdict(finding))
        if not as_json:
            stdout.put(finding.line)
            stdout.flush()

    settings = load_party(party, peers_to_come=compiling)
    wanted = None if job is None else load_job(job)
    if wanted is not None and not (wanted.over_rows and settings.role == "coordinator"):
        need_role(settings.role, "guest", party)
    if older := serves_an_older_file(settings.party.store, party):
        report(CheckResult("note", "serve", f"serve: {older}"))
    unsaid = None
    if wanted is not None and job is not None:
        unsaid = missing_purpose(wanted.job.purpose, job)
    if unsaid is not None:
        report(CheckResult("FAIL", "job", f"job: {unsaid}"))
    healthy = (not compiling or _compile(report)) and unsaid is None
    try:
        settings = load_party(party)  # for kernels nobody needs peers
    except ConfigError as error:
        report(CheckResult("FAIL", "party", f"party: {error}"))
        healthy = False
    else:
        healthy = run(examine(settings, wait, report, wanted)) and healthy
    if as_json:
        put_json({"healthy": healthy, "findings": findings})
    if not healthy:
        raise click.exceptions.Exit(1)


def _compile(report: "Reporter") -> bool:
    """Have kernels compiled; whether other processes find them."""
    from vfl.estimators.beforehand import compile_beforehand
    from vfl.jobs.check_result import CheckResult
    from vfl.jobs.compiling import announce_compiling, how_to_keep
    from vfl.kernel_cache import telling_unkept

    def say(line: str) -> None:
        stderr.put(line)
        stderr.flush()

    unkept: list[str] = []
    with telling_unkept(unkept.append), announce_compiling(say, _COMPILING):
        has_folder = compile_beforehand()
    if has_folder and not unkept:
        report(CheckResult("ok", "kernels", "kernels: compiled for this machine, and kept"))
        return True
    what = (
        f"they cannot be kept: {how_to_keep(unkept[0])}"
        if unkept
        else f"no folder keeps them: {how_to_keep()}"
    )
    report(CheckResult("FAIL", "kernels", f"kernels: {what}"))
    return False


@main.command(short_help="Serve jobs as a host or coordinator.")
@PARTY
@click.option(
    "--metrics",
    metavar="ADDRESS",
    help="Where a monitor reads figures, as 127.0.0.1:9464; as [party] metrics says by default.",
)
@LOCAL_CLUSTER
@LOG
def serve(party: Path, metrics: str | None, local: int | None) -> None:
    """Serve jobs as a host or coordinator, one after the other, until Ctrl-C, SIGTERM or SIGHUP."""
    with contextlib.suppress(KeyboardInterrupt):  # it may come before anything is served
        _serve(party, metrics, local)


def _serve(party: Path, metrics: str | None, local: int | None) -> None:
    from vfl.jobs.cluster import on_cluster
    from vfl.jobs.connect import Site
    from vfl.jobs.coordinator import coordinate
    from vfl.jobs.host import serve as serve_host
    from vfl.monitor.endpoint import showing_figures
    from vfl.monitor.tracing import tracing
    from vfl.party.config_values import check_own_port

    settings = open_party(party)
    if metrics is not None:
        check_own_port(metrics, "--metrics")
    if settings.role == "guest" and not settings.coordinators:
        need_role(settings.role, "host", party)
    work = coordinate if settings.role == "coordinator" else serve_host
    with show_progress(times=True) as show, on_cluster(settings, show, local):
        try:
            site = Site.open(settings)

            async def work_in_view() -> None:
                async with showing_figures(site, metrics or settings.party.metrics, show):
                    await work(site, show)

            with tracing(site, show):
                run(work_in_view())
        except KeyboardInterrupt:
            show.say(f"{settings.name} stops serving")


@main.command(short_help="Find the rows that all parties know.")
@PARTY
@WAIT
@click.option(
    "--name", metavar="NAME", help="What to call it; its time is added. Only its time by default."
)
@click.option(
    "--join",
    type=click.Choice(["inner", "left"]),
    help="Rows that all parties know, or all of this party's; as [align] says by default.",
)
@click.option(
    "--engine",
    type=click.Choice(["ecdh", "ot", "vole"]),
    help="How ids are compared (docs/alignment.md); as [align] says by default.",
)
@click.option(
    "--extend",
    metavar="[NAME]",
    is_flag=False,
    flag_value="",
    help="Match only what an alignment (the latest by default) has not: new and late rows.",
    shell_complete=names_of("alignment", jobs=True),
)
@click.option(
    "--diagnose",
    is_flag=True,
    help="Try other rules for ids on a sample; else only if fewer than half of the ids match.",
)
@click.option(
    "--dry-run",
    is_flag=True,
    help="Only report on this party's own ids (a host can, too); no peer needed.",
)
@LOG
@JSON
def align(
    party: Path,
    wait: float,
    name: str | None,
    join: "JoinKind | None",
    engine: "Engine | None",
    extend: str | None,
    diagnose: bool,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Find the rows that all parties know, by private set intersection."""
    from vfl.jobs.alignment import Plan
    from vfl.jobs.alignment import align as align_guest
    from vfl.jobs.cluster import on_cluster
    from vfl.terminal.results import account_document, cost, put_ids

    settings = open_party(party)
    if dry_run and settings.role != "coordinator":
        from vfl.blocks.scratch import Scratch
        from vfl.party.id_report import profile_ids
        from vfl.party.store import Store

        found = profile_ids(settings.data, Scratch(Store(settings.party.store).scratch_at_hand))
        if as_json:
            put_json(asdict(found))
        else:
            put_ids(found)
        return
    need_role(settings.role, "guest", party)
    with contextlib.ExitStack() as ends:
        show = ends.enter_context(show_progress())
        if (engine or settings.align.engine) == "ecdh":  # by the others workers would save nothing
            ends.enter_context(on_cluster(settings, show))
        plan = Plan(name, join, engine, extend, diagnose)
        site = ends.enter_context(open_site(settings, show))
        done = run(align_guest(site, plan, wait=wait, show=show))
    alignment = done.alignment
    if as_json:
        put_json(
            {
                "alignment": alignment.name,
                "rows": len(alignment.rows),
                "of_rows": done.rows,
                "join": alignment.join,
                "engine": alignment.engine,
                "extends": alignment.extends,
                "known": done.known,
                "matched_by_key": {who or "all": counts for who, counts in alignment.by_key.items()},
                "kept": {who or "all": count for who, count in done.kept.items()},
                "ids": done.asked,
                "ids_of_hosts": done.have,
                "notes": done.notes,
                "match_rates": {
                    host: [one.as_json() for one in of_keys] for host, of_keys in done.diagnoses.items()
                },
                **account_document(done.account),
            }
        )
    else:
        stdout.put(f"alignment {alignment.name} is kept; {cost(done.account)}")


@main.command()
@PARTY
@click.argument("job", type=click.Path(path_type=Path), metavar="JOB.toml")
@ALIGNMENT
@click.option("--fresh", is_flag=True, help="Start anew where an interrupted training would go on.")
@click.option(
    "--mlflow",
    metavar="URI",
    expose_value=False,
    callback=lambda context, _, uri: context.meta.update({_MLFLOW: uri}),
    help="Log settings, measures, the report and a model that scores there, as one run.",
)
@click.option(
    "--host-columns",
    "columns",
    multiple=True,
    expose_value=False,
    metavar="NAME=N",
    callback=lambda context, _, given: context.meta.update({_COLUMNS: given}),
    help="How many columns a host has, for --estimate; repeat for several.",
)
@click.option(
    "--estimate",
    type=NumberType(0, 10**9, whole=True),
    is_flag=False,
    flag_value=0,
    metavar="[ROWS]",
    help="Say what it would cost and tell, and send nothing; over so many rows in common, or those of "
    "the "
    "latest alignment.",
)
@WAIT
@LOCAL_CLUSTER
@LOG
@JSON
def train(
    party: Path,
    job: Path,
    alignment: str | None,
    fresh: bool,
    estimate: int | None,
    wait: float,
    local: int | None,
    as_json: bool,
) -> None:
    """Train the model of a job file, or the models of a project."""
    from vfl.cli.projects import train_models
    from vfl.jobs.cluster import on_cluster
    from vfl.jobs.training import train as train_guest
    from vfl.party.drafted import check_purpose, load_job_to_send
    from vfl.party.project_file import is_project, load_project
    from vfl.terminal.results import account_document, model_document, put_model

    settings = open_party(party)
    tracking = click.get_current_context().meta[_MLFLOW]
    if tracking is not None and (settings.role != "guest" or is_project(job)):
        raise ConfigError("--mlflow is for a guest's training of a single model: leave it out")
    columns = _host_columns(click.get_current_context().meta[_COLUMNS])
    if estimate is not None:
        _estimate(settings, party, job, estimate or None, columns, as_json)
        return
    if columns:
        raise ConfigError("--host-columns is for --estimate: leave it out")
    if is_project(job):
        need_role(settings.role, "guest", party)
        project = load_project(job)
        check_purpose(project.project.purpose, job, "project")
        work_of = (project, alignment, fresh, wait, local)
        train_models(settings, *work_of, as_json=as_json)
        return
    wanted = load_job_to_send(job)
    if settings.role == "coordinator":
        if local is not None:
            raise ConfigError("--local-cluster is for jobs over columns: leave it out")
        _lead(settings, wanted, alignment, fresh, wait, as_json)
        return
    need_role(settings.role, "guest", party)
    if wanted.over_rows:
        raise ConfigError(
            "a job over rows is started by its server, the coordinator: run `vfl serve` here, and "
            "`vfl train` there"
        )
    experiment, logged = _experiment(tracking, wanted.name), {}
    with (
        contextlib.ExitStack() as ends,
        show_progress() as show,
        on_cluster(settings, show, local),
        open_site(settings, show) as site,
    ):
        if experiment is not None:
            ends.callback(experiment.close)
        work = train_guest(site, wanted, alignment=alignment, fresh=fresh, wait=wait, show=show)
        done = run(work)
        if experiment is not None:
            logged["mlflow_run"] = experiment.log(settings, party, done, show)
    if as_json:
        put_json(
            {
                "model": done.half.name,
                **logged,
                **model_document(done),
                "rows": done.rows,
                "metrics": done.half.metrics,
                "warnings": done.warnings,
                "phases": done.phases,
                **account_document(done.account),
            }
        )
    else:
        put_model(done)
    for warning in done.warnings:
        stderr.put(News(f"warning: {warning}", "warning"))


def _experiment(tracking: str | None, job: str) -> "Experiment | None":
    """Where a training is logged, if that is wanted: reached before anything else is done."""
    if tracking is None:
        return None
    from vfl.monitor.experiment import reach

    return reach(tracking, job)


def _host_columns(given: Sequence[str]) -> dict[str, int]:
    """Numbers of columns by host. Raises ConfigError."""
    found: dict[str, int] = {}
    for text in given:
        name, _, count = text.partition("=")
        number = int(count) if count.isascii() and count.isdigit() and len(count) < 9 else 0
        if name in found or not 0 < number <= _MOST_COLUMNS:
            raise ConfigError(
                f"--host-columns takes NAME=N once a host, N from 1 to {_MOST_COLUMNS:,}, as registry=12"
            )
        found[name] = number
    return found


def _estimate(
    party: "Party",
    file: Path,
    path: Path,
    rows: int | None,
    columns: Mapping[str, int],
    as_json: bool,
) -> None:
    """What a training would cost and tell."""
    from vfl.jobs.forecast import forecast, forecast_project
    from vfl.party.config import load_job
    from vfl.party.project_file import is_project, load_project
    from vfl.terminal.forecast import put_forecast, put_project_forecast

    if is_project(path):
        need_role(party.role, "guest", file)
        project = load_project(path)
        found = forecast_project(party, project, rows, columns)
        if as_json:
            models = {part: one.document for part, one in found.items()}
            put_json({"project": project.name, "models": models})
        else:
            put_project_forecast(found, project.name)
        return
    job = load_job(path)
    if not job.over_rows:
        need_role(party.role, "guest", file)
    one = forecast(party, job, rows, columns)
    if as_json:
        put_json(one.document)
    else:
        put_forecast(one)


def _lead(
    settings: "Party", job: "Job", alignment: str | None, fresh: bool, wait: float, as_json: bool
) -> None:
    """The server's part of a job over rows."""
    from vfl.jobs.pooled import lead
    from vfl.terminal.results import account_document, cost

    if alignment is not None:
        raise ConfigError("--alignment is for jobs over columns: leave it out")
    with show_progress() as show, open_site(settings, show) as site:
        done = run(lead(site, job, fresh=fresh, wait=wait, show=show))
    if as_json:
        found = {"model": done.model, "parties": done.clients, "totals": done.totals}
        put_json({**found, **account_document(done.account)})
    else:
        stdout.put(f"{done.model} is kept by {' and '.join(done.clients)}; {cost(done.account)}")


@main.command()
@PARTY
@MODEL
@click.option(
    "--data",
    metavar="PLACE",
    required=True,
    help="The rows to score: a file, a folder or pattern of files, or a table of a database "
    "(postgresql://user@host/name#table).",
)
@click.option(
    "--out",
    metavar="PLACE",
    required=True,
    help="Where the scores go: a .csv or .parquet file, a folder of Parquet files (FOLDER/), or a new "
    "table of a database (postgresql://user@host/name#table).",
)
@click.option("--explain", is_flag=True, help="Add what each column or party adds, and reasons.")
@click.option(
    "--top",
    type=NumberType(1, 100, whole=True),
    metavar="NUMBER",
    help="How many reasons, with --explain.  [default: 3]",
)
@click.option("--fresh", is_flag=True, help="Do not go on with an unfinished batch.")
@click.option(
    "--estimate",
    is_flag=True,
    help="Say what it would cost and tell, by the ledger's last batch or alignment, and send nothing.",
)
@FORCE
@WAIT
@LOCAL_CLUSTER
@LOG
@JSON
def score(
    party: Path,
    model: str,
    data: str,
    out: str,
    explain: bool,
    top: int | None,
    fresh: bool,
    estimate: bool,
    force: bool,
    wait: float,
    local: int | None,
    as_json: bool,
) -> None:
    """Score rows without labels, by a model or a project.

    After any failure or kill the same command goes on where it was; the output appears only when all
    rows are scored, in place of earlier scores. In .csv an apostrophe stands before text that a
    spreadsheet would take for a formula; .parquet has all text as it is.

    Exit codes: 0 all rows scored; 7, 8 a host cannot be reached or was lost: run it again; 6 another run
    writes the output; 9 a host ended the job, such as by its limit of rows a day; all others need a
    person (vfl --help).
    """
    from vfl.jobs.cluster import on_cluster
    from vfl.jobs.project_scoring import score_project
    from vfl.jobs.projects import resolve_project
    from vfl.jobs.scoring import ScoreOptions
    from vfl.jobs.scoring import score as score_batch
    from vfl.terminal.results import account_document, put_scored

    if top is not None and not explain:
        raise ConfigError("--top goes with --explain: add it, or leave --top out")
    settings = open_party(party)
    need_role(settings.role, "guest", party)
    if estimate:
        _estimate_scores(settings, model, data, as_json)
        return
    with (
        show_progress() as show,
        on_cluster(settings, show, local),
        open_site(settings, show) as site,
    ):
        options = ScoreOptions(explain, top or 3, fresh, force)
        project = resolve_project(site.store, model)
        if project is None:
            done = run(score_batch(site, model, data, out, options, wait=wait, show=show))
        else:
            done = run(score_project(site, project, data, out, options, wait=wait, show=show))
    if as_json:
        put_json(
            {
                "out": out if "://" in out else str(Path(out).resolve()),
                "rows": done.rows,
                "unknown": done.unknown,
                "lookup": done.lookup,
                "left_out": done.left_out,
                "resumed_from": done.resumed_from,
                "rows_per_second": done.rows_per_second,
                "seconds_by_phase": done.seconds,
                "drift": done.drift,
                "unknown_levels": done.unknown_levels,
                "score_psi": done.score_psi,
                "replaced": done.replaced,
                "escaped": done.escaped,
                **account_document(done.account),
            }
        )
        return
    put_scored(done, out)


def _estimate_scores(party: "Party", model: str, data: str, as_json: bool) -> None:
    """What scoring a batch would cost and tell."""
    from vfl.jobs.score_forecast import forecast_scores
    from vfl.terminal.forecast import put_score_forecast

    with show_progress() as show:
        found = forecast_scores(party, model, data, show)
    if as_json:
        put_json(found.document)
    else:
        put_score_forecast(found)
