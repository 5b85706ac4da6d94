"""The file of edits of shapes: what somebody changes by hand of a model of trees, and why."""

import math
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, BeforeValidator, Field, ValidationError, model_validator

from vfl.errors import ConfigError
from vfl.party.config_errors import explain_errors
from vfl.party.config_values import ColumnName, _as_tuple
from vfl.party.sections import Section
from vfl.party.tariff_file import Factor, Text
from vfl.party.toml_files import read_toml


class ShapeEditSection(Section):
    """A place of a column's shape that somebody moves."""

    column: ColumnName = Field(description="a column of this party with a split in the model")
    above: float | None = Field(default=None, description="of a number: of values above this one")
    up_to: float | None = Field(default=None, description="of a number: of values up to this one")
    level: str | None = Field(default=None, max_length=1000, description="of a category: the level")
    missing: bool = Field(default=False, description="of rows without a value")
    times: Factor | None = Field(
        default=None, description="the factor on the prediction, of a 0/1 label on the odds"
    )
    add: Annotated[float, Field(ge=-1e6, le=1e6)] | None = Field(
        default=None, description="what is added to the score, in place of times"
    )
    reason: Text = Field(description="why, for the log of changes")

    @model_validator(mode="after")
    def _one_place(self) -> "ShapeEditSection":
        if (self.times is None) == (self.add is None):
            raise ValueError("an edit has either times or add")
        ends = [one for one in (self.above, self.up_to) if one is not None]
        if sum([bool(ends), self.level is not None, self.missing]) != 1:
            raise ValueError("an edit is of above and up_to, or of a level, or of missing = true")
        if len(ends) == 2 and not ends[0] < ends[1]:
            raise ValueError("an edit has above below up_to")
        return self

    @property
    def added(self) -> float:
        """What is added to the score."""
        return math.log(self.times) if self.times is not None else (self.add or 0.0)

    @property
    def place(self) -> str:
        """Where it is, in words."""
        if self.missing:
            return "(missing)"
        if self.level is not None:
            return self.level
        above = "" if self.above is None else f"above {self.above:g}"
        up_to = "" if self.up_to is None else f"up to {self.up_to:g}"
        return ", ".join(one for one in (above, up_to) if one)


class ShapeFile(BaseModel):
    """A file of edits."""

    model_config = Section.model_config

    edit: Annotated[
        tuple[ShapeEditSection, ...], Field(min_length=1, max_length=10_000), BeforeValidator(_as_tuple)
    ]


def load_shape_edits(path: Path) -> tuple[ShapeEditSection, ...]:
    """The edits of the file at `path`. Raises ConfigError."""
    try:
        return ShapeFile.model_validate(read_toml(path, "shapes"), strict=True).edit
    except ValidationError as error:
        raise ConfigError(f"{path.name}: {explain_errors(error, ShapeFile)}") from None
