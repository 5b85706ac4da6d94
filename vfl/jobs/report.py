"""The report of a run, from what this party keeps: no peer is asked."""

import hashlib
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vfl import __version__
from vfl.errors import DataError, ModelError, VflError
from vfl.jobs.alignments import is_of, load_alignment
from vfl.jobs.connect import store_of
from vfl.jobs.gave_away import disclosed, given_before
from vfl.jobs.names import resolve_model
from vfl.jobs.own_table import ids_of
from vfl.jobs.record import Evaluation, Record, load_record
from vfl.jobs.reveals import message_type, reveals
from vfl.jobs.shared_table import as_trained
from vfl.jobs.table_sizes import sizes_of
from vfl.learn.binning import Features
from vfl.learn.levels import match_levels
from vfl.learn.losses import loss_of
from vfl.learn.params import BoostParams
from vfl.models.halves import AnyGuestHalf, GuestHalf, HostHalf, objective_of
from vfl.models.kinds import kind_named, kind_of_model, load_half, rules_of
from vfl.party.config import Job, Party
from vfl.party.output import OutputPlace
from vfl.party.store import Store
from vfl.party.table import read_table
from vfl.report.evidence import Evidence, Exchange, HeldOut
from vfl.report.page import PAGE, SHEETS, render

_FILES = {PAGE, *(f"{sheet}.csv" for sheet in SHEETS)}


@dataclass(frozen=True)
class Written:
    """A report that was written."""

    page: Path
    replaced: bool  # whether an earlier one was there


def write_report(party: Party, model: str, out: Path | None = None, *, force: bool = False) -> Written:
    """Write the page of a model's run and its tables into a folder of their own.

    `out` is the folder, ./report-NAME by default; it appears whole or not at all, and an earlier report
    in it is replaced, one that was changed since only with `force`. Raises ModelError when the model or
    the record of its run is missing or damaged, DataError when the folder holds something else or cannot
    be written.
    """
    evidence = gather(party, model)
    folder = (out or Path(f"report-{evidence.model}")).absolute()
    _check_folder(folder)
    target = OutputPlace.of(folder, "report", party=party, is_former=_is_report, force=force)
    files = render(evidence)
    replaced = target.check()
    target.note({name: hashlib.sha256(content).hexdigest() for name, content in files.items()})
    _write(target.place, files)
    return Written(folder / PAGE, replaced)


def _is_report(folder: Path) -> bool:
    """Whether a folder holds a report, by what its page says of itself."""
    try:
        text = (folder / PAGE).read_text("utf-8")
    except (OSError, UnicodeDecodeError):
        return False
    return '<meta name="generator" content="vfl' in text or "<footer><p>vfl " in text


def gather(party: Party, model: str) -> Evidence:
    """What this party knows of the run that made a model, in the words of `vfl relativities`.

    Raises ModelError as `write_report`.
    """
    store = store_of(party)
    if party.role == "coordinator":
        record, _ = load_record(store, resolve_model(store, model, "run"))
        return _evidence(party, record, gave_away=disclosed(record))
    name = resolve_model(store, model)
    if party.role == "host":
        theirs = load_half(store, name, HostHalf)
        record, _ = _record(store, theirs.name)
        link = loss_of(objective_of(record.job)).link
        kind = kind_of_model(theirs.model)
        shown = kind.explain_host(theirs.model, rules_of(party), link)
        found = disclosed(
            record,
            own={party.name: kind.parameters(theirs.model)},
            candidates=_own_candidates(party, store, record),
            given=given_before(store, record),
        )
        return _evidence(party, record, lines=[*shown.lines], splits=dict(shown.splits), gave_away=found)
    half = load_half(store, name, GuestHalf)
    record, evaluation = _record(store, half.name)
    factors, no_factors = _factors(party, store, half, record, evaluation)
    shown = kind_of_model(half.model).explain_guest(
        half.model, half.columns, factors, rules_of(party), half.loss.link
    )
    return _evidence(
        party,
        record,
        label=party.data.label or "",
        held_out=None if evaluation is None else _held_out(evaluation),
        factors=factors,
        no_factors=no_factors,
        lines=[*shown.lines],
        importance=[*shown.importance],
        dependence=dict(shown.dependence),
        no_dependence=shown.no_dependence,
        gave_away=disclosed(record, importance=shown.importance),
    )


def _own_candidates(party: Party, store: Store, record: Record) -> Mapping[str, int]:
    """How many candidates a host's table has by its name, if it has the rows of the run still."""
    try:
        job = Job.model_validate(record.job)
        if not isinstance(job.params, BoostParams):
            return {}
        table = read_table(party.data, role="host", need_label=False)
        if not is_of(load_alignment(store, record.alignment), ids_of(table, party.data)):
            return {}
        return {party.name: sizes_of(table, party, job).candidates}
    except (VflError, ValueError):  # another table, or a job of an earlier version
        return {}


def _record(store: Store, name: str) -> tuple[Record, Evaluation | None]:
    if name not in store.names("run"):
        raise ModelError(
            f"there is no record of the run that made model {name} in {store.folder('run')}: earlier "
            "versions of vfl kept none, so train again"
        )
    return load_record(store, name)


def _evidence(party: Party, record: Record, **found: Any) -> Evidence:
    account = record.account
    return Evidence(
        model=record.model,
        party=record.party,
        role=party.role,
        parties=record.parties,
        kind=kind_named(record.job["job"]["model"], record.model),
        job=record.job,
        aligned_rows=record.aligned_rows,
        ended=record.ended,
        version=__version__,
        seconds=account.seconds,
        sent=account.sent,
        received=account.received,
        peak_memory=account.peak_memory,
        operations=account.operations,
        exchanges=[
            Exchange(m.peer, m.direction, m.kind, m.messages, m.bytes, reveals(message_type(m.kind)))
            for m in account.messages
        ],
        rows=record.rows,
        metrics=record.metrics,
        measure=record.measure,
        curve=record.curve,
        phases=record.phases,
        ending=record.ending,
        warnings=record.warnings,
        split=record.split,
        **found,
    )


def _held_out(evaluation: Evaluation) -> HeldOut:
    return HeldOut(evaluation.label, evaluation.weight, evaluation.exposure, evaluation.predictions)


def _factors(
    party: Party, store: Store, half: AnyGuestHalf, record: Record, evaluation: Evaluation | None
) -> tuple[Features, str]:
    """The guest's columns on the rows held out; if there are none, why, in a sentence."""
    if evaluation is None:
        return {}, "No rows were held out (holdout is 0 in the job file)."
    # Label, weight, exposure and offset are in the record.
    data = as_trained(party.data, half)
    data = data.model_copy(update=dict.fromkeys(("label", "weight", "exposure", "offset"), None))
    try:
        table = read_table(data, role="guest", need_label=False, expect=half.columns)
        ids = ids_of(table, data)
        same = (
            record.ids == ids.digest
            if record.ids
            else is_of(load_alignment(store, record.alignment), ids)
        )
    except VflError as error:
        why = str(error).replace(str(data.path), data.path.name)
        return {}, f"The columns are not shown, since the table cannot be read as in training: {why}."
    if not same:
        return {}, (
            f"The columns are not shown, since {data.path.name} has other ids (or another order) than "
            "when the model was trained."
        )
    return match_levels(table.take(evaluation.rows), half.levels)[0], ""


def _check_folder(folder: Path) -> None:
    """Raise DataError for a folder that is none, or holds something else than a report."""
    try:
        if not folder.parent.is_dir():
            raise DataError(f"{folder} cannot be written: there is no folder {folder.parent}")
        if folder.exists() and not folder.is_dir():
            raise DataError(f"{folder} cannot be written: it is a file")
        other = folder.is_dir() and any(path.name not in _FILES for path in folder.iterdir())
    except OSError as error:
        raise DataError(f"{folder} cannot be written: {error.strerror}") from None
    if other:
        raise DataError(
            f"{folder} holds other files than a report: name a new folder with --out, or empty this one"
        )


def _write(folder: Path, files: Mapping[str, bytes]) -> None:
    """Make the folder of these files, in place of an earlier report. Readable by its owner only."""
    made: list[Path] = []
    try:
        for _ in range(2):  # the new one, and where an old one goes
            made.append(Path(tempfile.mkdtemp(dir=folder.parent, prefix=".report-", suffix=".tmp")))
        new, old = made
        for name, content in files.items():
            (new / name).write_bytes(content)
        if folder.exists():
            folder.replace(old)
        try:
            new.replace(folder)
        except OSError:
            if not folder.exists() and any(old.iterdir()):
                old.replace(folder)
            raise
    except OSError as error:
        raise DataError(f"{folder} cannot be written: {error.strerror}") from None
    finally:
        for path in made:
            shutil.rmtree(path, ignore_errors=True)
