"""The kinds of models there are: that of a job, and that of a half in the store."""

from collections.abc import Collection, Mapping
from typing import Any, overload

import msgspec

from vfl.errors import ModelError
from vfl.learn.binning import Features
from vfl.models.halves import AnyGuestHalf, AnyHostHalf, GuestHalf, HostHalf
from vfl.models.kind import AnyKind, ColumnRules
from vfl.models.linear import Linear
from vfl.models.parts import OwnColumns, Parts
from vfl.models.trees import Trees
from vfl.party.config import Job, Party
from vfl.party.config_values import ModelName
from vfl.party.documents import convert_document
from vfl.party.store import Store
from vfl.protocols.common.batches import ScoredPart
from vfl.protocols.linear.scoring import GuestGlm, HostGlm
from vfl.protocols.lookup.layout import PartLayout
from vfl.protocols.trees.model import GuestModel, HostModel

KINDS: Mapping[ModelName, type[AnyKind]] = {"secureboost": Trees, "glm": Linear}


def kind_of_job(job: Job) -> AnyKind:
    """The kind of model that a job is about, with its settings."""
    if job.job.model == "glm":
        if job.job.family is None:
            raise ValueError("a linear model has a family")
        return Linear(job.linear, job.job.family)
    return Trees(job.secureboost)


def expected_share(job: Job) -> float:
    """The share of rows that train, as far as the job file says."""
    share = (1 - job.job.holdout) * (1 - kind_of_job(job).validation_share)
    # By groups and by times, rows train that neither holds out (vfl/learn/holdout.py).
    return share if job.job.group is None or job.job.time is None else share**2


def kind_named(name: object, model: str) -> type[AnyKind]:
    """The kind that a document of a model names. Raises ModelError for one that this version lacks."""
    for kind in KINDS.values():
        if kind.name == name:
            return kind
    raise ModelError(f"model {model} is of a kind that this version of vfl does not know: update vfl")


def kind_in(body: Mapping[str, object], model: str) -> type[AnyKind]:
    """The kind of a half by its document; one of early versions does not name it. Raises ModelError."""
    return kind_named(body.get("kind", "secureboost"), model)


def kind_of_model(model: GuestModel | GuestGlm | HostModel | HostGlm) -> type[AnyKind]:
    """The kind of a half's model."""
    return Linear if isinstance(model, GuestGlm | HostGlm) else Trees


def score_from_parts(
    model: GuestModel | GuestGlm,
    own: OwnColumns,
    parts_by_host: Mapping[str, tuple[PartLayout, Parts]],
    *,
    explain: bool = False,
) -> ScoredPart:
    """The scores of rows, without any offset, from the guest's columns and each host's parts: those of a
    batch, bit for bit. A row that a host does not know has None there, and is scored as one of which all
    the host's values are missing.

    For rows again and again make a `scorer` of the kind once. Raises what that and its `score` raise.
    """
    layouts = {host: layout for host, (layout, _) in parts_by_host.items()}
    scorer = kind_of_model(model).scorer(model, layouts, explain)
    return scorer.score(own, {host: parts for host, (_, parts) in parts_by_host.items()})


def rules_of_job(job: Job) -> ColumnRules:
    """What a job over rows says of the columns that all its parties have."""
    columns = (job.columns or {}).items()
    ways = {name: one.monotone for name, one in columns if one.monotone is not None}
    return ColumnRules(ways, glm=job.glm.of_columns)


def rules_of(party: Party) -> ColumnRules:
    """What a party's files say of its columns; a host's policy says of bins as well."""
    least = party.policy.least_bin_rows if party.role == "host" else 1
    return ColumnRules(party.data.monotone, least, party.glm)


def check_rules_of(party: Party, columns: Collection[str], table: str) -> None:
    """Raises ConfigError for a rule of the party file, for whichever kind of model, about a column that
    the table does not have."""
    for kind in KINDS.values():
        kind.check_rules(rules_of(party), columns, table)


def check_levels_of(party: Party, features: Features, table: str) -> None:
    """Raises ConfigError for such a rule about a level that no row of the table has."""
    for kind in KINDS.values():
        kind.check_levels(rules_of(party), features, table)


def save_half(store: Store, half: AnyGuestHalf | AnyHostHalf) -> None:
    """Keep a half. Raises DataError when the store cannot be written."""
    kind = kind_of_model(half.model)
    body = {"kind": kind.name, **msgspec.to_builtins(half, str_keys=True)}
    kind.shorten_document(body["model"])
    if half.query is None:
        del body["query"]
    if isinstance(half, GuestHalf) and not half.edited_from:
        body.pop("edited_from", None)
        body.pop("changes", None)
    if isinstance(half, GuestHalf) and not half.premiums:
        body.pop("premiums", None)
    if isinstance(half, GuestHalf) and not half.classes:
        body.pop("classes", None)
    store.write("model", half.name, body)


@overload
def load_half(store: Store, name: str, role: type[GuestHalf[Any]]) -> AnyGuestHalf: ...
@overload
def load_half(store: Store, name: str, role: type[HostHalf[Any]]) -> AnyHostHalf: ...
def load_half(
    store: Store, name: str, role: type[GuestHalf[Any]] | type[HostHalf[Any]]
) -> AnyGuestHalf | AnyHostHalf:
    """The half of that name or path, GuestHalf or HostHalf as `role` says.

    Raises ModelError when it is missing, damaged, foreign or of a kind that this version lacks.
    """
    body = store.read("model", name)
    kind = kind_in(body, name)
    body.pop("kind", None)
    if role is HostHalf:
        return convert_document(body, kind.host_half, f"model {name}")
    half = convert_document(body, kind.guest_half, f"model {name}")
    if half.objective not in kind.losses:
        raise ModelError(f"model {name} is damaged: no such objective of a model of kind {kind.name}")
    starts = half.model.class_starts if isinstance(half.model, GuestModel) else ()
    if len(starts) != len(half.classes) or (half.objective == "multiclass") != bool(starts):
        raise ModelError(f"model {name} is damaged: its classes are not those of its label")
    try:
        kind.check_half(half.model)
    except ValueError as error:
        raise ModelError(f"model {name} is damaged: {error}") from None
    if not 1 < half.tweedie_power < 2:
        raise ModelError(f"model {name} is damaged: no such tweedie_power")
    return half
