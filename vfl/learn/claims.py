"""Claims of policies as labels: frequency, severity under a cap, pure premium, and the large-loss load.

Expected loss of a policy = expected claims x mean capped amount of a claim x load, where the load brings
capped losses back to what was paid: the losses of the rows that train by the same losses capped, over
all of them or by segment (Werner and Modlin, Basic Ratemaking, 5th ed., 2016, chapter 6).

A policy without a claim has no severity. In a model of severity its row stays, with weight 0 and a label
that its loss can take: its gradients are 0, which under encryption are as any others, so that no host
learns which rows have claims.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from vfl.arrays import Floats, Integers, Mask
from vfl.learn.losses import LARGEST, BadLabel

Part = Literal["frequency", "severity", "tweedie"]
"""A model of a project."""

NO_LABEL = 1.0
"""The label of a row of weight 0: any that every loss can take."""


@dataclass(frozen=True)
class PolicyClaims:
    """What happened to each row of the guest's table; arrays of shape (rows,).

    count: its claims; paid: all that they came to; capped: the same with no claim above the cap.
    """

    count: Floats
    paid: Floats
    capped: Floats

    @classmethod
    def of_policies(cls, count: Floats, paid: Floats, cap: float | None) -> "PolicyClaims":
        """From totals of each row, whose claims are then of one size: the cap is on their mean.

        Raises BadLabel where one of the two is above 0 without the other, or below 0.
        """
        check_amounts(paid)
        lacking = (count > 0) & ~(paid > 0)
        if lacking.any():
            raise BadLabel(
                "is 0 where there are claims",
                "count only claims with an amount, or give these claims theirs",
                lacking,
            )
        over = ~(count > 0) & (paid > 0)
        if over.any():
            raise BadLabel("is above 0 where no claim is counted", "count these claims", over)
        return cls(count, paid, paid if cap is None else np.minimum(paid, cap * count))

    @classmethod
    def of_claims(cls, row: Integers, amount: Floats, rows: int, cap: float | None) -> "PolicyClaims":
        """From single claims: `row` is the place of each one's policy, below 0 for claims of none of the
        `rows`. Raises BadLabel for amounts that are not above 0."""
        check_amounts(amount)
        if (none := ~(amount > 0)).any():
            raise BadLabel("must be above 0 but is not", "leave out claims without an amount", none)
        there = row >= 0
        row, amount = row[there], amount[there]
        capped = amount if cap is None else np.minimum(amount, cap)
        count, paid, under = (
            np.bincount(row, of, rows).astype(np.float64) for of in (np.ones(len(row)), amount, capped)
        )
        return cls(count, paid, under)

    def take(self, rows: Integers) -> "PolicyClaims":
        """Those of some rows, in the order given."""
        return PolicyClaims(self.count[rows], self.paid[rows], self.capped[rows])

    def label(self, part: Part, exposure: Floats | None) -> Floats:
        """What a model of the project predicts of each row."""
        if part == "frequency":
            return self.count
        if part == "severity":
            label = np.full(len(self.count), NO_LABEL)
            np.divide(self.capped, self.count, out=label, where=self.count > 0)
            return label
        return self.capped if exposure is None else self.capped / exposure

    def weight(self, part: Part, weight: Floats | None, exposure: Floats | None) -> Floats | None:
        """By how much each row counts in it, of rows that count by `weight` themselves."""
        if part == "frequency":
            return weight
        size = self.count if part == "severity" else exposure
        if size is None or weight is None:
            return weight if size is None else size
        return np.asarray(weight * size)


def check_amounts(amount: Floats) -> None:
    """Raises BadLabel for amounts that cannot be added up."""
    for bad, what in (
        (~np.isfinite(amount), "must be a finite number but is not"),
        (amount < 0, "must not be negative but is"),
        (amount > LARGEST, f"must not be beyond {LARGEST:g} but is"),
    ):
        if bad.any():
            raise BadLabel(what, "correct it", bad)


@dataclass(frozen=True)
class LargeLossLoad:
    """By how much losses are above capped ones: of all rows, and of segments by their text."""

    overall: float
    segments: Mapping[str, float]

    @classmethod
    def of(
        cls,
        claims: PolicyClaims,
        weight: Floats | None = None,
        segment: Sequence[str | None] | NDArray[np.object_] | None = None,
    ) -> "LargeLossLoad":
        """From rows that train; weight: how much each counts. A segment without any loss has none of its
        own."""
        size = np.ones(len(claims.count)) if weight is None else weight
        paid, capped = size * claims.paid, size * claims.capped
        overall = _ratio(float(paid.sum()), float(capped.sum()))
        found: dict[str, float] = {}
        if segment is not None:
            texts = np.array(list(segment), dtype=object)
            for name in sorted({str(one) for one in texts if one is not None}):
                rows: Mask = texts == name
                if (under := float(capped[rows].sum())) > 0:
                    found[name] = _ratio(float(paid[rows].sum()), under)
        return cls(overall, found)

    def at(self, rows: int, segment: Sequence[str | None] | NDArray[np.object_] | None = None) -> Floats:
        """The load of each row, shape (rows,); that of all rows where its segment has none."""
        if segment is None:
            return np.full(rows, self.overall)
        return np.array(
            [
                self.overall if name is None else self.segments.get(name, self.overall)
                for name in segment
            ],
            np.float64,
        )


def _ratio(paid: float, capped: float) -> float:
    return paid / capped if capped > 0 else 1.0
