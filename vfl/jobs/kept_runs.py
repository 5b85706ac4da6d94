"""Trainings of a party that are unfinished: listed, shown, removed."""

from dataclasses import dataclass, field
from datetime import UTC, datetime

from vfl.errors import ModelError
from vfl.jobs.kept_evidence import OF_MODEL, files_about, remove_about
from vfl.jobs.removal import Removal, size_of
from vfl.jobs.resume import KeptRun, kept_runs
from vfl.party import locks
from vfl.party.config import Party
from vfl.party.store import Store
from vfl.text import nearest_name


@dataclass(frozen=True)
class UnfinishedRun:
    """A training whose model is not kept yet."""

    name: str
    job: str = ""
    done: int = 0  # trees or iterations
    written: str = ""  # ISO 8601, UTC: the last step
    alignment: str = ""
    hosts: list[str] = field(default_factory=list)
    goes_on: bool = False  # whether it is the one that the same job, table and party file goes on with
    works: str = ""  # who is at it now
    bytes: int = 0
    files: list[str] = field(default_factory=list)
    error: str = ""  # why it cannot be read


def list_runs(store: Store) -> list[UnfinishedRun]:
    """The unfinished trainings, the one that was at work last first."""
    runs = kept_runs(store)
    newest = {id(run) for run in runs if run is _first_of(runs, run)}
    return [_describe(store, run, id(run) in newest) for run in runs]


def show_run(store: Store, name: str) -> UnfinishedRun:
    """One of them. Raises ModelError when there is none of that name."""
    runs = list_runs(store)
    for run in runs:
        if run.name == name:
            return run
    if not runs:
        raise ModelError(f"no unfinished run {name}: there is none at all")
    near = nearest_name(name, [run.name for run in runs])
    there = f"did you mean {near}?" if near else f"there is {runs[0].name}, for one"
    raise ModelError(f"no unfinished run {name}: {there}")


def plan_removal(store: Store, party: Party, name: str) -> Removal:
    """What the removal of an unfinished run would take. Raises ModelError when there is none of that
    name, Refused while a training is at it."""
    run = show_run(store, name)
    with store.locked("checkpoint", name, f"the training of {name}"):
        parts = [
            ("its checkpoint", store.files("checkpoint", name)),
            ("the secrets and tapes of its attempts", files_about(store, OF_MODEL, name)),
        ]
    if party.role == "host":
        notes = ["its guest cannot go on with it: it has to start the job anew (--fresh)"]
    else:
        notes = ["the same job begins anew, or goes on with an older unfinished run of it"]
    return Removal(run.name, "run", [part for part in parts if part[1]], notes)


def remove_run(store: Store, name: str) -> None:
    """Remove an unfinished run. Raises Refused while a training is at it, DataError where it cannot be
    locked."""
    with store.locked("checkpoint", name, f"the training of {name}"):
        remove_about(store, OF_MODEL, name)
        store.remove("checkpoint", name)


def _first_of(runs: list[KeptRun], run: KeptRun) -> KeptRun | None:
    return next((one for one in runs if one.subject is not None and one.subject == run.subject), None)


def _describe(store: Store, run: KeptRun, goes_on: bool) -> UnfinishedRun:
    files = store.files("checkpoint", run.name)
    path = store.path("checkpoint", run.name)
    written = datetime.fromtimestamp(path.stat().st_mtime, UTC).isoformat(timespec="seconds")
    holder = locks.holder(path.with_suffix(".lock"))
    subject = run.subject
    return UnfinishedRun(
        run.name,
        "" if subject is None else subject.job_name,
        run.done,
        written,
        "" if subject is None else subject.alignment,
        [] if subject is None else subject.hosts,
        goes_on,
        "" if holder is None else str(holder),
        size_of(files),
        [str(file) for file in files],
        run.error,
    )
