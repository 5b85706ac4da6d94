"""The report of a run, from what this party keeps: no peer is asked."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from vfl.blocks.scratch import Scratch
from vfl.errors import ModelError, VflError
from vfl.jobs.alignments import is_of, load_alignment
from vfl.jobs.connect import store_of
from vfl.jobs.gave_away import disclosed, given_before
from vfl.jobs.kept_tables import kept_tables
from vfl.jobs.names import resolve_model
from vfl.jobs.own_table import ids_of
from vfl.jobs.page_folder import check_folder, is_page, write_folder
from vfl.jobs.record import Evaluation, Record, load_record
from vfl.jobs.relativities import steps_of
from vfl.jobs.report_columns import read_held_out
from vfl.jobs.reveals import message_type, reveals
from vfl.jobs.table_sizes import sizes_of
from vfl.learn.losses import loss_of
from vfl.learn.params import BoostParams
from vfl.models.halves import AnyGuestHalf, GuestHalf, HostHalf, objective_of
from vfl.models.kinds import kind_named, kind_of_model, load_half, rules_of
from vfl.models.tariff import expected_of
from vfl.party.config import Job, Party
from vfl.party.output import OutputPlace
from vfl.party.store import Store
from vfl.party.table import Wanted, read_wanted
from vfl.report.evidence import TOGETHER, Evidence, Exchange, HeldOut
from vfl.report.page import PAGE, SHEETS, Told, render
from vfl.version import __version__

_FILES = {PAGE, *(f"{sheet}.csv" for sheet in SHEETS)}


@dataclass(frozen=True)
class Written:
    """A report that was written."""

    page: Path
    replaced: bool  # whether an earlier one was there
    tables: Told  # some of its tables by name, a row each
    left_out: str = ""  # what of rows held out is not shown and why, in a sentence


def write_report(party: Party, model: str, out: Path | None = None, *, force: bool = False) -> Written:
    """Write the page of a model's run and its tables into a folder of their own.

    `out` is the folder, ./report-NAME by default; it appears whole or not at all, and an earlier report
    in it is replaced, one that was changed since only with `force`. Raises ModelError when the model or
    the record of its run is missing or damaged, DataError when the folder holds something else or cannot
    be written.
    """
    evidence = gather(party, model)
    folder = (out or Path(f"report-{evidence.model}")).absolute()
    check_folder(folder, _FILES, "a report")
    target = OutputPlace.of(folder, "report", party=party, is_former=_is_report, force=force)
    tables: Told = {}
    files = render(evidence, tables)
    replaced = target.check()
    target.note({name: hashlib.sha256(content).hexdigest() for name, content in files.items()})
    write_folder(target.place, files)
    left_out = "" if evidence.held_out is None else evidence.no_factors
    return Written(folder / PAGE, replaced, tables, left_out)


def _is_report(folder: Path) -> bool:
    return is_page(folder / PAGE)


def gather(party: Party, model: str, store: Store | None = None) -> Evidence:
    """What this party knows of the run that made a model, in the words of `vfl relativities`.

    `store`: the party's, where it is open. Raises ModelError as `write_report`.
    """
    store = store or store_of(party)
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
        return _evidence(
            party,
            record,
            own_columns=[*theirs.columns],
            lines=[*shown.lines],
            tests=dict(shown.tests),
            inferred=[*shown.inferred],
            splits=dict(shown.splits),
            tables=kept_tables(store, theirs.name),
            gave_away=found,
        )
    half = load_half(store, name, GuestHalf)
    record, evaluation = _record(store, half.name)
    columns = read_held_out(party, store, half, record, evaluation)
    rules = rules_of(party)
    glm = rules.glm.model_copy(update={"step": steps_of(half, rules.glm.step)})
    kind = kind_of_model(half.model)
    shown = kind.explain_guest(
        half.model, half.columns, columns.factors, replace(rules, glm=glm), half.loss.link
    )
    return _evidence(
        party,
        record,
        own_columns=[*half.columns],
        label=party.data.label or "",
        classes=[*half.classes],
        edited_from=half.edited_from,
        held_out=None if evaluation is None else _held_out(half, evaluation),
        factors=kind.by_levels(half.model, columns.factors),
        no_factors=columns.no_factors,
        beside=columns.beside,
        tables=kept_tables(store, half.name),
        lines=[*shown.lines],
        tests=dict(shown.tests),
        inferred=[*shown.inferred],
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
        scratch = Scratch(store.scratch_at_hand)
        table = read_wanted(party.data, Wanted("host", False, scratch=scratch))
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
        alignment=record.alignment,
        signers=[] if record.agreement is None else sorted(record.agreement.signatures),
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


def _held_out(half: AnyGuestHalf, evaluation: Evaluation) -> HeldOut:
    one = evaluation
    predictions, premiums = one.predictions, None
    if half.premiums:
        premiums = predictions[TOGETHER]
        expected = expected_of(half.loss.link, premiums, one.weight, one.label)
        if expected is not None:
            predictions = {**predictions, TOGETHER: expected}
    return HeldOut(one.label, one.weight, one.exposure, predictions, premiums)
