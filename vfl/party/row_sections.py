"""What a job over rows says beside its model: the columns that all parties have, and how many there are
to be."""

from typing import Annotated, Literal

from pydantic import AfterValidator, Field, model_validator

from vfl.party.config_values import ColumnNames, one_line
from vfl.party.sections import Section

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
    unit: Annotated[str, AfterValidator(one_line)] = Field(
        default="", max_length=100, description="what it is measured in, for people"
    )

    @model_validator(mode="after")
    def _levels_of_categories(self) -> "SharedColumnSection":
        if self.type == "category" and not self.levels:
            raise ValueError("levels is missing: a category names those that are kept apart")
        if self.type == "number" and self.levels:
            raise ValueError('levels are for type = "category": remove the line')
        return self


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
