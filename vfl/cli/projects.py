"""What commands do with a project, whose file or name they were given in place of a model's."""

from pathlib import Path
from typing import TYPE_CHECKING

from vfl.cli.running import open_site, run
from vfl.terminal.progress import show_progress
from vfl.terminal.streams import put_json, stderr, stdout

if TYPE_CHECKING:
    from vfl.party.config import Party
    from vfl.party.project_file import Project


def train_models(
    settings: "Party",
    project: "Project",
    alignment: str | None,
    fresh: bool,
    wait: float,
    local: int | None,
    *,
    as_json: bool,
) -> None:
    """Train the models of a project, one after the other."""
    from vfl.jobs.cluster import on_cluster
    from vfl.jobs.project import train_project
    from vfl.terminal.results import account_document, model_document, put_model

    with show_progress() as show, on_cluster(settings, show, local), open_site(settings, show) as site:
        work = train_project(site, project, alignment=alignment, fresh=fresh, wait=wait, show=show)
        done = run(work)
    kept = done.kept
    if as_json:
        made = {
            part: {
                **model_document(one),
                "rows": one.rows,
                "metrics": one.half.metrics,
                "warnings": one.warnings,
                **account_document(one.account),
            }
            for part, one in done.trained.items()
        }
        put_json(
            {
                "project": kept.name,
                "alignment": kept.alignment,
                "models": kept.models,
                "load": kept.load,
                "loads": kept.segments,
                "trained": made,
            }
        )
    else:
        for one in done.trained.values():
            put_model(one)
        stdout.put(
            f"project {kept.name}: expected loss = frequency x severity x {kept.load:.4f}"
            + (" (by segment where it is known)" if kept.segments else "")
        )
    for part, one in done.trained.items():
        for warning in one.warnings:
            stderr.put(f"warning: {part}: {warning}")


def write_project(
    settings: "Party", project: str, out: Path | None, *, force: bool, as_json: bool
) -> None:
    """Write the report of a project."""
    from vfl.jobs.project_report import write_project_report

    written = write_project_report(settings, project, out, force=force)
    if as_json:
        files = sorted(path.name for path in written.page.parent.iterdir())
        told = {"report": str(written.page), "files": files, "replaced": written.replaced}
        put_json(told | {"tables": written.tables})
        return
    stdout.put(f"report in {written.page}{', in place of an earlier one' if written.replaced else ''}")
