"""What a party keeps, as tables and lines."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from vfl.terminal.results import put_alignments
from vfl.terminal.sheets import Sheet, SheetCell, put_sheet
from vfl.terminal.streams import stderr, stdout
from vfl.text import counted, how_far, in_words

if TYPE_CHECKING:
    from pathlib import Path

    from vfl.jobs.activity import Found, JobNow
    from vfl.jobs.kept_alignments import ShownAlignment
    from vfl.jobs.kept_models import KeptDirectory, KeptModel, ShownModel
    from vfl.jobs.kept_runs import UnfinishedRun
    from vfl.jobs.removal import Removal

_MEASURES = {  # the first of them that a model has stands for it
    "auc": "AUC",
    "auc_ovr": "AUC, each class",
    "d2": "D²",
    "deviance": "deviance",
    "mae": "mean absolute error",
}


def put_models(found: "Sequence[KeptModel]") -> None:
    """The models of a party, a line each."""
    heads = (
        "model",
        "made (UTC)",
        "job",
        "kind",
        "objective",
        "alignment",
        "parties",
        "held out",
        "edited from",
        "directory",
        "disk",
    )
    rows: list[list[SheetCell]] = [
        [
            one.name,
            when(one.made),
            one.job,
            one.kind + ("" if one.half else " (no half here)"),
            one.objective,
            one.alignment,
            ", ".join(one.parties),
            measure(one.metrics),
            one.edited_from,
            "; ".join(map(_directory, one.directories)),
            room(one.bytes),
        ]
        for one in found
        if not one.error
    ]
    if rows:
        put_sheet(Sheet(heads, rows, numbers=frozenset(("disk",))))
    for one in found:
        if one.error:
            stdout.put(f"{one.name} cannot be read: {one.error}")


def put_shown_model(found: "ShownModel") -> None:
    """A model in detail."""
    model = found.model
    edited = counted(found.changes, "change")
    lines = {
        "job": model.job,
        "purpose": found.purpose,
        "kind": f"{model.kind}, {model.objective}",
        "made": f"{when(model.made)} UTC",
        "alignment": model.alignment,
        "parties": ", ".join(model.parties),
        "half": found.size if model.half else "none here, the record of the run alone",
        "own columns": ", ".join(found.columns),
        "rows": ", ".join(f"{count:,} {what}" for what, count in found.rows.items()),
        "edited from": f"{model.edited_from} ({edited})" if model.edited_from else "",
        "edited versions": ", ".join(found.versions),
        "directory": "; ".join(map(_directory, model.directories)),
        "disk": f"{room(model.bytes)} in {counted(len(found.files), 'file')}",
    }
    put_lines(f"model {model.name}", lines)
    for which, values in model.metrics.items():
        shown = [f"{_MEASURES.get(key, key)} {value:.4f}" for key, value in values.items()]
        if shown:
            stdout.put(f"held out, {which}: {', '.join(shown)}")
    for warning in found.warnings:
        stdout.put(f"warning: {warning}")
    for path in found.files:
        stdout.put(path)


def put_runs(found: "Sequence[UnfinishedRun]") -> None:
    """The unfinished trainings of a party, a line each."""
    heads = ("run", "job", "steps done", "last one (UTC)", "alignment", "with", "state", "disk")
    rows: list[list[SheetCell]] = [
        [
            one.name,
            one.job,
            one.done,
            when(one.written),
            one.alignment,
            ", ".join(one.hosts),
            _state(one),
            room(one.bytes),
        ]
        for one in found
        if not one.error
    ]
    if rows:
        put_sheet(Sheet(heads, rows, numbers=frozenset(("steps done", "disk"))))
    for one in found:
        if one.error:
            stdout.put(f"{one.name} cannot be read: {one.error}")


def put_shown_run(run: "UnfinishedRun") -> None:
    """An unfinished training in detail."""
    lines = {
        "job": run.job,
        "steps done": f"{run.done:,}",
        "last one": f"{when(run.written)} UTC",
        "alignment": run.alignment,
        "with": ", ".join(run.hosts),
        "state": run.error or _state(run),
        "at work": run.works,
        "disk": f"{room(run.bytes)} in {counted(len(run.files), 'file')}",
    }
    put_lines(f"run {run.name}", lines)
    for path in run.files:
        stdout.put(path)


def _state(run: "UnfinishedRun") -> str:
    if run.works:
        return "at work"
    return "the next of its job goes on with it" if run.goes_on else "left behind by a later one"


def put_shown_alignment(found: "ShownAlignment") -> None:
    """An alignment in detail."""
    listed = found.alignment
    put_alignments([listed])
    lines = {
        "models": ", ".join(found.models),
        "unfinished runs": ", ".join(found.runs),
        "extended by": ", ".join(found.extended_by),
        "disk": f"{room(found.bytes)} in {counted(len(found.files), 'file')}",
    }
    put_lines("", lines)
    for path in found.files:
        stdout.put(path)


def put_processes(found: "Found", store: "Path") -> None:
    """What the commands of a party are doing."""
    for process in found.running:
        stdout.put(str(process.holder))
        for job in process.jobs:
            away = [peer.name for peer in job.peers if peer.state == "away"]
            broken = f"; the connection to {in_words(away)} is broken, and waited for" if away else ""
            stdout.put(f"  {_job(job)}{broken}")
        if not process.jobs:
            stdout.put("  is at no job now")
    if not found.running:
        stdout.put(f"nothing runs in {store}")
    for process in found.killed:
        stdout.put(f"ended without a word, as by a kill: {process.holder}")
        for job in process.jobs:
            stdout.put(f"  was at {_job(job)}")


def _job(job: "JobNow") -> str:
    """A job in a line: what, with whom, since when, how far."""
    words = job.task if not job.about else f"{job.task} ({', '.join(job.about)})"
    if job.parties:
        words += f" with {in_words(job.parties)}"
    words += f", since {when(job.since)} UTC"
    if job.step:
        words += f": {job.step}, {how_far(job.step, job.done, job.of)} at {job.told[11:19]} UTC"
    return words


def put_lines(title: str, lines: Mapping[str, str]) -> None:
    """What there is to say of one thing, a line for each that says something."""
    if title:
        stdout.put(title)
    wide = max(map(len, lines))
    for head, text in lines.items():
        if text:
            stdout.put(f"  {head:<{wide}}  {text}")


def put_plan(plan: "Removal") -> None:
    """What a removal takes, for the person who is asked."""
    stderr.put(f"{plan.what} {plan.name}:")
    for what, files in plan.parts:
        stderr.put(f"  {what}")
        for path in files:
            stderr.put(f"    {path}")
    for note in plan.notes:
        stderr.put(f"note: {note}")


def when(time: str) -> str:
    """A time of a document to the minute."""
    return time[:16].replace("T", " ")


def room(size: int) -> str:
    """How much of the disk something takes."""
    return f"{size / 1e6:,.1f} MB" if size >= 1e5 else f"{size / 1e3:,.1f} KB"


def measure(metrics: Mapping[str, Mapping[str, float]]) -> str:
    """The measure that stands for a model, of all its parties together."""
    together = metrics.get("federation", {})
    for key, word in _MEASURES.items():
        if key in together:
            return f"{word} {together[key]:.4f}"
    return ""


def _directory(one: "KeptDirectory") -> str:
    if not one.made:
        return "damaged"
    if one.withdrawn:
        return f"withdrawn {when(one.made)}"
    return f"{in_words([one.peer])}, {when(one.made)}"
