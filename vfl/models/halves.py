"""Halves of models: what each party keeps, as documents of its store.

A document names the model and both parties by the fingerprints of their certificates, so that a half
of another model or another guest is refused. `kind` says which kind of model it is. Format version 1;
old versions stay loadable (a half without a kind is of trees, one without an objective of a 0/1 label).
kinds.py reads and writes them.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar, cast

from vfl.learn.drift import Profile
from vfl.learn.levels import Levels
from vfl.learn.losses import Family, Loss, Objective, loss_of
from vfl.party.kept_query import KeptQuery
from vfl.protocols.linear.scoring import GuestGlm, HostGlm
from vfl.protocols.trees.model import GuestModel, HostModel

G = TypeVar("G", bound=GuestModel | GuestGlm, covariant=True)
H = TypeVar("H", bound=HostModel | HostGlm, covariant=True)


@dataclass(frozen=True)
class Change:
    """A change of an edited half: a relativity, that of a standard deviation where the level is "", or
    the base rate, whose column is `BASE`. `rule`: "edit", "cap", "rounding" or "base"; `reason`: of an
    edit, in its author's words."""

    column: str
    level: str
    before: float
    after: float
    rule: str
    reason: str = ""


BASE = "(base rate)"


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
    query: KeptQuery | None = None  # that made the table
    edited_from: str = ""  # of an edited half: the name of the model that was trained
    changes: tuple[Change, ...] = ()  # of all edits since
    premiums: bool = False  # whether edits have brought the base rate to a total of premiums
    classes: tuple[str, ...] = ()  # the label's, where it has several, as its column has them

    @property
    def trained_name(self) -> str:
        """The name of the model that was trained, under which the hosts keep their halves."""
        return self.edited_from or self.name

    @property
    def loss(self) -> Loss:
        """What the model minimised, whose link turns scores into predictions."""
        theta = self.job.get("glm", {}).get("theta", 1.0)
        several = len(self.classes) or None
        return loss_of(self.objective, self.tweedie_power, theta, quantile_of(self.job), several)


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
    query: KeptQuery | None = None  # that made the table


AnyGuestHalf = GuestHalf[GuestModel | GuestGlm]
AnyHostHalf = HostHalf[HostModel | HostGlm]


def quantile_of(job: Mapping[str, Any]) -> float | None:
    """Which quantile of the label trees predict, by a job's settings; None where it is the mean."""
    return cast(float | None, job.get("secureboost", {}).get("quantile"))


def objective_of(job: Mapping[str, Any]) -> Objective | Family:
    """What the label of a job's settings may be; 0 or 1 in those from before there was a choice."""
    said = job["job"]
    return cast(Objective | Family, said.get("objective") or said.get("family") or "binary")
