"""Which columns a screening advises to leave out, and why."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from vfl.learn.inference import Inference
from vfl.learn.inflation import InflationDesign
from vfl.learn.screening import Strength, is_weak

Reason = Literal["weak", "inflated"]


@dataclass(frozen=True)
class Thresholds:
    """The least information value, and the most inflation, of columns that stay."""

    least: float
    most: float


def advise(
    strengths: Mapping[str, Strength],
    thresholds: Thresholds,
    design: InflationDesign | None,
    found: Inference | None,
    gives_way: bool = False,
) -> dict[str, Reason]:
    """Columns to leave out: those that are weak, and of the others the most inflated, one after the
    other, until none of the party's own is inflated beyond the most.

    found: what the party knows of its columns among all parties'; None for its own alone. given_way:
    whether its columns give way to those that make them up at other parties.
    """
    weak = [name for name, one in strengths.items() if is_weak(one, thresholds.least)]
    inflated: Sequence[str] = []
    if design is not None:
        # Of those that cannot be told from a later party's one of both stays.
        aliases = found.aliases if found is not None and not gives_way else ()
        stay = design.aliased(found) if found is not None and any(a.parties for a in aliases) else []
        inflated = design.inflated(found, weak, thresholds.most, stay)
        if found is not None and gives_way:
            known = design.inflations(found, [*design.places])
            inflated = [*inflated, *(name for name, one in known.items() if one == float("inf"))]
    reasons: dict[str, Reason] = dict.fromkeys(weak, "weak")
    return reasons | {name: "inflated" for name in inflated if name not in reasons}
