"""The file of a tariff: how the relativities of a linear model become those that are charged."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, Field, ValidationError, model_validator

from vfl.errors import ConfigError
from vfl.party.config_errors import explain_errors
from vfl.party.config_values import ColumnName, _as_tuple, one_line
from vfl.party.sections import Section
from vfl.party.toml_files import read_toml

Factor = Annotated[float, Field(ge=1e-6, le=1e6)]
Text = Annotated[str, Field(min_length=1, max_length=500), AfterValidator(one_line)]


class RuleSection(Section):
    """What is done to all relativities of levels."""

    decimals: int | None = Field(
        default=None, ge=0, le=9, description="decimals that relativities are rounded to"
    )
    least: Factor | None = Field(default=None, description="lower ones become this")
    most: Factor | None = Field(default=None, description="higher ones become this")

    @model_validator(mode="after")
    def _hold_one(self) -> "RuleSection":
        if not (self.least or 1) <= 1 <= (self.most or 1):
            raise ValueError("least and most must have 1, the base level's relativity, between them")
        return self


class BaseSection(Section):
    """The base rate: what target it is brought to, over the rows held out."""

    target: Literal["model", "actual", "present"] | None = Field(
        default=None,
        description="the total that predictions are brought to: that of the model as it was, of what "
        "happened, or of current_premium",
    )
    total: Annotated[float, Field(gt=0)] | None = Field(
        default=None, description="the total itself, in the label's unit"
    )
    loss_ratio: Annotated[float, Field(gt=0, le=100)] | None = Field(
        default=None, description="what happened by the total"
    )
    digits: int | None = Field(
        default=None, ge=1, le=12, description="significant digits that the base rate is rounded to"
    )

    @model_validator(mode="after")
    def _one_target(self) -> "BaseSection":
        if sum(one is not None for one in (self.target, self.total, self.loss_ratio)) > 1:
            raise ValueError("target, total and loss_ratio exclude each other: keep one of them")
        return self

    @property
    def wanted(self) -> bool:
        """Whether there is a target."""
        return (self.target or self.total or self.loss_ratio) is not None

    @property
    def premiums(self) -> bool | None:
        """Whether the target is a total of premiums; None where the total stays of what it was."""
        if not self.wanted or self.target == "model":
            return None
        return self.target != "actual"


class PointsSection(Section):
    """Points of a scorecard, for models of a 0/1 label: more points, less of what is predicted."""

    pdo: Annotated[float, Field(gt=0)] = Field(default=20, description="points that double the odds")
    score: float = Field(default=600, description="points at these odds")
    odds: Annotated[float, Field(gt=0)] = Field(
        default=50, description="of 0 against 1, to which these points belong"
    )
    decimals: int = Field(default=0, ge=0, le=6, description="decimals that points are rounded to")


class EditSection(Section):
    """A relativity that somebody changes by hand."""

    column: ColumnName = Field(description="a column of this party in the model")
    level: str = Field(default="", max_length=1000, description="of it; none for the slope of a number")
    relativity: Factor | None = Field(
        default=None, description="the new one; of a slope that of a standard deviation"
    )
    times: Factor | None = Field(default=None, description="the factor on the old one")
    reason: Text = Field(description="why, for the log of changes")

    @model_validator(mode="after")
    def _one_way(self) -> "EditSection":
        if (self.relativity is None) == (self.times is None):
            raise ValueError("an edit has either relativity or times")
        return self


class TariffFile(BaseModel):
    """A tariff's file."""

    model_config = Section.model_config

    tariff: RuleSection = RuleSection()
    base: BaseSection = BaseSection()
    points: PointsSection | None = None
    edit: Annotated[tuple[EditSection, ...], Field(max_length=10_000), BeforeValidator(_as_tuple)] = ()

    @model_validator(mode="after")
    def _edits_differ(self) -> "TariffFile":
        places = [(one.column, one.level) for one in self.edit]
        if len(set(places)) < len(places):
            raise ValueError("two edits are of the same column and level: keep one of them")
        return self


def load_tariff(path: Path) -> TariffFile:
    """The file at `path`. Raises ConfigError."""
    try:
        return TariffFile.model_validate(read_toml(path, "tariff"), strict=True)
    except ValidationError as error:
        raise ConfigError(f"{path.name}: {explain_errors(error, TariffFile)}") from None
