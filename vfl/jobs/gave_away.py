"""What a run gave away, as far as a party's record of it tells."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace

from vfl.errors import ModelError
from vfl.jobs.alignments import load_alignment
from vfl.jobs.record import Record
from vfl.jobs.sums_given import SumsGiven
from vfl.leakage.disclosure import Circumstances, Disclosure, Ran, merged
from vfl.leakage.meter import disclosures
from vfl.leakage.of_rows import of_rows
from vfl.learn.losses import loss_of
from vfl.learn.params import BoostParams, GlmParams
from vfl.models.halves import objective_of
from vfl.models.kinds import kind_named
from vfl.party.row_sums import RowSumsFile
from vfl.party.store import Store

Importance = Sequence[tuple[str, str, int, float]]


def disclosed(
    record: Record,
    *,
    importance: Importance = (),
    own: Mapping[str, int] | None = None,
    candidates: Mapping[str, int] | None = None,
    given: float = 0.0,
) -> list[Disclosure]:
    """What each party could learn about each other by the run of a record.

    importance: the splits of all parties, as the guest's half has them; own: at a host, by its name, how
    many splits or coefficients its half has; candidates: how many its table has. given: sums a row
    before the run. Nothing for a run whose settings this version does not know.
    """
    kind = kind_named(record.job["job"]["model"], record.model)
    try:
        params = kind.stored_params(record.job[kind.name])
    except ValueError:
        return []
    if record.over_rows:
        server = record.server if record.role != "coordinator" else record.party
        steps = _iterations(record) or len(record.curve) or None
        without = bool(record.job.get("rows", {}).get("without"))
        times = record.job["job"].get("time") is not None
        found = of_rows(record.parties, server, params, steps, without=without, times=times)
        if record.role == "coordinator":
            found = [one for one in found if one.name.startswith(("blind", "server"))]
        return found
    guest, *hosts = record.parties
    told_rows = record.role != "coordinator"
    if not hosts or (told_rows and not record.aligned_rows):
        return []
    ran = Ran(
        joint=_joint(record, params),
        splits=_splits(record, importance, own or {}),
        iterations=_iterations(record),
    )
    rows, told = (record.aligned_rows if told_rows else 1), record.role == "host"
    of = Circumstances(
        guest,
        hosts,
        rows,
        candidates or {},
        own or {},
        given,
        known=record.rows.get("known", 0),
        training=_training_share(record, params),
        ran=ran,
        counts=told,
    )
    found = disclosures(of, params, loss_of(objective_of(record.job)).link == "logit")
    if not told_rows:
        found = [_without_rows(one) for one in found if one.name.startswith("coordinator")]
    return merged(found)


def _without_rows(one: Disclosure) -> Disclosure:
    """Without what depends on the number of rows."""
    if one.success is None:
        return one
    how = "together they have the sums; how many rows these are of is not known here"
    return replace(one, how=how, basis="unknown", amount=None, success=None, guessing=None, measure="")


def given_before(store: Store, record: Record) -> float:
    """Sums about a row that jobs before a host's run told its guest. Raises ModelError when
    the counts are damaged."""
    try:
        alignment = load_alignment(store, record.alignment)
    except ModelError:  # it is no longer kept
        job = RowSumsFile(store, record.parties[0]).read().jobs.get(record.model)
        return 0.0 if job is None else job.before
    return SumsGiven(store, alignment).before(record.model)


def _training_share(record: Record, params: BoostParams | GlmParams) -> float:
    """The share of the aligned rows that trained: of who knows no better, as the job file has it."""
    if "train" in record.rows and record.aligned_rows:
        return record.rows["train"] / record.aligned_rows
    validation = params.validation_share if isinstance(params, BoostParams) else 0.0
    return (1 - float(record.job["job"].get("holdout", 0.0))) * (1 - validation)


def _joint(record: Record, params: BoostParams | GlmParams) -> int:
    """Trees of all parties' columns: of who knows no better, all that the job has."""
    if not isinstance(params, BoostParams):
        return 0
    grown = len(record.curve) if record.role == "guest" else params.most_trees
    return max(0, grown - params.first_joint)


def _splits(record: Record, importance: Importance, own: Mapping[str, int]) -> Mapping[str, int]:
    """By host, as far as they are known."""
    if record.role != "guest":
        return own
    counts = Counter(dict.fromkeys(record.parties[1:], 0))
    for party, _, splits, _ in importance:
        if party in counts:
            counts[party] += splits
    return counts


def _iterations(record: Record) -> int | None:
    many = record.ending.get("iterations")
    return int(many) if isinstance(many, int | float) else None
