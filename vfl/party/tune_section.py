"""[tune] of a job file: which settings a search tries, and how trials are compared."""

import itertools
import sys
from collections.abc import Mapping, Sequence
from typing import Annotated, Literal

from pydantic import BaseModel, Field, PlainSerializer, PlainValidator, WithJsonSchema

from vfl.learn.params import BoostParams, GlmParams
from vfl.party.config_words import plain_key
from vfl.party.sections import Section
from vfl.text import nearest_name

MOST_TRIALS = 1000
_MOST_VALUES = 50  # of a list
_MOST_SETTINGS = 16

Setting = int | float
Settings = Mapping[str, Setting]
"""The settings of a trial, by name."""

OF_TREES = (
    *("trees", "depth", "learning_rate", "max_bins", "min_bin_rows", "reg_lambda", "reg_alpha"),
    *("gamma", "min_child_weight", "min_child_rows", "subsample", "colsample"),
)
OF_LINEAR = ("alpha", "l1_ratio")
"""The settings that a search may vary, by kind of model."""
WHOLE = frozenset({"trees", "depth", "max_bins", "min_bin_rows", "min_child_rows"})
"""Those that are whole numbers."""


class Range(BaseModel):
    """Values from `low` to `high`, both included: whole numbers where both are."""

    model_config = Section.model_config

    low: Setting
    high: Setting
    log: bool = False

    def has(self, value: Setting) -> bool:
        return self.low <= value <= self.high

    @property
    def ends(self) -> tuple[Setting, Setting]:
        return self.low, self.high


class Values(BaseModel):
    """The values of a list."""

    model_config = Section.model_config

    values: tuple[Setting, ...]

    def has(self, value: Setting) -> bool:
        return value in self.values

    @property
    def ends(self) -> tuple[Setting, Setting]:
        return min(self.values), max(self.values)


Choice = Range | Values


def _is_number(value: object) -> bool:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return abs(value) <= sys.float_info.max  # of a file, a whole number may have hundreds of digits


def _choice(value: object) -> Choice:
    """What a file says of a setting."""
    if isinstance(value, Range | Values):
        return value
    if isinstance(value, list):
        if not 1 <= len(value) <= _MOST_VALUES or not all(map(_is_number, value)):
            raise ValueError(f"must be a list of 1 to {_MOST_VALUES} numbers")
        if len({*value}) < len(value):
            raise ValueError("names a value twice")
        return Values(values=tuple(value))
    if not isinstance(value, Mapping) or not {"low", "high"} <= {*value} <= {"low", "high", "log"}:
        raise ValueError("must be a list of numbers, or {low = 0.02, high = 0.3, log = true}")
    low, high, log = value["low"], value["high"], value.get("log", False)
    if not (_is_number(low) and _is_number(high) and isinstance(log, bool)):
        raise ValueError("must have numbers as low and high, and true or false as log")
    if not low < high:
        raise ValueError("must have a low below high")
    if log and low <= 0:
        raise ValueError("must have a low above 0 for log = true")
    return Range(low=low, high=high, log=log)


def _written(choice: Choice) -> object:
    return choice.model_dump() if isinstance(choice, Range) else list(choice.values)


_NUMBERS = {"type": "array", "items": {"type": "number"}, "minItems": 1, "maxItems": _MOST_VALUES}
_RANGE = {
    "type": "object",
    "properties": {"low": {"type": "number"}, "high": {"type": "number"}, "log": {"type": "boolean"}},
    "required": ["low", "high"],
    "additionalProperties": False,
}
Chosen = Annotated[
    Choice,
    PlainValidator(_choice),
    PlainSerializer(_written),
    WithJsonSchema({"anyOf": [_NUMBERS, _RANGE]}),
]


class TuneSection(Section):
    """How `vfl tune` searches for settings of the job's model."""

    trials: int = Field(default=30, ge=1, le=MOST_TRIALS, description="trials at most, over all runs")
    seconds: float | None = Field(
        default=None, gt=0, description="seconds after which a run begins no further trial"
    )
    seed: int = Field(
        default=0, ge=0, lt=2**32, description="of what is tried; folds are drawn by the guest alone"
    )
    folds: int | None = Field(
        default=None,
        ge=2,
        le=20,
        description="parts of the rows that train, each of which judges a training by the others",
    )
    validation_share: float = Field(
        default=0.2,
        gt=0,
        lt=1,
        description="share of the rows that train by which trials are compared, without folds and where "
        "the job has no validation_share",
    )
    early_stopping_rounds: int = Field(
        default=10,
        ge=0,
        description="of trees, where the job has none: stop after so many without a better loss; 0 is "
        "never",
    )
    metric: Literal["loss", "gini"] = Field(
        default="loss", description="what is best: the least loss, or the highest Gini index"
    )
    prune: bool = Field(
        default=True,
        description="whether a trial of trees ends that is worse than the median of earlier ones after "
        "as many trees",
    )
    space: dict[str, Chosen] = Field(
        default_factory=dict,
        max_length=_MOST_SETTINGS,
        description="by setting, the values to try: a list, or {low, high, log}",
    )


def check_space(tune: TuneSection, params: BoostParams | GlmParams) -> None:
    """Raises ValueError for a space that the settings of a job cannot have."""
    may = OF_TREES if isinstance(params, BoostParams) else OF_LINEAR
    for name, choice in tune.space.items():
        if name not in may:
            near = nearest_name(name, may)
            hint = f"did you mean '{near}'?" if near else f"a search varies {', '.join(may)}"
            raise ValueError(f"[tune.space] has no setting '{plain_key(name)}': {hint}")
        for value in choice.values if isinstance(choice, Values) else choice.ends:
            if name in WHOLE and not isinstance(value, int):
                raise ValueError(f"[tune.space] {name} must have whole numbers")
    if isinstance(params, GlmParams) and (params.alphas or params.profile):
        which = "alphas" if params.alphas else "profile"
        raise ValueError(f"[tune] compares fits of given settings: take {which} out of [glm]")


def default_space(params: BoostParams | GlmParams) -> dict[str, Choice]:
    """What is tried where a job names nothing.

    Nothing in it changes a host's split candidates, so that one hint serves all trials over the lattice
    engine: no `max_bins`, no `min_bin_rows`, no `min_child_rows`.
    """
    if isinstance(params, GlmParams):
        space: dict[str, Choice] = {"alpha": Range(low=1e-5, high=1.0, log=True)}
        can = params.scores == "guest" and params.shrink_to == "base"
        can = can and not (params.inference or params.across or params.credibility)
        return space | ({"l1_ratio": Values(values=(0.0, 0.5, 1.0))} if can else {})
    return {
        "learning_rate": Range(low=0.02, high=0.3, log=True),
        "depth": Values(values=(2, 3, 4, 5, 6)),
        "min_child_weight": Range(low=1.0, high=100.0, log=True),
        "reg_lambda": Range(low=0.1, high=30.0, log=True),
        "colsample": Range(low=0.5, high=1.0),
    }


def corners(space: Mapping[str, Choice]) -> Sequence[Settings]:
    """The settings of all lowest values, of all highest, and of each alone at its other end."""
    ends = {name: choice.ends for name, choice in space.items()}
    low, high = ({name: pair[end] for name, pair in ends.items()} for end in (0, 1))
    alone = [
        {**all_, name: pair[1 - end]}
        for (end, all_), (name, pair) in itertools.product(((0, low), (1, high)), ends.items())
    ]
    return [low, high, *alone]
