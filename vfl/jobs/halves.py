"""Halves of models and alignments as documents of the party's store.

A document names the model and both parties by the fingerprints of their certificates, so that a half
of another model or another guest is refused. `kind` says which kind of model it is. Format version 1;
old versions stay loadable (a half without a kind is of trees, one without an objective of a 0/1 label).
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, Generic, Literal, TypeVar, cast, get_args, overload

import msgspec
import numpy as np
from numpy.typing import NDArray

from vfl.errors import ModelError
from vfl.learn.drift import Profile
from vfl.learn.levels import Levels
from vfl.learn.losses import Family, Loss, Objective, loss_of
from vfl.party.config_values import Engine, JoinKind
from vfl.party.store import Store
from vfl.protocols.linear.scoring import GuestGlm, HostGlm
from vfl.protocols.trees.model import GuestModel, HostModel

T = TypeVar("T")
G = TypeVar("G", bound=GuestModel | GuestGlm, covariant=True)
H = TypeVar("H", bound=HostModel | HostGlm, covariant=True)
Kind = Literal["secureboost", "glm"]


@dataclass(frozen=True)
class GuestHalf(Generic[G]):
    """The guest's half of a model."""

    name: str
    job: dict[str, Any]
    columns: tuple[str, ...]
    normalise: tuple[str, ...]
    fingerprints: dict[str, str]  # of all parties
    model: G
    metrics: dict[str, dict[str, float]]
    objective: Objective | Family = "binary"  # of trees or of a linear model
    tweedie_power: float = 1.5
    exposure: bool = False  # whether it was trained with an exposure
    offset: bool = False  # and with an offset column
    profiles: dict[str, Profile] = field(default_factory=dict)  # of the aligned rows, by column
    score_profile: Profile | None = None  # of scores without offset, of rows held out if there are any
    fallback: tuple[tuple[str, ...], ...] = ()  # the rules of further keys
    levels: dict[str, Levels] = field(default_factory=dict)  # of the aligned rows, by categorical column

    @property
    def needed(self) -> frozenset[str]:
        """The columns without which no row can be scored, of those that it was trained with."""
        return _needed(self.model)

    @property
    def loss(self) -> Loss:
        """What the model minimised, whose link turns scores into predictions."""
        return loss_of(self.objective, self.tweedie_power)


@dataclass(frozen=True)
class HostHalf(Generic[H]):
    """A host's half of a model."""

    name: str
    job: dict[str, Any]
    columns: tuple[str, ...]
    normalise: tuple[str, ...]
    guest: str  # fingerprint
    host: str  # fingerprint
    model: H
    profiles: dict[str, Profile] = field(default_factory=dict)  # of the aligned rows, by column
    levels: dict[str, Levels] = field(default_factory=dict)  # of these, by categorical column

    @property
    def needed(self) -> frozenset[str]:
        """The columns without which no row can be scored, of those that it was trained with."""
        return _needed(self.model)


AnyGuestHalf = GuestHalf[GuestModel | GuestGlm]
AnyHostHalf = HostHalf[HostModel | HostGlm]

# By kind: the guest's half, a host's, and what the label may be.
_KINDS: dict[Kind, tuple[type[AnyGuestHalf], type[AnyHostHalf], tuple[str, ...]]] = {
    "secureboost": (GuestHalf[GuestModel], HostHalf[HostModel], get_args(Objective)),
    "glm": (GuestHalf[GuestGlm], HostHalf[HostGlm], get_args(Family)),
}


def _needed(model: GuestModel | GuestGlm | HostModel | HostGlm) -> frozenset[str]:
    """Trees do without the columns that have no split; a linear model has a coefficient for each."""
    if isinstance(model, GuestModel | HostModel):
        return frozenset(split.column for split in model.splits)
    design = model.part.design
    return frozenset([f.name for f in design.factors] + [c.name for c in design.covariates])


@dataclass(frozen=True)
class Alignment:
    """Which rows of the party's table are joined to those of the others, in the common order.

    `rows` are -1 where a host has none (left join). So that rows are found again in a table that has
    changed, `digests` has 16 bytes of each row, or at a host of each of its rows in the order in which
    they come first: a hash of their ids under `key`, which is random and stays here. A guest keeps for
    each channel (one with all hosts, or of a left join one with each host, by name) and row the number
    of the matched id and of the key that matched it, -1 for none; a host the keys of its rows.
    Alignments of earlier versions have none of these.
    """

    name: str
    guest: str  # fingerprint
    parties: dict[str, str]  # names, and fingerprints as far as this party knows them
    normalise: tuple[str, ...]
    ids: str  # digest of the normalised ids of the table that was aligned
    rows: NDArray[np.int64]
    made: str = ""  # ISO 8601, UTC
    join: JoinKind = "inner"
    engine: Engine = "ecdh"
    fallback: tuple[tuple[str, ...], ...] = ()  # the rules of further keys
    many: bool = False  # whether the guest joins several rows to one of a host's
    extends: str | None = None
    days: int | None = None  # for which it is of use, by the policies of all hosts that set a limit
    by_key: dict[str, tuple[int, ...]] = field(default_factory=dict)  # ids that each key matched
    key: str = ""  # of the digests, in hex
    digests: NDArray[np.uint8] | None = None  # shape (rows or ids, 16)
    matched: NDArray[np.int32] | None = None  # shape (channels, rows)
    keys: NDArray[np.int8] | None = None  # shape (channels, rows)

    def __repr__(self) -> str:
        return f"Alignment({self.name!r}, {len(self.rows):,} rows)"

    @property
    def rules(self) -> list[tuple[str, ...]]:
        """The rules of all keys."""
        return [self.normalise, *self.fallback]


_ARRAYS = ("rows", "digests", "matched", "keys")


def save_half(store: Store, half: AnyGuestHalf | AnyHostHalf) -> None:
    """Keep a half. Raises DataError when the store cannot be written."""
    kind: Kind = "glm" if isinstance(half.model, GuestGlm | HostGlm) else "secureboost"
    store.write("model", half.name, {"kind": kind, **msgspec.to_builtins(half, str_keys=True)})


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
    kind = body.pop("kind", "secureboost")
    if kind not in _KINDS:
        raise ModelError(f"model {name} is of a kind that this version of vfl does not know: update vfl")
    guest, host, objectives = _KINDS[cast(Kind, kind)]
    if role is HostHalf:
        return _converted(body, host, f"model {name}")
    half = _converted(body, guest, f"model {name}")
    if half.objective not in objectives:
        raise ModelError(f"model {name} is damaged: no such objective of a model of kind {kind}")
    if isinstance(half.model, GuestModel):
        try:
            half.model.check()
        except ValueError as error:
            raise ModelError(f"model {name} is damaged: {error}") from None
    if not 1 < half.tweedie_power < 2:
        raise ModelError(f"model {name} is damaged: no such tweedie_power")
    return half


def save_alignment(store: Store, alignment: Alignment) -> None:
    """Keep an alignment. Raises DataError when the store cannot be written."""
    name = alignment.name
    body = {
        field.name: value
        for field in fields(alignment)
        if (value := getattr(alignment, field.name)) is not None and field.name not in _ARRAYS
    }
    for array in _ARRAYS:
        if (values := getattr(alignment, array)) is not None:
            body[array] = dict(store.write_array("alignment", name, values))
    store.write("alignment", name, body)


def load_alignment(store: Store, name: str) -> Alignment:
    """The alignment of that name. Raises ModelError when it is missing or damaged."""
    body = store.read("alignment", name)
    refs = {array: body.pop(array) for array in _ARRAYS if array in body}
    body |= {array: store.read_array("alignment", ref) for array, ref in refs.items()}
    return _converted(body, Alignment, f"alignment {name}")


def ids_digest(ids: Sequence[bytes]) -> str:
    """SHA-256 of a table's normalised ids in their order: tells a changed table from the same one."""
    digest = hashlib.sha256()
    for one in ids:
        digest.update(len(one).to_bytes(4, "big") + one)
    return digest.hexdigest()


def _converted(body: Mapping[str, Any], kind: type[T], what: str) -> T:
    try:
        return msgspec.convert(body, kind, str_keys=True, dec_hook=_as_is)
    except msgspec.ValidationError as error:
        hint = "it may be the other party's half, or of another version"
        raise ModelError(f"{what} is not what this command needs: {error} ({hint})") from None


def _as_is(kind: type[Any], value: object) -> object:
    """Arrays lie beside the document and come as arrays already."""
    if not isinstance(value, np.ndarray):
        raise TypeError("no array")
    return value
