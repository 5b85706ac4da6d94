"""What a report is made of: a run as one party saw it, gathered by vfl/jobs/report.py.

No id and no row's number is among it.
"""

from dataclasses import dataclass, field
from typing import Any, Literal

from vfl.arrays import Floats, Integers
from vfl.leakage.disclosure import Disclosure
from vfl.learn.binning import Features
from vfl.learn.factor_tables import AGAINST, SUMS
from vfl.learn.holdout import ColumnShare
from vfl.learn.inference import JointTest
from vfl.learn.losses import Family, Loss, Objective, loss_of
from vfl.learn.metrics import Totals, totals
from vfl.models.dependence import Dependence
from vfl.models.halves import objective_of
from vfl.models.kind import AnyKind
from vfl.models.relativities import Line

TOGETHER = "federation"
"""The name of the parties' common model beside that of the guest alone."""


@dataclass(frozen=True)
class Exchange:
    """The messages of one type that went to or came from one peer."""

    peer: str
    direction: str  # "sent" or "received"
    kind: str
    messages: int
    bytes: int
    reveals: str  # what who receives them learns, in the words of the message's definition


@dataclass(frozen=True)
class Beside:
    """Columns of the guest that reports alone look at, of the rows held out; every array has shape
    (rows,).

    policy: a number that rows about the same thing share; None where it is not known. premium: by the
    present tariff, for each row in all, NaN where it has none; `no_premium` says why there is none at
    all. protected, by: columns of text by name. least: rows of the smallest class that is told. notes:
    what else there is to say of them.
    """

    policy: Integers | None = None
    premium: Floats | None = None
    no_premium: str = ""
    protected: Features = field(default_factory=dict)
    by: Features = field(default_factory=dict)
    least: int = 1
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class HeldOut:
    """The rows held out at the guest; every array has shape (rows,)."""

    label: Floats
    weight: Floats
    years: Floats | None  # the exposure column; None without one
    predictions: dict[str, Floats]  # by model: expected labels; of several classes (rows, classes)
    premiums: Floats | None = None  # of a tariff of premiums: what it charges for each row
    """The parties' model among `predictions` is then these premiums, brought to what happened in all."""

    @property
    def charged(self) -> Totals | None:
        """The totals of a tariff of premiums: what happened, the premiums, and exposure."""
        if self.premiums is None:
            return None
        return totals(self.label, self.premiums, self.weight, self.years)

    def totals(self, model: str) -> Totals:
        """What happened, what a model expected, and exposure, weighted."""
        return totals(self.label, self.predictions[model], self.weight, self.years)


@dataclass(frozen=True)
class KeptTable:
    """A table by factors on the rows held out: the levels of `by` first in each row, the total last."""

    model: str
    by: list[str]
    heads: list[str]
    rows: list[list[str | int | float | None]]
    made: str  # ISO 8601, UTC

    @property
    def fits(self) -> bool:
        """Whether its rows have its columns."""
        return (
            bool(self.rows)
            and self.heads == [*self.by, *SUMS, *AGAINST]
            and all(len(row) == len(self.heads) for row in self.rows)
            and all(isinstance(one, str) for row in self.rows for one in row[: len(self.by)])
            and not any(isinstance(one, str) for row in self.rows for one in row[len(self.by) :])
        )


@dataclass(frozen=True)
class Evidence:
    """A run as one party saw it."""

    model: str
    party: str
    role: Literal["guest", "host", "coordinator"]
    """As the party file has it; of a run over rows, "guest" is a party with rows."""
    parties: list[str]  # guest first; without the coordinator
    kind: type[AnyKind]  # of model
    job: dict[str, Any]  # the job file
    aligned_rows: int
    ended: str  # ISO 8601, UTC
    version: str  # of vfl
    seconds: float
    sent: dict[str, int]  # bytes by peer
    received: dict[str, int]
    peak_memory: int  # bytes
    operations: dict[str, int]
    exchanges: list[Exchange]
    alignment: str = ""  # its name; "" of a run over rows
    signers: list[str] = field(default_factory=list)  # of its terms; none of an earlier version
    own_columns: list[str] = field(default_factory=list)  # that entered the job
    edited_from: str = ""  # of an edited half: the model that was trained
    warnings: list[str] = field(default_factory=list)  # of the training, where the model is weak
    label: str = ""  # name of the guest's column
    classes: list[str] = field(default_factory=list)  # of a label of several
    rows: dict[str, int] = field(default_factory=dict)
    metrics: dict[str, dict[str, float]] = field(default_factory=dict)
    measure: str = ""  # what the curve's loss is
    curve: list[dict[str, float | None]] = field(default_factory=list)
    phases: list[dict[str, float]] = field(default_factory=list)
    ending: dict[str, Any] = field(default_factory=dict)
    held_out: HeldOut | None = None
    split: dict[str, ColumnShare] = field(default_factory=dict)  # by "group", "time"
    factors: Features = field(default_factory=dict)  # the guest's columns on the rows held out
    no_factors: str = ""  # why there are none
    beside: Beside = Beside()
    importance: list[tuple[str, str, int, float]] = field(default_factory=list)
    dependence: dict[str, Dependence] = field(default_factory=dict)
    no_dependence: str = ""
    lines: list[Line] = field(default_factory=list)  # of a linear model
    tests: dict[str, JointTest] = field(default_factory=dict)  # of its columns
    inferred: list[str] = field(default_factory=list)  # of it, in sentences
    splits: dict[str, int] = field(default_factory=dict)  # of a host's trees, by column
    tables: list[KeptTable] = field(default_factory=list)  # by hosts' factors
    gave_away: list[Disclosure] = field(default_factory=list)  # none where settings are not known

    @property
    def over_rows(self) -> bool:
        """Whether each party had rows of its own."""
        return bool(self.job["job"].get("partition") == "rows")

    @property
    def loss(self) -> Loss:
        """What the model minimised, whose link turns scores into predictions."""
        settings = self.job[self.kind.name]
        theta, quantile = settings.get("theta", 1.0), settings.get("quantile")
        classes = settings.get("classes")
        return loss_of(self.objective, settings["tweedie_power"], theta, quantile, classes)

    @property
    def objective(self) -> Objective | Family:
        """Of trees, or the family of a linear model."""
        return objective_of(self.job)

    @property
    def alone(self) -> str:
        """The name of the guest's own model."""
        return f"{self.parties[0]} alone"
