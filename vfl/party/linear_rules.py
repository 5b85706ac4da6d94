"""[glm] of a party file: how its columns enter a linear model, and which columns can."""

from collections.abc import Iterable, Sequence
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from vfl.errors import ConfigError
from vfl.learn.curves import MOST_DEGREE
from vfl.learn.pairs import PairsOfJob
from vfl.party.config_values import ColumnName, ColumnNames, ColumnPairs, Groups, Growing, Knots
from vfl.party.config_words import plain_key
from vfl.party.sections import DataSection, Section
from vfl.text import nearest_name


class GlmSection(Section):
    """How this party's columns enter a linear model."""

    binned: ColumnNames = Field(
        default=(), description="numeric columns cut at quantiles, each bin a level"
    )
    bins: int = Field(default=10, ge=2, le=255, description="bins of such a column")
    missing: Literal["mean", "median", "level"] = Field(
        default="mean",
        description="what takes the place of a missing number; level: a column that marks it, too",
    )
    bands: dict[ColumnName, Growing] = Field(
        default_factory=dict,
        description="by numeric column, the numbers with which its bands begin, each band a level: "
        "[21, 25, 65] makes < 21, 21-24, 25-64 and 65+",
    )
    splines: dict[ColumnName, Knots] = Field(
        default_factory=dict,
        description="by numeric column that is a natural cubic spline, its inner knots: how many, at "
        "quantiles, or a list",
    )
    polynomials: dict[ColumnName, Annotated[int, Field(ge=2, le=MOST_DEGREE)]] = Field(
        default_factory=dict, description="by numeric column that is a polynomial, its degree"
    )
    group: dict[ColumnName, Groups] = Field(
        default_factory=dict,
        description='by categorical column and name of a group, the levels that count as one; "*" for '
        "all that no group names",
    )
    interactions: ColumnPairs = Field(
        default=(),
        description="pairs of columns with levels, of which each pair of levels has a coefficient, too",
    )
    base: dict[str, str] = Field(
        default_factory=dict,
        description="by column, the level (of a spline or polynomial the value) that others are "
        "compared with; the one with the largest exposure, at a host with the most rows, if absent",
    )
    min_level_rows: int = Field(
        default=20,
        ge=1,
        description="levels with fewer rows count as one, (any other), bands join a neighbour",
    )
    min_level_exposure: float = Field(
        default=0.0,
        ge=0,
        description="the same of exposure, or of weights (guest)",
    )
    fuse: ColumnNames = Field(
        default=(),
        description="columns of binned or bands whose neighbouring levels are drawn together by alpha, "
        "and under a job's l1_ratio become one where little tells them apart",
    )
    credible: dict[ColumnName, Annotated[float, Field(gt=0, le=1e9)]] = Field(
        default_factory=dict,
        description="by column with levels, the expected claims (rows where the label is no count) with "
        "which a level has a credibility of one half, in jobs with credibility = true",
    )
    step: dict[str, Annotated[float, Field(gt=0)]] = Field(
        default_factory=dict,
        description="by numeric column, of how many units relativities are shown; a standard deviation "
        "if absent",
    )

    @model_validator(mode="after")
    def _one_form_a_column(self) -> "GlmSection":
        forms = ("binned", "bands", "splines", "polynomials", "group")
        seen: dict[str, str] = {}
        for form in forms:
            for name in getattr(self, form):
                if name in seen:
                    raise ValueError(
                        f"{form} has '{plain_key(name)}', which {seen[name]} has, too: leave it in one"
                    )
                seen[name] = form
        return self

    @model_validator(mode="after")
    def _one_penalty_a_column(self) -> "GlmSection":
        for name in self.fuse:
            if name not in (*self.binned, *self.bands):
                raise ValueError(
                    f"fuse has '{plain_key(name)}', whose levels have no order: neither binned nor "
                    "bands has it"
                )
        crossed = {name for pair in self.interactions for name in pair}
        for key, others, other in (
            ("fuse", crossed, "interactions"),
            ("credible", crossed, "interactions"),
            ("credible", {*self.fuse}, "fuse"),
        ):
            for name in getattr(self, key):
                if name in others:
                    raise ValueError(
                        f"{key} has '{plain_key(name)}', which {other} has, too: leave it in one"
                    )
        return self

    @property
    def named(self) -> dict[str, tuple[str, ...]]:
        """The columns that each key names."""
        keys = (
            *("binned", "bands", "splines", "polynomials", "group", "base", "step"),
            *("fuse", "credible"),
        )
        crossed = tuple(dict.fromkeys(name for pair in self.interactions for name in pair))
        return {**{key: tuple(getattr(self, key)) for key in keys}, "interactions": crossed}

    @property
    def rules(self) -> dict[str, Any]:
        """What shapes the model; a step only says how it is shown."""
        return {name: getattr(self, name) for name in type(self).model_fields if name != "step"}


def check_columns_of(glm: GlmSection, data: DataSection, *, is_guest: bool) -> None:
    """Raises ValueError where a key of [glm] names a column that is no feature of the kind that is due
    there."""
    if glm.min_level_exposure and not is_guest:
        raise ValueError(
            "[glm] min_level_exposure is the guest's, who knows the exposure: set min_level_rows"
        )
    with_levels = (*data.categorical, *glm.binned, *glm.bands)
    used = {*data.id_columns, *data.guests.values(), *(name for _, name in data.for_reports)}
    used |= {*(data.ignore or ())}
    for key, names in glm.named.items():
        for name in names:
            if name in used or (data.columns is not None and name not in data.columns):
                raise ValueError(f"[glm] {key} names a column that is no feature by [data]")
            of_numbers = key in ("binned", "bands", "splines", "polynomials", "step")
            if of_numbers and name in data.categorical:
                raise ValueError(f"[glm] {key} names a column that [data] lists under categorical")
            if key == "group" and name not in data.categorical:
                raise ValueError(
                    "[glm] group names a column that [data] does not list under categorical: names are "
                    "grouped, numbers are cut into bands"
                )
            if key in ("interactions", "credible") and name not in with_levels:
                raise ValueError(
                    f"[glm] {key} names a column without levels, '{name}': neither [data] categorical "
                    "nor [glm] binned or bands lists it" + _perhaps(name, with_levels)
                )
            if key == "base" and name not in (*with_levels, *glm.splines, *glm.polynomials):
                raise ValueError(
                    f"[glm] base names a column without levels, '{name}': neither [data] categorical "
                    "nor [glm] binned lists it" + _perhaps(name, with_levels)
                )
    for name in glm.step:
        check_step(glm, name, "[glm] step names a column that")


def check_pairs(glm: GlmSection, data: DataSection, pairs: PairsOfJob, partners: Sequence[str]) -> None:
    """Raises ConfigError where pairs of a job are of no column with levels of the guest's, or of a host
    that is none of its partners."""
    with_levels = (*data.categorical, *glm.binned, *glm.bands)
    for name in pairs.columns:
        if name not in with_levels:
            raise ConfigError(
                f"[glm] across has column '{name}', which has no levels here: neither [data] "
                "categorical nor [glm] binned or bands of the party file lists it"
                + _perhaps(name, with_levels)
            )
        if name in glm.fuse:
            raise ConfigError(
                f"[glm] across has column '{name}', which fuse of the party file has, too: leave it in "
                "one of them"
            )
    for host in pairs.hosts:
        if host not in partners:
            raise ConfigError(
                f"[glm] across has a column of '{host}', which is no host of the party file"
                + _perhaps(host, partners)
            )


def _perhaps(name: str, known: Iterable[str]) -> str:
    near = nearest_name(name, known)
    return "" if near is None else f": did you mean '{near}'?"


def check_step(glm: GlmSection, name: str, what: str) -> None:
    """Raises ValueError for the step of a column that has none; `what` begins the sentence."""
    for form, how in (("binned", "cuts into levels"), ("bands", "cuts into levels")):
        if name in getattr(glm, form):
            raise ValueError(f"{what} {form} {how}: they have none")
    for form in ("splines", "polynomials"):
        if name in getattr(glm, form):
            raise ValueError(f"{what} {form} makes a curve: it has none")
