"""What a party keeps of a training run beside its half of the model, for its report.

The guest's record holds, for each row held out, the label and what was predicted; a host's has neither.
"""

from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import msgspec

from vfl.arrays import Floats, Integers
from vfl.errors import ModelError
from vfl.jobs.account import Account
from vfl.jobs.agreement import Agreement, verify_signatures
from vfl.jobs.names import resolve_model
from vfl.learn.binning import Monotone
from vfl.learn.holdout import ColumnShare
from vfl.party.config import Party
from vfl.party.documents import Body
from vfl.party.kept_query import KeptQuery
from vfl.party.store import Store

_ARRAYS = ("rows", "label", "weight", "exposure")


@dataclass(frozen=True)
class Evaluation:
    """The rows held out; every array has shape (rows held out,)."""

    rows: Integers  # of the guest's table
    label: Floats
    weight: Floats
    exposure: Floats | None
    predictions: dict[str, Floats]
    """By model: expected labels (with exposure: of the row's own); of several classes their
    probabilities, shape (rows held out, classes)."""


@dataclass(frozen=True)
class Record:
    """A run as one party saw it."""

    model: str
    party: str
    role: str
    parties: list[str]  # guest first
    job: dict[str, Any]  # the job file
    alignment: str
    aligned_rows: int
    ended: str  # ISO 8601, UTC
    account: Account
    rows: dict[str, int] = field(default_factory=dict)  # that train, ...; at a host, that it knows
    metrics: dict[str, dict[str, float]] = field(default_factory=dict)
    measure: str = ""  # what the curve's loss is
    curve: list[dict[str, float | None]] = field(default_factory=list)  # of each tree or iteration
    phases: list[dict[str, float]] = field(default_factory=list)  # seconds of each, by phase
    ending: dict[str, object] = field(default_factory=dict)  # how a linear fit ended
    monotone: dict[str, Monotone] = field(default_factory=dict)  # of the party's own columns, in trees
    agreement: Agreement | None = None  # what all parties signed; of runs since there is one
    ids: str = ""  # digest of the ids of the guest's table in training; of runs since there is one
    warnings: list[str] = field(default_factory=list)  # where the model is weak, for this party's people
    split: dict[str, ColumnShare] = field(default_factory=dict)  # by "group", "time"; at the guest

    @property
    def over_rows(self) -> bool:
        """Whether each party had rows of its own."""
        return bool(self.job["job"].get("partition") == "rows")

    @property
    def server(self) -> str:
        """Who led a job over rows."""
        return "the server" if self.agreement is None else self.agreement.terms.guest


def now() -> str:
    """The present time, as `ended` has it."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def save_record(store: Store, record: Record, evaluation: Evaluation | None = None) -> None:
    """Keep a record. Raises DataError when the store cannot be written."""
    body = msgspec.to_builtins(record)
    if record.agreement is not None and not record.agreement.queries:
        del body["agreement"]["queries"]
    if record.agreement is not None and not record.agreement.approvals:
        del body["agreement"]["approvals"]
    if record.agreement is not None and not record.agreement.commitments:
        del body["agreement"]["commitments"]
    if record.agreement is not None and not record.agreement.audits:
        del body["agreement"]["audits"]
    if evaluation is not None:
        arrays = {name: getattr(evaluation, name) for name in _ARRAYS}
        body["held_out"] = {
            "predictions": {
                name: dict(store.write_array("run", record.model, values))
                for name, values in evaluation.predictions.items()
            },
            **{
                name: dict(store.write_array("run", record.model, values))
                for name, values in arrays.items()
                if values is not None
            },
        }
    store.write("run", record.model, body)


def load_record(store: Store, model: str) -> tuple[Record, Evaluation | None]:
    """A run's record by its model's full name; its evaluation, if rows were held out at the guest.

    Raises ModelError when it is missing, damaged or of an earlier version, which kept less.
    """
    record, held_out = _read(store, model)
    if held_out is None:
        return record, None
    arrays = {name: store.read_array("run", held_out[name]) for name in _ARRAYS if name in held_out}
    predictions = {
        name: store.read_array("run", reference) for name, reference in held_out["predictions"].items()
    }
    if len({len(array) for array in (*arrays.values(), *predictions.values())}) != 1:
        raise ModelError(f"the record of run {model} is damaged: its arrays differ in length")
    evaluation = Evaluation(
        arrays["rows"], arrays["label"], arrays["weight"], arrays.get("exposure"), predictions
    )
    return record, evaluation


def read_record(store: Store, model: str) -> Record:
    """A run's record alone. Raises as `load_record`."""
    return _read(store, model)[0]


def _read(store: Store, model: str) -> tuple[Record, Body | None]:
    """A record, and what it refers to of the rows held out."""
    body = store.read("run", model)
    held_out = body.pop("held_out", None)
    try:
        return msgspec.convert(body, Record), held_out
    except msgspec.ValidationError as error:
        raise ModelError(
            f"the record of run {model} is not what this version of vfl keeps ({error}): train again"
        ) from None


def noted_seals(store: Store, party: str) -> dict[str, str]:
    """The hashes of seals of a party's ledger that came with the runs kept here, and where each is
    noted, in words."""
    places: dict[str, str] = {}
    for name in store.names("run"):
        try:
            ledgers = (store.read("run", name).get("agreement") or {}).get("ledgers", {})
        except ModelError:
            continue
        if isinstance(ledgers, dict) and isinstance(seal := ledgers.get(party), str):
            places.setdefault(seal, f"in run {name}")
    return places


def verify_agreement(party: Party, model: str) -> tuple[str, Agreement, dict[str, str]]:
    """A model's full name, what its parties signed, and what is known of each signature, in words.

    Raises ModelError when the run is not kept or is older than agreements, or a signature fails.
    """
    store = Store(party.party.store)
    name = resolve_model(store, model, "run")
    record, _ = load_record(store, name)
    if record.agreement is None:
        raise ModelError(f"run {name} is of an earlier version of vfl: nothing was signed")
    found = verify_signatures(record.agreement, record.job, party, f"run {name}")
    kept = store.read("model", name).get("query") if name in store.names("model") else None
    if kept is not None:
        query = msgspec.convert(kept, KeptQuery)
        if record.agreement.queries.get(party.name) != query.digest.hex():
            raise ModelError(f"the query that is kept with model {name} is not the one that was signed")
    return name, record.agreement, found
