"""The guest's half of a linear model as a tariff: rounded, capped, edited by hand, brought to a target.

Relativities are factors on the prediction, of a 0/1 label on the odds. Edits come first, then caps (of
what nobody has edited), then rounding, then the base rate. A base level's relativity is 1 and stays it;
all else of its level is in the base rate. Slopes of numbers are edited alone: what rounding or a cap of
one would mean depends on the unit.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from vfl.arrays import Floats
from vfl.errors import ConfigError, ModelError
from vfl.learn.losses import Link
from vfl.learn.small_levels import MISSING
from vfl.models.halves import BASE, AnyGuestHalf, AnyHostHalf, Change
from vfl.party.tariff_file import EditSection, PointsSection, RuleSection
from vfl.protocols.linear.scoring import GuestGlm, HostGlm, LinearPart
from vfl.text import in_words, level_order, nearest_name, shown

_MOST_COEFFICIENT = 700.0  # whose exponential is a number
_MOST_SHIFT = 60.0  # of log-odds: beyond, no probability changes
_DIGITS = 12  # of a factor that is told: what a logarithm and its exponential keep of any
_MOST_LEVELS, _MOST_NAME = 20, 40  # of a column, in a message; characters of each


def linear_half(half: AnyGuestHalf) -> GuestGlm:
    """The model of a guest's half. Raises ModelError for one without relativities."""
    if not isinstance(half.model, GuestGlm):
        raise ModelError(f"model {half.name} is of trees: only linear models have rating tables")
    return half.model


def linear_columns(half: AnyHostHalf, host: str) -> GuestGlm:
    """A host's columns as a model without an intercept. Raises ModelError as `linear_half`."""
    if not isinstance(half.model, HostGlm):
        raise ModelError(f"model {half.name} is of trees: only linear models have rating tables")
    return GuestGlm((host,), 0.0, half.model.part, 0, half.model.converged, None, None, 0.0)


@dataclass(frozen=True)
class EditedModel:
    """A half after edits, and what they changed, in order."""

    model: GuestGlm
    changes: tuple[Change, ...]


def edit_model(model: GuestGlm, rules: RuleSection, edits: Sequence[EditSection]) -> EditedModel:
    """Apply edits and rules to all relativities. Raises ConfigError for an edit of what is not there."""
    places = {place: i for i, place in enumerate(model.part.design.coefficients)}
    values = [float(one) for one in model.part.coefficients]
    changes: list[Change] = []

    def change(place: tuple[str, str], after: float, rule: str, reason: str = "") -> None:
        before = _factor(values[places[place]])
        if not math.isclose(after, before, rel_tol=1e-12):
            values[places[place]] = math.log(after)
            changes.append(Change(*place, as_told(before), as_told(after), rule, reason))

    by_hand = set()
    for edit in edits:
        place = (edit.column, edit.level)
        if place not in places or _is_term(model.part, place):
            raise _not_there(model.part, edit)
        by_hand.add(place)
        before = _factor(values[places[place]])
        after = edit.relativity if edit.relativity is not None else before * (edit.times or 1.0)
        change(place, after, "edit", edit.reason)
    of_levels = [place for place in places if place[1] and not _is_term(model.part, place)]
    for place in of_levels:
        if place not in by_hand:
            now = _factor(values[places[place]])
            change(place, min(max(now, rules.least or 0.0), rules.most or math.inf), "cap")
    if rules.decimals is not None:
        least = 10.0**-rules.decimals
        for place in of_levels:
            now = _factor(values[places[place]])
            change(place, max(round(now, rules.decimals), least), "rounding")
    part = LinearPart(model.part.design, tuple(values))
    made = replace(model, part=part, errors=None, intercept_error=None) if changes else model
    return EditedModel(made, tuple(changes))


def _is_term(part: LinearPart, place: tuple[str, str]) -> bool:
    """Whether a coefficient is of a part of a curve, which says nothing by itself."""
    column, level = place
    return level != MISSING and any(one.name == column for one in part.design.curves)


def as_told(factor: float) -> float:
    """A factor as people write it: 180.5, where the logarithm that is kept gives 180.5000000000001."""
    return float(f"{factor:.{_DIGITS}g}")


def _factor(coefficient: float) -> float:
    """The relativity of a coefficient; of one beyond all numbers the greatest."""
    return math.exp(min(coefficient, _MOST_COEFFICIENT))


def _not_there(part: LinearPart, edit: EditSection) -> ConfigError:
    """Why an edit is of nothing that can be edited."""
    design = part.design
    for factor in design.factors:
        if factor.name != edit.column:
            continue
        if edit.level == factor.base:
            return ConfigError(
                f"edit of '{edit.column}': the level is the base level, whose relativity is 1: edit the "
                "other levels, or the base rate"
            )
        if edit.level in factor.joined:
            return ConfigError(
                f"edit of '{edit.column}': the level had too few rows and is joined to the base level"
            )
        if (counts_as := dict(factor.grouped).get(edit.level)) is not None:
            return ConfigError(
                f"edit of '{edit.column}': the level counts as '{counts_as}', of a group or for its few "
                "rows: edit that"
            )
        near = nearest_name(edit.level, [*factor.others, factor.base])
        hint = f": did you mean '{near}'?" if near else "."
        base = f"; '{shown(factor.base, _MOST_NAME)}' is the base level, whose relativity is 1"
        return ConfigError(
            f"edit of '{edit.column}': the model has no such level of it{hint} "
            f"{_listed(factor.others)}{base}"
        )
    if any(one.name == edit.column for one in design.covariates):
        return ConfigError(
            f"edit of '{edit.column}': the column is a number with a slope: leave level out, or bin the "
            "column by binned in [glm] and train again"
        )
    if any(one.name == edit.column for one in design.curves):
        return ConfigError(
            f"edit of '{edit.column}': the column is a curve, whose points go together: cut it into "
            "bands in [glm] and train again"
        )
    names = [one.name for one in (*design.factors, *design.numeric, *design.crossings)]
    near = nearest_name(edit.column, names)
    hint = f": did you mean '{near}'?" if near else ""
    return ConfigError(
        f"edit of '{edit.column}': it is no column of this party in the model{hint}; each "
        "party edits its own"
    )


def _listed(levels: Sequence[str]) -> str:
    """Levels that can be edited, the first of them in their order."""
    ordered = sorted(levels, key=level_order)
    named = [f"'{shown(one, _MOST_NAME)}'" for one in ordered[:_MOST_LEVELS]]
    if more := len(ordered) - len(named):
        named.append(f"{more:,} more, which vfl relativities lists")
    return f"There are {in_words(named)}" if named else "It has no level but the base level"


def move_base(model: GuestGlm, shift: float, digits: int | None) -> EditedModel:
    """Add to the intercept, and round the base rate (of a 0/1 label the base odds)."""
    after = model.intercept + shift
    if digits is not None:
        rate = math.exp(after)
        after = math.log(float(f"{rate:.{digits - 1}e}"))
    if math.isclose(after, model.intercept, rel_tol=0, abs_tol=1e-12):
        return EditedModel(model, ())
    before, now = (as_told(math.exp(one)) for one in (model.intercept, after))
    change = Change(BASE, "", before, now, "base")
    return EditedModel(replace(model, intercept=after, intercept_error=None), (change,))


def shift_to(link: Link, predictions: Floats, weight: Floats, total: float) -> float:
    """What the intercept must be moved by for the predictions' weighted total. Raises ModelError where
    no base rate has it."""
    from scipy.optimize import brentq  # which takes long to import, and reports need it not

    now = float(weight @ predictions)
    if link == "log":
        if not now > 0:
            raise ModelError("all predictions are 0: no base rate brings them to a total")
        return math.log(total / now)
    if not 0 < total < float(weight.sum()):
        raise ModelError("the target is out of reach: a probability lies between 0 and 1")
    tiny = float(np.finfo(np.float64).eps)
    inner = np.clip(predictions, tiny, 1 - tiny)
    odds = np.log(inner) - np.log1p(-inner)

    def missing(shift: float) -> float:
        return float(weight @ moved("logit", inner, np.full(len(odds), shift))) - total

    return float(brentq(missing, -_MOST_SHIFT, _MOST_SHIFT, xtol=1e-13))


def expected_of(link: Link, premiums: Floats, weight: Floats, label: Floats) -> Floats | None:
    """What a tariff of premiums expects of each row: these brought to the total of what happened.

    None where no factor does: nothing happened or, of a 0/1 label, everything.
    """
    happened, most = float(weight @ label), math.inf if link == "log" else float(weight.sum())
    # Rows are looked at too: two sums of the same numbers may be rounded differently.
    everything = link == "logit" and bool((label[weight > 0] >= 1).all())
    if everything or not 0 < happened < most or not premiums.any():
        return None
    shift = shift_to(link, premiums, weight, happened)
    return moved(link, premiums, np.full(len(premiums), shift))


def moved(link: Link, predictions: Floats, shift: Floats) -> Floats:
    """Predictions whose scores are moved."""
    if link == "log":
        return np.asarray(predictions * np.exp(shift))
    tiny = float(np.finfo(np.float64).eps)
    inner = np.clip(predictions, tiny, 1 - tiny)
    score = np.log(inner) - np.log1p(-inner) + shift
    low = np.exp(-np.abs(score))
    return np.asarray(np.where(score >= 0, 1 / (1 + low), low / (1 + low)))


@dataclass(frozen=True)
class Points:
    """A scorecard: points of the base, and of a coefficient."""

    section: PointsSection

    @property
    def _factor(self) -> float:
        return self.section.pdo / math.log(2)

    def base(self, intercept: float) -> float:
        start = self.section.score - self._factor * math.log(self.section.odds)
        return round(start - self._factor * intercept, self.section.decimals)

    def of(self, coefficient: float) -> float:
        return round(-self._factor * coefficient, self.section.decimals)


@dataclass(frozen=True)
class TariffLine:
    """A line of a factor's table; relativities of a slope are of `unit` units of the column."""

    column: str
    level: str
    fitted: float
    charged: float
    rows: int | None  # None of a point of a curve
    unit: float | None = None
    points: float | None = None


def tariff_lines(
    fitted: GuestGlm,
    charged: GuestGlm,
    steps: Callable[[str], float | None],
    points: Points | None,
) -> dict[str, list[TariffLine]]:
    """The tables of the party's own factors by column; `steps`: units of a slope, None a deviation."""
    deviations = {one.name: one.deviation for one in fitted.part.design.covariates}
    tables: dict[str, list[TariffLine]] = {}
    pairs = zip(fitted.part.relativities(), charged.part.relativities(), strict=True)
    for before, after in pairs:
        unit, scale = None, 1.0
        if before.per_unit is not None:
            deviation = deviations[before.column]
            unit = steps(before.column) or deviation
            scale = unit / deviation
        tables.setdefault(before.column, []).append(
            TariffLine(
                before.column,
                before.level,
                as_told(_factor(before.coefficient * scale)),
                as_told(_factor(after.coefficient * scale)),
                before.rows,
                unit,
                None if points is None else points.of(after.coefficient * scale),
            )
        )
    design = fitted.part.design
    in_order = {one.name for one in design.factors if one.edges is not None}
    in_order |= {one.name for one in design.crossings}
    for column, found in tables.items():
        if column not in in_order:
            found.sort(key=lambda one: level_order(one.level))
    return tables


def cell_lines(half: AnyHostHalf, points: Points | None) -> dict[str, list[TariffLine]]:
    """The tables of a host's cells of the guest's levels and its own, on top of those of both levels."""
    tables = {}
    for one in half.model.across if isinstance(half.model, HostGlm) else ():
        tables[one.name] = [
            TariffLine(
                one.name,
                level,
                as_told(_factor(coefficient)),
                as_told(_factor(coefficient)),
                rows,
                points=None if points is None else points.of(coefficient),
            )
            for level, coefficient, rows in one.lines
        ]
    return tables
