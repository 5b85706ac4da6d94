"""The service as OpenAPI tells it: what may be asked, and what is answered; nothing is read by it."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from vfl.online.body import MOST_REASONS

Cell = Annotated[str | int | float | bool | None, Field(description="null where the value is missing")]


class ScoreRequest(BaseModel):
    """Rows to be scored."""

    model_config = ConfigDict(extra="forbid")

    rows: list[dict[str, Cell]] = Field(
        min_length=1,
        description="1 to max_rows objects, each with the guest's columns and ids; a column that the "
        "model needs must be there, be it null",
    )
    model: str | None = Field(
        default=None,
        description="a model, or its job (the newest); not needed if there is only one",
    )
    explain: bool = Field(
        default=False,
        description="true adds `score`, `base`, `contributions` and `reasons` to each result; takes the "
        "scope `explain`",
    )
    top: int = Field(
        default=3,
        ge=1,
        le=MOST_REASONS,
        description="how many reasons in words, with `explain`; 3 if absent",
    )


class HostState(BaseModel):
    """A host and its directory."""

    state: Literal["here", "stale", "away"]
    directory: str = Field(description="the directory's version")
    made: str = Field(description="when the host made it (UTC)")
    age_seconds: int


class ScoredRow(BaseModel):
    """What one row comes to; what follows `unknown_to` is there where it applies."""

    prediction: float | None = Field(description="null if the row has an error")
    unknown_to: list[str] = Field(description="hosts that do not know the row, or were away")
    expected: float | None = Field(default=None, description="the prediction for the row's exposure")
    unknown_levels: list[str] = Field(
        default=[], description="columns with a level that was not in training"
    )
    error: str | None = Field(default=None, description="why there is no prediction")
    score: float | None = Field(default=None, description="on the scale of the model's link")
    base: float | None = Field(default=None, description="what contributions are added to")
    contributions: dict[str, float] | None = Field(
        default=None, description="what each column or party adds to the score"
    )
    reasons: str | None = Field(default=None, description="the strongest contributions, in words")


class ScoreAnswer(BaseModel):
    """Scores, in the order of the rows."""

    model: str
    unit: Literal["probability", "per unit of exposure", "unit of the label"]
    hosts: dict[str, HostState]
    away: list[str] = Field(
        description="hosts that did not answer in time: rows are scored without them"
    )
    results: list[ScoredRow]


class Problem(BaseModel):
    """A cell that cannot be used."""

    row: int = Field(description="counted from 0")
    column: str = Field(description="empty for a row that is no object")
    problem: str


class Failure(BaseModel):
    """Why there is no answer."""

    error: str
    problems: list[Problem] = []


class ColumnOfRows(BaseModel):
    """A column of the rows of a model."""

    name: str
    kind: Literal["number", "date", "category", "id", "exposure", "offset"]
    needed: bool = Field(description="whether each row must have it, be it null")


class ModelState(BaseModel):
    """A model that is served."""

    model: str
    job: str
    unit: str
    explains: bool
    columns: list[ColumnOfRows]
    hosts: dict[str, HostState]


class ModelsAnswer(BaseModel):
    """The models that are served."""

    models: list[ModelState]


class Health(BaseModel):
    """That the process answers."""

    status: Literal["ok"]
    version: str


class Readiness(BaseModel):
    """Whether requests are answered as they should be."""

    ready: bool
    models: dict[str, dict[str, str]] = Field(description="by model and host: here, stale or away")
    away: list[str]
