"""What a job over rows says beside its model: the columns that all parties have, and how many there are
to be."""

from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, model_validator

from vfl.learn.binning import Monotone
from vfl.learn.params import GlmParams
from vfl.learn.small_levels import EVERY_OTHER, MISSING, OTHER
from vfl.party.config_values import ColumnNames, one_line
from vfl.party.config_words import plain_key
from vfl.party.linear_rules import GlmSection, check_step
from vfl.party.sections import Section
from vfl.text import nearest_name

MOST_LEVELS = 250
MOST_COLUMNS = 400

ColumnType = Literal["number", "category"]


class SharedColumnSection(Section):
    """A column that all parties of a job over rows have."""

    type: ColumnType = Field(description="number, or category: values that are names")
    levels: ColumnNames = Field(
        default=(),
        max_length=MOST_LEVELS,
        description="of a category, the names that are kept apart; all others count as one",
    )
    monotone: Monotone | None = Field(
        default=None,
        description="of a number, how the score of trees may change with its known values",
    )
    unit: Annotated[str, AfterValidator(one_line)] = Field(
        default="", max_length=100, description="what it is measured in, for people"
    )

    @model_validator(mode="after")
    def _levels_of_categories(self) -> "SharedColumnSection":
        if self.type == "category" and not self.levels:
            raise ValueError("levels is missing: a category names those that are kept apart")
        if self.type == "number" and self.levels:
            raise ValueError('levels are for type = "category": remove the line')
        if self.type == "category" and self.monotone is not None:
            raise ValueError('monotone is for type = "number": names have no order, remove the line')
        return self


class JobGlmSection(GlmParams, GlmSection):
    """A linear model's settings; over rows also the rules for columns, which parties else have for
    their own."""

    @property
    def params(self) -> GlmParams:
        """The settings alone."""
        names = self.model_fields_set & set(GlmParams.model_fields)
        return GlmParams.model_validate({name: getattr(self, name) for name in names})

    @property
    def unsaid(self) -> set[str]:
        """Rules that the job says nothing of, and that are no part of it then."""
        keys = (
            *("bands", "splines", "polynomials", "group", "interactions", "min_level_exposure"),
            *("fuse", "credible"),
        )
        return {key for key in keys if not getattr(self, key)}

    @property
    def unsaid_settings(self) -> set[str]:
        """Settings that earlier versions did not have, and that are no part of a job by default."""
        fields = GlmParams.model_fields
        later = (
            *("inference", "shrink_to", "alphas", "one_standard_error"),
            *("theta", "profile", "dispersion", "l1_ratio", "l1_on", "credibility"),
            *("across", "across_rows", "across_names", "max_leverage"),
        )
        found = {key for key in later if getattr(self, key) == fields[key].default}
        return found | (set() if self.alphas else {"folds"})

    @property
    def of_columns(self) -> GlmSection:
        """The rules alone."""
        names = self.model_fields_set & set(GlmSection.model_fields)
        return GlmSection.model_validate({name: getattr(self, name) for name in names})


class RowsSection(Section):
    """Who takes part in a job over rows."""

    min_parties: int = Field(
        default=2, ge=2, le=64, description="parties with data that must be left for the job to go on"
    )
    without: bool = Field(
        default=False,
        description="whether the others go on without a party that is gone; else the job waits for it, "
        "and ends",
    )


def check_shared_rules(
    columns: Mapping[str, SharedColumnSection], glm: GlmSection, *, linear: bool
) -> None:
    """Raises ValueError for rules of a job over rows that do not fit its columns, or its kind of
    model."""
    for name, column in columns.items():
        if linear and column.monotone is not None:
            raise ValueError(
                f'[columns.{plain_key(name)}] monotone is for model = "secureboost": remove the line'
            )
    for key in ("splines", "polynomials", "interactions", "min_level_exposure", "fuse", "credible"):
        if getattr(glm, key):
            raise ValueError(f'[glm] {key} is not for partition = "rows": remove it')
    for key, named in glm.named.items():
        for name in named:
            shown = plain_key(name)
            if name not in columns:
                near = nearest_name(name, columns)
                hint = f": did you mean '{near}'?" if near else ""
                raise ValueError(f"[glm] {key} has '{shown}', which is no column of the job{hint}")
            is_category = columns[name].type == "category"
            if is_category and key not in ("base", "group"):
                raise ValueError(f"[glm] {key} has '{shown}', which is a category: {key} is of numbers")
            if not is_category and key == "group":
                raise ValueError(
                    f"[glm] group has '{shown}', which is a number: bands cut it into levels"
                )
            if key == "step":
                check_step(glm, name, f"[glm] step has '{shown}', which")
            if key == "base" and not is_category and name not in (*glm.binned, *glm.bands):
                raise ValueError(
                    f"[glm] base has '{shown}', which is a number and not binned: it has no levels"
                )
    for name, groups in glm.group.items():
        known = {*columns[name].levels, OTHER, MISSING, EVERY_OTHER}
        for group, levels in groups.items():
            if not known.issuperset(levels):
                raise ValueError(
                    f"[glm] group of '{plain_key(name)}' has in '{plain_key(group)}' a level that the "
                    f'job does not have: name its levels, "{OTHER}", "{MISSING}" or "{EVERY_OTHER}"'
                )
    for name, level in glm.base.items():
        levels = *columns[name].levels, OTHER, MISSING, *glm.group.get(name, ())
        if columns[name].type == "category" and level not in levels:
            raise ValueError(
                f"[glm] base of '{plain_key(name)}' is none of its levels in the job: name one of "
                f'these, "{OTHER}" or "{MISSING}"'
            )
