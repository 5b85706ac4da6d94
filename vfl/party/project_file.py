"""The project file: frequency, severity and pure premium as models of one set of policies.

It is the guest's own. What hosts get of it is an ordinary job for each model, which names the others.
"""

from pathlib import Path
from typing import Annotated, Literal, get_args

from pydantic import AfterValidator, Field, ValidationError, model_validator

from vfl.errors import ConfigError
from vfl.learn.claims import Part
from vfl.learn.params import BoostParams, GlmParams
from vfl.party.config import LABEL_KEYS, Job
from vfl.party.config_errors import explain_errors
from vfl.party.config_values import ColumnName, JobName, LocalPath, ModelName, OneOrMoreColumns, one_line
from vfl.party.config_words import plain_key
from vfl.party.sections import DataSection, Section
from vfl.party.toml_files import read_toml

PARTS: tuple[Part, ...] = get_args(Part)
_LONGEST = 30
"""Of a name: with the longest of the models' endings no longer than what models keep of a job's."""


def _short(name: str) -> str:
    if len(name) > _LONGEST:
        raise ValueError(f"must be of {_LONGEST} characters at most, as its models' names begin with it")
    return name


class ProjectSection(Section):
    """What the models are of, and why they are made."""

    name: Annotated[JobName, AfterValidator(_short)] = Field(
        description="of the project; its models are NAME-frequency, NAME-severity, NAME-tweedie"
    )
    purpose: Annotated[str, AfterValidator(one_line)] = Field(
        min_length=1, max_length=200, description="why, shown to every host"
    )
    counts: ColumnName | None = Field(
        default=None, description="column of the number of claims of each policy, unless [claims] says"
    )
    amounts: ColumnName | None = Field(
        default=None, description="column of what they came to in all, unless [claims] says"
    )
    exposure: ColumnName | None = Field(
        default=None, description="column of time at risk; that of the party file if absent"
    )
    cap: float | None = Field(
        default=None,
        gt=0,
        description="most that a claim counts for in the model of severity; with amounts by policy, "
        "that the mean of its claims counts for",
    )
    load_by: ColumnName | None = Field(
        default=None,
        description="column of the guest's table by whose values the large-loss load differs; one load "
        "for all if absent",
    )
    holdout: float = Field(
        default=0.2, ge=0, lt=1, description="share of the aligned rows kept out for evaluation"
    )
    group: ColumnName | None = Field(
        default=None, description="column of the guest's table: rows of one value go the same way"
    )
    time: ColumnName | None = Field(
        default=None, description="column of the guest's table: the rows of its last values are held out"
    )
    seed: int = Field(default=0, ge=0, lt=2**63, description="of all models' draws")

    @model_validator(mode="after")
    def _columns(self) -> "ProjectSection":
        if (self.counts is None) != (self.amounts is None):
            raise ValueError("counts and amounts belong together: name both, or a table under [claims]")
        named = [name for name in (self.counts, self.amounts, self.exposure) if name is not None]
        if len({*named}) < len(named):
            raise ValueError("counts, amounts and exposure must be different columns")
        if self.load_by is not None and self.cap is None:
            raise ValueError("load_by is of losses above a cap: set cap, or remove the line")
        return self


class ClaimsSection(Section):
    """A second table of the guest: a row a claim."""

    path: LocalPath = Field(description="table of claims, written as that of the party file")
    id: OneOrMoreColumns | None = Field(
        default=None,
        description="its columns that name the policy; those of the party file's id if absent",
    )
    amount: ColumnName = Field(description="its column of what a claim came to")


class ModelSection(Section):
    """One of the models: its kind, and the settings of that kind in a section of its name."""

    model: ModelName = Field(description="kind of model")
    family: Literal["poisson", "negative_binomial"] | None = Field(
        default=None, description="of a linear model of frequency; poisson if absent"
    )
    secureboost: BoostParams | None = Field(default=None, description="as in a job file, without seed")
    glm: GlmParams | None = Field(default=None, description="as in a job file, without seed")

    @model_validator(mode="after")
    def _of_one_kind(self) -> "ModelSection":
        for name in get_args(ModelName):
            params = getattr(self, name)
            if params is None:
                continue
            if name != self.model:
                raise ValueError(f'{name} is not for model = "{self.model}": remove it')
            if "seed" in params.model_fields_set:
                raise ValueError(f"{name} has a seed, which is that of [project]: move it there")
            if getattr(params, "init_model", None) is not None:
                raise ValueError("init_model is for a job of its own: remove it")
        if self.family is not None and self.model != "glm":
            raise ValueError('family is for model = "glm": remove it')
        return self


class Project(Section):
    """A project file."""

    project: ProjectSection
    claims: ClaimsSection | None = None
    frequency: ModelSection
    severity: ModelSection
    tweedie: ModelSection | None = None

    @model_validator(mode="after")
    def _one_place_of_claims(self) -> "Project":
        if (self.claims is None) == (self.project.counts is None):
            raise ValueError(
                "name counts and amounts in [project], or a table of claims under [claims]: one of both"
            )
        for part in ("severity", "tweedie"):
            section = getattr(self, part)
            if section is not None and section.family is not None:
                raise ValueError(f"[{part}] family is for frequency alone: remove it")
        trees = self.severity.secureboost
        if trees is not None and trees.goss_top:
            raise ValueError(
                "[severity] goss_top shows hosts the rows with the largest gradients, which are those "
                "with claims: remove it"
            )
        return self

    @property
    def name(self) -> str:
        return self.project.name

    @property
    def parts(self) -> list[Part]:
        """Its models, in the order in which they are trained."""
        return [part for part in PARTS if getattr(self, part) is not None]

    def job_name(self, part: Part) -> str:
        """The name of a model's job."""
        return f"{self.name}-{part}"

    def job(self, part: Part) -> Job:
        """What hosts are asked for: a model as a job, which names all of the project.

        Raises ConfigError for settings that make no job.
        """
        own, section = self.project, getattr(self, part)
        label = {"frequency": section.family or "poisson", "severity": "gamma"}.get(part, part)
        params = getattr(section, section.model)
        said = {} if params is None else params.model_dump(mode="json", exclude_unset=True)
        job = {
            "name": self.job_name(part),
            "purpose": own.purpose,
            "model": section.model,
            LABEL_KEYS[section.model]: label,
            "holdout": own.holdout,
            "project": [self.job_name(other) for other in self.parts],
            **({"group": own.group} if own.group is not None else {}),
            **({"time": own.time} if own.time is not None else {}),
            **({} if part == "frequency" else {"offset": False}),
        }
        try:
            return Job.model_validate(
                {"job": job, section.model: {**said, "seed": own.seed}}, strict=True
            )
        except ValidationError as error:
            raise ConfigError(f"[{part}] as a job: {explain_errors(error, Job)}") from None

    def data(self, data: DataSection) -> DataSection:
        """[data] of the party file as the models read it: columns of claims and of exposure are named,
        and are no features. Raises ConfigError for one that has another use there."""
        own = self.project
        exposure = own.exposure or data.exposure
        named = {name for name in (own.counts, own.amounts, own.exposure) if name is not None}
        uses = {key: (getattr(data, key),) for key in ("weight", "offset", "current_premium")}
        uses |= {key: tuple(getattr(data, key) or ()) for key in _LISTS} | {"id": data.id_columns}
        for key, names in uses.items():
            for name in sorted(named & {*names}):
                raise ConfigError(
                    f"[data] {key} has '{plain_key(name)}', which [project] names as well: take it out "
                    "of one of the two"
                )
        update: dict[str, object] = {"label": own.counts, "exposure": exposure}
        if data.columns is None:
            aside = {data.label, data.exposure, own.amounts, *(data.ignore or ())}
            update["ignore"] = tuple(sorted(name for name in aside if name is not None))
        return data.model_copy(update=update)


_LISTS = ("columns", "categorical", "dates", "monotone", "protected", "report_by")


def load_project(path: str | Path) -> Project:
    """The project file at `path`. Raises ConfigError."""
    path = Path(path)
    raw = read_toml(path, "project")
    try:
        return Project.model_validate(raw, strict=True, context={"folder": path.absolute().parent})
    except ValidationError as error:
        raise ConfigError(f"{path.name}: {explain_errors(error, Project)}") from None


def is_project(path: str | Path) -> bool:
    """Whether the file at `path` is a project file. Raises ConfigError for one that is not TOML."""
    raw = read_toml(Path(path), "job")
    return "project" in raw and "job" not in raw
