"""A search for settings: what each trial trains, as the guest and every host make it of the job."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pydantic import ValidationError

from vfl.errors import ConfigError
from vfl.learn.params import BoostParams
from vfl.party.config import Job
from vfl.party.config_errors import describe_key
from vfl.party.tune_section import (
    WHOLE,
    Choice,
    Setting,
    Settings,
    TuneSection,
    corners,
    default_space,
)

_CANDIDATES = ("max_bins", "min_bin_rows", "min_child_rows")
"""Settings that change which split candidates hosts have."""


@dataclass(frozen=True)
class Search:
    """A job and what is tried of it. The job has all of it written out, the space as well."""

    job: Job
    tune: TuneSection

    @classmethod
    def of(cls, job: Job) -> "Search":
        """That of a job file. Raises ConfigError for a job that has none."""
        tune = job.tune or TuneSection()
        why = None
        if job.over_rows:
            why = '`vfl tune` is for partition = "columns": leave partition, [columns] and [rows] out'
        elif job.params.coordinator is not None:
            why = (
                "`vfl tune` trains without a coordinator: take coordinator = "
                f"{job.params.coordinator!r} out, with the hidden sums or scores that need it"
            )
        elif isinstance(job.params, BoostParams) and job.params.init_model is not None:
            why = "`vfl tune` compares models that begin anew: take init_model out"
        elif job.linear.inference:
            why = "`vfl tune` keeps no coefficients: take inference out of [glm]"
        elif tune.folds and job.linear.across:
            why = (
                "across of [glm] does not go with folds of [tune], of which each may have few rows of a "
                "pair: leave one of them out"
            )
        if why is not None:
            raise ConfigError(why)
        space = tune.space or default_space(job.params)
        tune = tune.model_copy(update={"space": space})
        search = cls(job.model_copy(update={"tune": tune}), tune)
        for ends in corners(space):
            try:
                search.trial(ends)
            except ValidationError as error:
                raise ConfigError(f"[tune.space] {_explain(error, job)}") from None
        return search

    @property
    def space(self) -> Mapping[str, Choice]:
        return self.tune.space

    @property
    def judges(self) -> int:
        """The trainings of a trial."""
        return self.tune.folds or 1

    @property
    def most_hints(self) -> bool:
        """Whether trials differ in hosts' split candidates, so that no hint of them serves all."""
        return any(name in self.space for name in _CANDIDATES)

    @property
    def split(self) -> Job:
        """The job by which rows are split: those that train, and those by which trials are compared."""
        return self._with({} if self.tune.folds else self._judging)

    def trial(self, settings: Settings) -> Job:
        """The job of a trial."""
        return self._with({**settings, **self._judging})

    def best(self, settings: Settings, trees: int | None) -> Job:
        """The job to train with the settings of a trial. trees: how many were best, of a job that does
        not find that out itself."""
        params = self.job.params
        stops = isinstance(params, BoostParams) and params.early_stopping_rounds
        return self._with(settings if trees is None or stops else {**settings, "trees": trees})

    def has(self, settings: Mapping[str, object]) -> bool:
        """Whether settings are of the space."""
        return settings.keys() == self.space.keys() and all(
            isinstance(value, int | float)
            and not isinstance(value, bool)
            and (isinstance(value, int) or name not in WHOLE)
            and self.space[name].has(value)
            for name, value in settings.items()
        )

    @property
    def first(self) -> dict[str, Setting] | None:
        """The settings of the job itself, if they are of the space."""
        own = {name: getattr(self.job.params, name) for name in self.space}
        return own if self.has(own) else None

    @property
    def extremes(self) -> Sequence[Job]:
        """Jobs of which one is as far as any trial in each setting by itself."""
        return [self.trial(ends) for ends in corners(self.space)]

    @property
    def tells_most(self) -> Job:
        """The job of the settings by which a training tells the most sums about a row."""
        settings = {name: choice.ends[0] for name, choice in self.space.items()}
        highest = ["trees", "depth"]
        if self.job.params.encryption != "lattice":  # by which fewer rows are told more of
            highest.append("subsample")
        settings |= {name: self.space[name].ends[1] for name in highest if name in self.space}
        return self.trial(settings)

    @property
    def _judging(self) -> dict[str, Setting]:
        """The settings by which trainings of trees are judged."""
        params, tune = self.job.params, self.tune
        if not isinstance(params, BoostParams):
            return {}
        share = params.validation_share or tune.validation_share
        rounds = params.early_stopping_rounds or tune.early_stopping_rounds
        return {
            "validation_share": 1 / tune.folds if tune.folds else share,
            "early_stopping_rounds": rounds,
        }

    def _with(self, settings: Settings) -> Job:
        name = self.job.job.model
        section = getattr(self.job, name)
        given = {key: getattr(section, key) for key in section.model_fields_set}
        made = type(section).model_validate({**given, **settings})
        return self.job.model_copy(update={name: made, "tune": None})


def _explain(error: ValidationError, job: Job) -> str:
    """Which values of a space the settings of a job cannot have."""
    problem = error.errors(include_url=False)[0]
    if not problem["loc"]:  # of several settings
        return f"has values that do not go together: {problem['ctx']['error']}"
    name = str(problem["loc"][0])
    return f"{name}: each value must be {describe_key(type(getattr(job, job.job.model)), name)}"


def job_text(job: Job) -> str:
    """A job file of columns as TOML: what the job says itself."""
    lines = []
    for section in ("job", job.job.model):
        own = getattr(job, section).model_dump(mode="json", exclude_unset=True, exclude_none=True)
        lines += [f"[{section}]", *(f"{key} = {_value(value)}" for key, value in own.items()), ""]
    return "\n".join(lines)


def _value(value: object) -> str:
    """A value of a job file: text, a number, true or false, or lists of them."""
    return json.dumps(value, ensure_ascii=False)
