"""What a search has tried, and what it tries next, by optuna's sampler and pruner.

The trials are a document of the store. A trial is drawn from those before it and from the search's seed
and its own number, so that a search that was stopped goes on as one that was not.

Source: the tree-structured Parzen estimator of Bergstra et al., NeurIPS 2011, and the median rule of
Golovin et al., KDD 2017, section 3.2.1, as optuna has them (Akiba et al., KDD 2019).
"""

import importlib.util
import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

import numpy as np

from vfl.errors import ConfigError
from vfl.learn.params import BoostParams
from vfl.party.search import Search
from vfl.party.tune_section import WHOLE, Choice, Range, Setting

if TYPE_CHECKING:
    from optuna import Study as OptunaStudy
    from optuna import Trial
    from optuna.distributions import BaseDistribution

_DIGITS = 4  # of a setting that is no whole number
_STARTED = 5  # trials before the pruner ends any
_TREES = 5  # of a trial before it may be ended

Ended = Literal["done", "stopped", "failed"]


@dataclass(frozen=True)
class TrialDone:
    """A trial: its settings, what it came to, and the loss after each tree of its first training."""

    number: int  # from 1
    settings: Mapping[str, Setting]
    ended: Ended
    value: float | None = None  # of the metric
    loss: float | None = None
    trees: int | None = None  # how many were best, of trees
    curve: Sequence[float] = ()
    seconds: float = 0.0
    folds: Sequence[float] = ()  # the metric of each fold, where there are several


@dataclass
class Study:
    """The trials of a search so far."""

    search: Search
    trials: list[TrialDone] = field(default_factory=list)

    @property
    def best(self) -> TrialDone | None:
        """The best one that came to its end."""
        done = [one for one in self.trials if one.ended == "done" and one.value is not None]
        sign = -1 if self._maximises else 1
        return min(done, key=lambda one: (sign * (one.value or 0.0), one.number), default=None)

    @property
    def left(self) -> int:
        return max(0, self.search.tune.trials - len(self.trials))

    @property
    def _maximises(self) -> bool:
        return self.search.tune.metric == "gini"

    def ask(self) -> "AskedTrial":
        """The next trial: the first with the job's own settings, if the space has them."""
        search = self.search
        study, distributions = self._study()
        own = search.first
        if not self.trials and own is not None:
            study.enqueue_trial(own)
        trial = study.ask(distributions)
        settings = {name: _rounded(trial.params[name], choice) for name, choice in search.space.items()}
        prunes = search.tune.prune and search.tune.metric == "loss"
        return AskedTrial(len(self.trials) + 1, settings, trial if prunes else None)

    def _study(self) -> "tuple[OptunaStudy, dict[str, BaseDistribution]]":
        """Optuna's study of the trials so far."""
        import optuna
        from optuna.trial import TrialState, create_trial

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        number = len(self.trials)
        seed = int(np.random.SeedSequence([self.search.tune.seed, number]).generate_state(1)[0])
        study = optuna.create_study(
            direction="maximize" if self._maximises else "minimize",
            sampler=optuna.samplers.TPESampler(seed=seed),
            pruner=optuna.pruners.MedianPruner(_STARTED, _TREES),
        )
        distributions = {
            name: _distribution(choice, name in WHOLE) for name, choice in self.search.space.items()
        }
        states = {
            "done": TrialState.COMPLETE,
            "stopped": TrialState.PRUNED,
            "failed": TrialState.FAIL,
        }
        for one in self.trials:
            # Optuna knows curves and values by the same measure; without pruning it needs no curve.
            curve = {} if self._maximises else dict(enumerate(one.curve))
            study.add_trial(
                create_trial(
                    state=states[one.ended],
                    value=one.value if one.ended == "done" else None,
                    params=dict(one.settings),
                    distributions=distributions,
                    intermediate_values=curve,
                )
            )
        return study, distributions


class AskedTrial:
    """A trial that is being made, and the curve of its first training."""

    def __init__(self, number: int, settings: Mapping[str, Setting], trial: "Trial | None") -> None:
        """`trial`: optuna's, of a search that ends poor trials early."""
        self.number, self.settings, self._trial = number, settings, trial
        self.curve: list[float] = []

    def is_poor(self, loss: float) -> bool:
        """Whether a loss after a further tree of the first training is worse than the median."""
        step = len(self.curve)
        self.curve.append(loss)
        if self._trial is None:
            return False
        self._trial.report(loss, step)
        return bool(self._trial.should_prune())


def check_optuna() -> None:
    """Raises ConfigError where it is not installed."""
    if importlib.util.find_spec("optuna") is None:
        raise ConfigError("`vfl tune` needs the package optuna: pip install 'vfl[tune]'")


def _distribution(choice: Choice, whole: bool) -> "BaseDistribution":
    """Values in order wherever they have one, so that the sampler knows which are near."""
    from optuna.distributions import (
        CategoricalDistribution,
        FloatDistribution,
        IntDistribution,
    )

    if isinstance(choice, Range):
        if whole:
            return IntDistribution(int(choice.low), int(choice.high), log=choice.log)
        return FloatDistribution(float(choice.low), float(choice.high), log=choice.log)
    values = sorted(choice.values)
    steps = {after - before for before, after in itertools.pairwise(values)}
    if whole and len(steps) == 1:
        (step,) = steps
        return IntDistribution(int(values[0]), int(values[-1]), step=int(step))
    return CategoricalDistribution(choice.values)


def _rounded(value: Setting, choice: Choice) -> Setting:
    """A value as people write it, within what is tried."""
    if isinstance(value, int) or not isinstance(choice, Range):
        return value
    short = float(f"{value:.{_DIGITS}g}")
    return float(min(max(short, choice.low), choice.high))


def trees_of(search: Search, curve: Sequence[float]) -> int | None:
    """After how many trees of a training the loss was least."""
    if not isinstance(search.job.params, BoostParams) or not curve:
        return None
    known = [loss if math.isfinite(loss) else math.inf for loss in curve]
    return int(np.argmin(known)) + 1
