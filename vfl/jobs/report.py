"""The report of a run, from what this party keeps: no peer is asked."""

import hashlib
import shutil
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vfl import __version__
from vfl.errors import DataError, ModelError, VflError
from vfl.jobs.alignments import is_of
from vfl.jobs.halves import AnyGuestHalf, GuestHalf, HostHalf, load_alignment, load_half
from vfl.jobs.names import resolve_model
from vfl.jobs.own_table import ids_of
from vfl.jobs.record import Evaluation, Record, load_record
from vfl.jobs.relativities import lines_of
from vfl.jobs.reveals import message_type, reveals
from vfl.learn.binning import Features
from vfl.learn.explain import partial_dependence
from vfl.learn.levels import respelled
from vfl.learn.metrics import OTHER
from vfl.learn.splits import Split
from vfl.party.config import Party
from vfl.party.output import OutputPlace
from vfl.party.store import Store
from vfl.party.table import read_table
from vfl.protocols.trees.grower import GuestModel, HostModel
from vfl.report.evidence import Dependence, Evidence, Exchange, HeldOut
from vfl.report.page import PAGE, SHEETS, render
from vfl.text import level_order

_FILES = {PAGE, *(f"{sheet}.csv" for sheet in SHEETS)}
_ENDS = (0.01, 0.99)  # quantiles of a column between which partial dependence is shown


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
    store = Store(party.party.store)
    if party.role == "coordinator":
        record, _ = load_record(store, resolve_model(store, model, "run"))
        return _evidence(party, record)
    name = resolve_model(store, model)
    if party.role == "host":
        theirs = load_half(store, name, HostHalf)
        record, _ = _record(store, theirs.name)
        if isinstance(theirs.model, HostModel):
            splits = Counter(split.column for split in theirs.model.splits)
            return _evidence(party, record, splits=dict(splits))
        return _evidence(party, record, lines=lines_of(theirs, party.glm.step))
    half = load_half(store, name, GuestHalf)
    record, evaluation = _record(store, half.name)
    factors, no_factors = _factors(party, store, half, record, evaluation)
    found: dict[str, Any] = {
        "label": party.data.label or "",
        "held_out": None if evaluation is None else _held_out(evaluation),
        "factors": factors,
        "no_factors": no_factors,
    }
    if not isinstance(half.model, GuestModel):
        return _evidence(party, record, **found, lines=lines_of(half, party.glm.step))
    dependence, no_dependence = _dependence(half.model, half.columns, factors)
    return _evidence(
        party,
        record,
        **found,
        importance=half.model.importance(),
        dependence=dependence,
        no_dependence=no_dependence,
    )


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
    data = party.data.model_copy(update=dict.fromkeys(("label", "weight", "exposure", "offset"), None))
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
    return respelled(table.take(evaluation.rows), half.levels)[0], ""


def _dependence(
    model: GuestModel, columns: Sequence[str], factors: Features
) -> tuple[dict[str, Dependence], str]:
    """Partial dependence on the guest's columns that have splits; if there is none, why."""
    found = {}
    for column in columns:
        splits = [split for split in model.splits if split.column == column]
        if not splits:
            continue
        values = factors.get(column)
        if values is not None and (values.dtype == object) != splits[0].categorical:
            values = None  # the party file says otherwise by now
        grid = _grid(splits, values)
        try:
            found[column] = Dependence(grid, partial_dependence(model, column, grid))
        except ModelError as error:
            return {}, f"Partial dependence is not shown: {error}."
    return found, ""


def _grid(splits: Sequence[Split], values: NDArray[np.generic] | None) -> NDArray[np.generic]:
    """The values at which a column's dependence changes, and where the column has them, its ends and a
    missing value."""
    if splits[0].categorical:
        # Categories without a split of their own are all alike.
        named = {split.category for split in splits}
        rest = {OTHER} if values is None else {OTHER if value else None for value in set(values) - named}
        known = [
            level for group in (named, rest) for level in sorted(filter(None, group), key=level_order)
        ]
        return np.array([*known, *([None] if None in named | rest else [])], dtype=object)
    edges = np.unique([split.threshold for split in splits if split.threshold is not None])
    present = edges if values is None else values.astype(np.float64)
    missing = bool(np.isnan(present).any()) or not len(edges)
    present = present[~np.isnan(present)]
    ends = np.quantile(present, _ENDS) if len(present) else np.zeros(2)
    low, high = min(ends[0], *edges[:1]), max(ends[1], *edges[-1:])
    margin = (high - low) * 0.05 or 1.0
    if values is None:
        low, high = low - margin, high + margin
    # A step lies right above its edge.
    grid = [low, *np.nextafter(edges, np.inf), max(high, edges[-1] + margin) if len(edges) else high]
    return np.array([*grid, *([np.nan] if missing else [])])


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
