"""A party's columns for a linear model, by the rules of its own party file."""

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from vfl.errors import ConfigError, DataError
from vfl.learn.binning import Features
from vfl.learn.design import MISSING, Covariate, Design, Matrix, Rules
from vfl.learn.losses import Floats, Link
from vfl.party.sections import GlmSection
from vfl.protocols.common.bits import Mask
from vfl.protocols.linear.scoring import GuestGlm, HostGlm, LinearPart
from vfl.text import OrderKey, level_order, nearest_name

INTERCEPT = "(intercept)"
COLUMNS = (
    *("column", "level", "coefficient", "per_unit", "relativity", "rows"),
    *("step", "per_step", "relativity_per_step"),
)
"""Of the relativities, in the order in which they are written."""

_NAMED = 3  # coefficients that an error names at most


def prepared(
    table: str, features: Features, training: Mask, section: GlmSection, alpha: float
) -> tuple[Design, Matrix]:
    """The design fitted to the rows that train, and the matrix of all rows.

    `training` has an entry a row; `features` may be none, as of a guest with a label alone. Raises
    DataError naming the table, the column and what to do: for columns that no linear model can use, and
    with `alpha` = 0 for columns that are linear combinations of others. Peers are told no name.
    """
    rules = Rules(**section.rules)
    for name in section.step:
        if name not in features:
            raise DataError(
                f"{table}: there is no column '{name}', for which step in [glm] has a number",
                for_peer="one of its columns cannot enter a linear model (its log has the details)",
            )
    try:
        design = Design.fit({name: values[training] for name, values in features.items()}, rules)
        matrix = design.matrix(features, len(training))
    except ValueError as error:
        raise DataError(
            f"{table}: {error}",
            for_peer="one of its columns cannot enter a linear model (its log has the details)",
        ) from None
    dependent = [] if alpha else design.dependent(matrix.take(training))
    if dependent:
        raise DataError(
            f"{table}: {_listed(dependent)} of other columns: leave out columns (ignore), or set the "
            "job's alpha above 0",
            for_peer="some of its columns are linear combinations of others: it must leave them out, or "
            "the job needs alpha above 0",
        )
    return design, matrix


def check_rules(section: GlmSection, features: Collection[str], table: str) -> None:
    """Raises ConfigError for a rule of [glm] about a column that the table does not have."""
    for key, names in (("binned", section.binned), ("base", tuple(section.base))):
        for name in names:
            if name not in features:
                near = nearest_name(name, features)
                hint = f": did you mean '{near}'?" if near else ""
                raise ConfigError(f"[glm] {key} has '{name}', which is no feature of {table}{hint}")


def check_levels(section: GlmSection, features: Features, table: str) -> None:
    """Raises ConfigError for a base level that no row of the table has. Rows that train may lack others,
    which training alone shows."""
    for name, level in section.base.items():
        values = features[name]
        if values.dtype == object and level != MISSING and level not in values:
            raise ConfigError(
                f"[glm] base of column '{name}' is a level that no row of {table} has: correct it, or "
                "leave it out for the most frequent one"
            )


@dataclass(frozen=True)
class OwnScores:
    """What a party's columns add to the score of each row of a table."""

    rows: Floats  # shape (rows,)
    missing: float  # to that of a row of which the party knows nothing
    unseen: dict[str, int]  # rows with a level that was not in training, by column


def own_scores(table: str, part: LinearPart, features: Features, rows: int) -> OwnScores:
    """Raises DataError naming the table and the column for one that is not as it was in training."""
    try:
        return OwnScores(
            part.scores(features, rows), part.missing_score(features), part.design.unseen(features)
        )
    except ValueError as error:
        raise DataError(
            f"{table}: {error}",
            for_peer="one of its columns is not as it was in training (its log has the details)",
        ) from None


@dataclass(frozen=True)
class Line:
    """A coefficient as `Relativity` has it, and of a numeric column the effect of a step of it.

    A unit of a column (a kilogram, a euro) may change hardly anything: a step is as many units as its
    owner says, or a standard deviation. The intercept has no rows. Under an identity link nothing is
    multiplied: there are no relativities.
    """

    column: str
    level: str
    coefficient: float
    per_unit: float | None
    relativity: float | None
    rows: int | None
    step: float | None = None  # units of the column; slopes only
    per_step: float | None = None  # what a step adds to the score
    relativity_per_step: float | None = None
    is_deviation: bool = False
    """Whether the step is the standard deviation of the rows that trained."""

    @property
    def cells(self) -> tuple[str | float | None, ...]:
        """In the order of COLUMNS."""
        return tuple(getattr(self, name) for name in COLUMNS)

    @property
    def place(self) -> str:
        """The level, or of what step: 'per 10,000', 'per 8.214 (SD)'."""
        if self.step is None:
            return self.level
        if not self.is_deviation:
            return f"per {self.step:,}".removesuffix(".0")
        digits = 3 - math.floor(math.log10(self.step))
        short = f"{self.step:,.{max(digits, 0)}f}" if -12 <= digits <= 8 else f"{self.step:.3e}"
        return f"per {short} (SD)"

    @property
    def factor(self) -> float | None:
        """The relativity of the level, or of a step."""
        return self.relativity if self.step is None else self.relativity_per_step

    @property
    def effect(self) -> float:
        """What the level, or a step, adds to the score."""
        return self.coefficient if self.per_step is None else self.per_step


def lines(model: GuestGlm | HostGlm, link: Link, steps: Mapping[str, float] | None = None) -> list[Line]:
    """What a half of a model says, for its owner to read: the guest's intercept, then each column's.

    `steps` are the owner's, in units, by numeric column. Levels stand in their own order, missing last.
    """
    slopes = {one.name: one for one in model.part.design.covariates}
    found = [
        Line(one.column, one.level, one.coefficient, one.per_unit, one.relativity, one.rows)
        if one.per_unit is None
        else _slope(slopes[one.column], one.coefficient, one.relativity, (steps or {}).get(one.column))
        for one in model.part.relativities()
    ]
    places = {line.column: place for place, line in enumerate(found)}
    found.sort(key=lambda line: (places[line.column], _level_key(line.level)))
    if isinstance(model, GuestGlm):
        with np.errstate(over="ignore"):
            factor = float(np.exp(model.intercept))
        found.insert(0, Line(INTERCEPT, "", model.intercept, None, factor, None))
    if link == "identity":
        return [replace(line, relativity=None, relativity_per_step=None) for line in found]
    return found


def _slope(column: Covariate, coefficient: float, relativity: float, step: float | None) -> Line:
    """The line of a numeric column, whose coefficient is that of a standard deviation."""
    size = column.deviation if step is None else step
    effect = coefficient if step is None else coefficient / column.deviation * step
    try:
        factor = math.exp(effect)
    except OverflowError:
        factor = math.inf
    unit = coefficient / column.deviation
    return Line(
        *(column.name, "", coefficient, unit, relativity, column.rows),
        *(size, effect, factor, step is None),
    )


def _level_key(level: str) -> tuple[int, OrderKey]:
    """The slope of a column first, missing values last."""
    return (0, ()) if not level else (2, ()) if level == MISSING else (1, level_order(level))


def _listed(coefficients: Sequence[tuple[str, str]]) -> str:
    names = [
        f"column '{column}'" + (f" at level '{level}'" if level else "")
        for column, level in coefficients[:_NAMED]
    ]
    if len(coefficients) > _NAMED:
        names.append(f"{len(coefficients) - _NAMED:,} more")
    *first, last = names
    if not first:
        return f"{last} is a linear combination"
    return f"{', '.join(first)} and {last} are linear combinations"
