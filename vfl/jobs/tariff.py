"""A linear model as rating tables, and an edited half as a version of the model: offline."""

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass, replace
from pathlib import Path

import numpy as np

from vfl.arrays import Floats
from vfl.errors import ConfigError, DataError, ModelError
from vfl.jobs.connect import store_of
from vfl.jobs.names import JOB_LENGTH, resolve_model
from vfl.jobs.offer import new_run, stamp
from vfl.jobs.record import Evaluation, Record, load_record, now, save_record
from vfl.jobs.relativities import save_relativities, steps_of
from vfl.jobs.report_columns import HeldOutColumns, read_held_out
from vfl.learn.drift import profile_of_scores
from vfl.learn.losses import LogisticLoss, loss_of
from vfl.learn.metrics import OF_TOTALS, binary_metrics, regression_metrics
from vfl.models.halves import AnyGuestHalf, Change, GuestHalf, HostHalf, objective_of
from vfl.models.kinds import load_half, save_half
from vfl.models.tariff import (
    Points,
    as_told,
    cell_lines,
    edit_model,
    expected_of,
    linear_columns,
    linear_half,
    move_base,
    moved,
    shift_to,
    tariff_lines,
)
from vfl.party.config import Party
from vfl.party.output import OutputPlace
from vfl.party.store import Store
from vfl.party.tariff_file import BaseSection, RuleSection, TariffFile, load_tariff
from vfl.report.evidence import TOGETHER
from vfl.report.rating_tables import GENERATOR, RatingTables

_MOST_FILE = 64 << 20
HostLine = tuple[str, str, float | None, int | None]


@dataclass(frozen=True)
class Tariff:
    """Rating tables that were written, and the version that was kept."""

    path: Path
    model: str  # the model whose tables they are: the new version, if there is one
    edited_from: str  # "" where nothing was changed
    kept: bool  # whether the version is new: the newest one may have been this tariff already
    base: float  # rate, or odds
    changes: Sequence[Change]
    off_balance: float | None  # of all changes before the base rate: new total by that of the model
    loss_ratio: float | None  # of a tariff of premiums, over the rows held out
    by_service: Sequence[str]


@dataclass(frozen=True)
class TariffRequest:
    """What is wanted: edits and rules of a file, tables that hosts have given, by host."""

    edits: Path | None = None
    factors: Mapping[str, Path] | None = None


def write_tariff(
    party: Party, model: str, out: Path, request: TariffRequest, *, force: bool = False
) -> Tariff:
    """Write a linear model's rating tables, and keep the edited half as a version of the model.

    Edits change the model that was trained, where `model` is a job's name, and the version that it names
    in full. A version is kept where the tariff is another than that of the job's newest model. A host
    writes the tables of its own columns, as they are. Raises ConfigError for edits that do not fit,
    ModelError for a model that has no factors, DataError where a file cannot be read or written.
    """
    if out.suffix.lower() != ".xlsx":
        raise DataError(f"{out} is no name of a workbook: end it in .xlsx")
    store = store_of(party)
    reads = {path: f"the factors of {host}" for host, path in (request.factors or {}).items()}
    if request.edits is not None:
        reads[request.edits] = "the file of edits"
    target = OutputPlace.of(
        out.absolute(), "tariff", party=party, reads=reads, is_former=_is_workbook, force=force
    )
    target.check()
    file = TariffFile() if request.edits is None else load_tariff(request.edits)
    name = resolve_model(store, model)
    if party.role == "host":
        return _write_hosts(store, party, name, file, target)
    half = load_half(store, name, GuestHalf)
    if request.edits is not None and name != model and "/" not in model:
        # The file says what becomes of the model: said twice, it is still the same tariff.
        half = load_half(store, half.trained_name, GuestHalf)
    linear_half(half)
    if half.loss.link == "identity":
        raise ModelError(
            f"model {half.name} adds and does not multiply (family {half.objective}): it has no factors"
        )
    others = {host: read_factors(path, host, half) for host, path in (request.factors or {}).items()}
    try:
        version = _edit(party, store, half, file)
    except ConfigError as error:  # an edit that does not fit the model
        raise ConfigError(f"{_name_of(request.edits)}{error}") from None
    same = _same_tariff(store, version) if version.changes else ""
    if same:
        version = replace(version, half=replace(version.half, name=same))
    tables = _tables(party, half, version, others, file)
    content = tables.workbook()
    if version.changes and not same:
        _keep(store, party, version)
    with target.writing() as written:
        written.write(content)
    return Tariff(
        target.place,
        version.half.name,
        version.half.edited_from if version.changes else "",
        bool(version.changes) and not same,
        as_told(math.exp(linear_half(version.half).intercept)),
        version.changes,
        version.off_balance,
        _loss_ratio(version),
        tables.by_service,
    )


def _name_of(edits: Path | None) -> str:
    return "" if edits is None else f"{edits.name}: "


def _is_workbook(path: Path) -> bool:
    """Whether a file is a workbook that this command has made."""
    import zipfile

    try:
        with zipfile.ZipFile(path) as archive:
            return f">{GENERATOR}<".encode() in archive.read("docProps/core.xml")[:5000]
    except (OSError, KeyError, zipfile.BadZipFile):
        return False


@dataclass(frozen=True)
class _Version:
    """A half after its edits, and the record of its run, of which the predictions are edited, too."""

    half: AnyGuestHalf
    changes: tuple[Change, ...] = ()
    off_balance: float | None = None
    record: Record | None = None
    evaluation: Evaluation | None = None


def _edit(party: Party, store: Store, half: AnyGuestHalf, file: TariffFile) -> _Version:
    """Edits, caps and rounding, then the base rate over the rows held out."""
    model, link = linear_half(half), half.loss.link
    edited = edit_model(model, file.tariff, file.edit)
    if not edited.changes and not file.base.wanted and file.base.digits is None:
        return _Version(half)
    record, evaluation = None, None
    if half.name in store.names("run"):
        record, evaluation = load_record(store, half.name)
    columns, new, off_balance = None, None, None
    if record is not None and evaluation is not None:
        columns = read_held_out(party, store, half, record, evaluation)
        if not columns.no_factors:
            parts = (
                one.part.scores(columns.factors, len(evaluation.rows)) for one in (edited.model, model)
            )
            old = evaluation.predictions[TOGETHER]
            new = moved(link, old, next(parts) - next(parts))
            total = float(evaluation.weight @ old)
            off_balance = float(evaluation.weight @ new) / total if total > 0 else None
    shift = 0.0
    if file.base.wanted:
        if new is None or evaluation is None or columns is None:
            why = "no rows were held out" if columns is None else columns.no_factors.rstrip(".")
            raise ModelError(f"the base rate cannot be brought to a target: {why}")
        shift = _shift(half, new, evaluation, columns, file.base)
    based = move_base(edited.model, shift, file.base.digits)
    changes = edited.changes + based.changes
    if not changes:
        return _Version(half)
    name = version_name(half.name)
    premiums = half.premiums if file.base.premiums is None else file.base.premiums
    made = replace(
        half,
        name=name,
        model=based.model,
        edited_from=half.trained_name,
        changes=half.changes + changes,
        premiums=premiums,
        score_profile=None,
    )
    if record is None:
        return _Version(made, changes, off_balance)
    if new is not None and evaluation is not None:
        predictions = moved(link, new, np.full(len(new), based.model.intercept - model.intercept))
        evaluation = replace(evaluation, predictions={**evaluation.predictions, TOGETHER: predictions})
        made = measured(made, evaluation)
    else:
        evaluation = None
        made = replace(made, metrics={})
    record = replace(record, model=name, metrics=made.metrics, ended=now())
    return _Version(made, changes, off_balance, record, evaluation)


def version_name(model: str) -> str:
    """A name for a version of a model: of the same job, of now."""
    return f"{model.rsplit('-', 3)[0][:JOB_LENGTH]}-{stamp(new_run())}"


def measured(half: AnyGuestHalf, evaluation: Evaluation) -> AnyGuestHalf:
    """The half with the measures of its predictions, and the profile of its scores. Premiums are
    measured as the share of the claims that they make each row pay for."""
    charged, loss = evaluation.predictions[TOGETHER], half.loss
    label, weight = evaluation.label, evaluation.weight
    offset = None if evaluation.exposure is None else np.log(evaluation.exposure)
    expected = expected_of(loss.link, charged, weight, label) if half.premiums else charged
    measures: dict[str, float] = {}
    if expected is not None:
        if isinstance(loss, LogisticLoss):
            measures = binary_metrics(label, expected, weight)
        else:
            score = _scores(half, expected)
            measures = regression_metrics(loss, label, score, weight, offset, evaluation.exposure)
            if half.offset:  # which is not kept
                del measures["d2"]
    if half.premiums:  # whose total says nothing of the model
        for name in OF_TOTALS:
            measures.pop(name, None)
    finite = {name: value for name, value in measures.items() if math.isfinite(value)}
    profile = None
    if not half.offset:
        score = _scores(half, charged)
        profile = profile_of_scores(score if offset is None else score - offset)
    return replace(half, metrics={**half.metrics, TOGETHER: finite}, score_profile=profile)


def _scores(half: AnyGuestHalf, predictions: Floats) -> Floats:
    if half.loss.link == "log":
        return np.asarray(np.log(np.maximum(predictions, np.finfo(np.float64).tiny)))
    tiny = float(np.finfo(np.float64).eps)
    inner = np.clip(predictions, tiny, 1 - tiny)
    return np.asarray(np.log(inner) - np.log1p(-inner))


def _shift(
    half: AnyGuestHalf,
    predictions: Floats,
    evaluation: Evaluation,
    columns: HeldOutColumns,
    base: BaseSection,
) -> float:
    """What brings the base rate to its target, over the rows held out."""
    weight = evaluation.weight
    happened = float(weight @ evaluation.label)
    if base.target == "present":
        premium = columns.beside.premium
        if premium is None:
            why = columns.beside.no_premium or "[data] current_premium names no column."
            raise ModelError(f"the base rate cannot be brought to the present total: {why}".rstrip("."))
        there = premium > 0
        if not there.any():
            raise ModelError(
                "the base rate cannot be brought to the present total: no row has a premium"
            )
        return shift_to(half.loss.link, predictions[there], weight[there], float(premium[there].sum()))
    if base.target == "model":
        total = float(weight @ evaluation.predictions[TOGETHER])
    elif base.total is not None:
        total = base.total
    else:
        total = happened / (base.loss_ratio or 1.0)
    if not total > 0:
        raise ModelError("the base rate cannot be brought to a total of 0")
    return shift_to(half.loss.link, predictions, weight, total)


def _keep(store: Store, party: Party, version: _Version) -> None:
    """The half and its record, as those of a training; the old ones stay."""
    save_half(store, version.half)
    save_relativities(store, version.half, party.glm.step)
    if version.record is not None:
        save_record(store, version.record, version.evaluation)


def _same_tariff(store: Store, version: _Version) -> str:
    """The job's newest model, by which rows are scored, if it is this tariff already."""
    newest = resolve_model(store, version.half.name.rsplit("-", 3)[0])
    if newest not in store.names("model"):
        return ""
    half = load_half(store, newest, GuestHalf)
    return newest if half.edited_from and _digest(half) == _digest(version.half) else ""


def _digest(half: AnyGuestHalf) -> str:
    """Of what a tariff is: the model whose halves hosts have, what it charges, the log of changes."""
    model = linear_half(half)
    content = (
        half.trained_name,
        model.part.design.coefficients,
        [as_told(one) for one in (model.intercept, *model.part.coefficients)],
        [astuple(one) for one in half.changes],
        half.premiums,
    )
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()


def _loss_ratio(version: _Version) -> float | None:
    """What happened by the premiums, over the rows held out."""
    if version.evaluation is None or not version.half.premiums:
        return None
    weight = version.evaluation.weight
    premiums = float(weight @ version.evaluation.predictions[TOGETHER])
    return float(weight @ version.evaluation.label) / premiums if premiums > 0 else None


# --- What stands in the tables. -------------------------------------------------------------------


def _tables(
    party: Party,
    fitted: AnyGuestHalf,
    version: _Version,
    others: Mapping[str, Sequence[HostLine]],
    file: TariffFile,
) -> RatingTables:
    model, odds = linear_half(version.half), fitted.loss.link == "logit"
    points = None
    if file.points is not None:
        if not odds:
            raise ConfigError("[points] is for models of a 0/1 label: remove the section")
        points = Points(file.points)
    steps = steps_of(fitted, party.glm.step)
    by_service = [host for host in model.parties[1:] if host not in others]
    if fitted.job["job"].get("partition") == "rows":
        by_service = []
    facts: list[tuple[str, object]] = [
        ("model", version.half.name),
        ("edited from", version.half.edited_from),
        ("family", fitted.objective),
        ("base odds" if odds else "base rate", as_told(math.exp(model.intercept))),
        ("base, fitted", as_told(math.exp(linear_half(fitted).intercept))),
        ("base of", "base levels of all factors, and means of numbers with a slope"),
        ("off-balance of the changes before the base rate", version.off_balance),
        *([("loss ratio, rows held out", _loss_ratio(version))] if version.half.premiums else []),
        ("changes", len(version.half.changes)),
        ("factors rated by the service", ", ".join(by_service) or "none"),
    ]
    if points is not None:
        facts.append(("base points", points.base(model.intercept)))
        facts.append(("points that double the odds", points.section.pdo))
    return RatingTables(
        facts,
        tariff_lines(linear_half(fitted), model, steps.get, points),
        others,
        by_service,
        version.half.changes,
        points is not None,
        "odds ratio" if odds else "relativity",
    )


def read_factors(path: Path, host: str, half: AnyGuestHalf) -> list[HostLine]:
    """The factors that a host has given, as `vfl relativities --json` writes them. Raises DataError."""
    if host not in linear_half(half).parties[1:]:
        raise ConfigError(f"--factors {host}: model {half.name} has no such host")
    try:
        with path.open("rb") as file:
            content = file.read(_MOST_FILE + 1)
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from None
    try:
        if len(content) > _MOST_FILE:
            raise ValueError
        told = json.loads(content)
        if told["model"] != half.trained_name:
            raise DataError(f"{path.name} has the factors of another model than {half.trained_name}")
        return [_line(one) for one in told["relativities"]]
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError):
        raise DataError(
            f"{path.name} is not what `vfl relativities --json` writes at {host}: ask for it again"
        ) from None


def _line(told: Mapping[str, object]) -> HostLine:
    """A line of a host's factors. Raises ValueError for one that is none."""
    column, level, rows = told["column"], told["level"], told["rows"]
    step, slope = told.get("step"), told.get("relativity_per_step")
    value = told["relativity"] if step is None else slope
    if not isinstance(column, str) or not isinstance(level, str):
        raise ValueError("a line without names")
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError("a line without a relativity")
    if isinstance(rows, bool) or not isinstance(rows, int | None) or not 0 <= (rows or 0) < 2**53:
        raise ValueError("a line without rows")
    if step is not None:
        if not isinstance(step, int | float):
            raise ValueError("a line without a step")
        level = f"per {step:,.6g}"
    return column, level, float(value), rows


def _write_hosts(store: Store, party: Party, name: str, file: TariffFile, target: OutputPlace) -> Tariff:
    """A host's own factors, as they are."""
    half = load_half(store, name, HostHalf)
    guest = linear_columns(half, party.name)
    link = loss_of(objective_of(half.job)).link
    if link == "identity":
        raise ModelError(f"model {half.name} adds and does not multiply: it has no factors")
    if file.edit or file.base.wanted or file.base.digits or file.tariff != RuleSection():
        raise ConfigError(
            "a host's half is not edited: scores would change at the guest, who does not know of it. "
            "Give it the tables, or what `vfl relativities --json` prints, and agree on a new training"
        )
    points = None if file.points is None or link != "logit" else Points(file.points)
    steps = steps_of(half, party.glm.step)
    tables = RatingTables(
        [("model", half.name), ("party", party.name), ("base rate", "with the guest")],
        tariff_lines(guest, guest, steps.get, points) | cell_lines(half, points),
        {},
        [],
        (),
        points is not None,
        "odds ratio" if link == "logit" else "relativity",
    )
    content = tables.workbook()
    with target.writing() as written:
        written.write(content)
    return Tariff(target.place, half.name, "", False, math.nan, (), None, None, ())
