"""Frequency and severity of one set of policies, and the pure premium that they come to."""

from collections.abc import Mapping, Sequence
from typing import Self

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, RegressorMixin, clone
from sklearn.utils.validation import check_is_fitted

from vfl.arrays import Floats
from vfl.errors import ConfigError, DataError
from vfl.estimators.learner import column_named, translate_errors
from vfl.estimators.tasks import Regressor
from vfl.frames.rows import given_numbers, positive_numbers, weights_of
from vfl.frames.tables import frame_of
from vfl.frames.warnings import warn
from vfl.learn.claims import LargeLossLoad, PolicyClaims
from vfl.learn.losses import BadLabel, TweedieLoss
from vfl.simulate import GUEST
from vfl.text import counted

_FREQUENCY = ("poisson", "negative_binomial")
_SCORED_BY = TweedieLoss()


class FrequencySeverity(RegressorMixin, BaseEstimator):  # type: ignore[misc]
    """Expected claims x mean capped claim x large-loss load, by two models of the same rows.

    frequency: vfl.FederatedGLM(family="poisson") or "negative_binomial", or
    vfl.SecureBoostRegressor(objective="poisson"). severity: the same with "gamma". Both are cloned by
    fit. cap: most that a claim counts for in severity; the load is what was paid by the same capped, on
    the rows that train. load_by: a column of the guest's table by whose values the load differs.

    The model of severity trains on the rows of that of frequency; those without a claim have weight 0,
    as they would have apart, where no host may learn which they are (vfl/learn/claims.py).

    After fit: frequency_, severity_, load_ (of all rows), loads_ (by segment).
    """

    frequency_: Regressor
    severity_: Regressor
    load_: float
    loads_: dict[str, float]
    n_features_in_: int

    def __init__(
        self,
        frequency: Regressor,
        severity: Regressor,
        *,
        cap: float | None = None,
        load_by: str | None = None,
    ) -> None:
        self.frequency = frequency
        self.severity = severity
        self.cap = cap
        self.load_by = load_by

    def fit(
        self,
        X: object,
        y: object = None,
        hosts: Mapping[str, object] | None = None,
        *,
        counts: object = None,
        claims: object = None,
        amount: str = "amount",
        exposure: object = None,
        sample_weight: object = None,
    ) -> Self:
        """Train both models on the rows that all parties know.

        X: the guest's table, a row a policy. Either y, what the claims of each row came to in all, and
        counts, how many they are, both of shape (rows,), where the cap is on their mean; or claims, a
        table with a row a claim: columns of the guest's id under the same names, and `amount`. exposure:
        time at risk of each row. hosts, sample_weight: as of the models' own fit.

        Raises ConfigError for models of something else, DataError for tables that cannot be used.
        """
        with translate_errors():
            frequency, severity = self._models()
            guest = frame_of(X, GUEST).columns
            happened = self._claims(guest, frequency, y, counts, claims, amount)
            years = None if exposure is None else positive_numbers(exposure, guest, "exposure")
            weight = weights_of(sample_weight, guest)
            segment = self._segments(guest)
        X = self._without_claims(X, y, counts)
        self.frequency_ = frequency.fit(
            X, happened.count, hosts=hosts, sample_weight=weight, exposure=years
        )
        severity.keeps_rows_without_weight = True
        by_count = happened.weight("severity", weight, years)
        self.severity_ = severity.fit(
            X, happened.label("severity", years), hosts=hosts, sample_weight=by_count
        )
        rows = np.sort(self.frequency_.aligned_)
        load = LargeLossLoad.of(
            happened.take(rows), weight[rows], None if segment is None else segment[rows]
        )
        self.load_, self.loads_ = load.overall, dict(load.segments)
        self.n_features_in_ = self.frequency_.n_features_in_
        return self

    def predict(self, X: object, hosts: Mapping[str, object] | None = None) -> Floats:
        """The pure premium of each row for a unit of exposure, shape (rows,); errors as of the models'
        own predict."""
        return self.predict_parts(X, hosts)["pure_premium"].to_numpy()

    def predict_parts(self, X: object, hosts: Mapping[str, object] | None = None) -> pd.DataFrame:
        """What it is made of, a line a row: frequency, severity (the mean capped claim), load,
        pure_premium."""
        check_is_fitted(self, "load_")
        frequency, severity = (model.predict(X, hosts) for model in (self.frequency_, self.severity_))
        with translate_errors():
            load = LargeLossLoad(self.load_, self.loads_).at(
                len(frequency), self._segments(frame_of(X, GUEST).columns)
            )
        columns = {"frequency": frequency, "severity": severity, "load": load}
        return pd.DataFrame(columns | {"pure_premium": frequency * severity * load})

    def score(
        self,
        X: object,
        y: object,
        hosts: Mapping[str, object] | None = None,
        sample_weight: object = None,
        exposure: object = None,
    ) -> float:
        """The share of the Tweedie deviance (power 1.5) of losses that is explained; y: what the claims
        of each row came to in all. Errors as of predict."""
        premium = self.predict(X, hosts)
        with translate_errors():
            guest = frame_of(X, GUEST).columns
            size = weights_of(sample_weight, guest)
            losses = given_numbers(y, guest, "y")
            if exposure is not None:
                years = positive_numbers(exposure, guest, "exposure")
                losses, size = losses / years, size * years
        none = np.zeros(len(losses))
        null = _SCORED_BY.deviance(none + _SCORED_BY.start(losses, size, none), losses, size)
        return 1 - _SCORED_BY.deviance(np.log(premium), losses, size) / null

    def _models(self) -> tuple[Regressor, Regressor]:
        """Clones of both. Raises ConfigError."""
        if self.cap is not None and not self.cap > 0:
            raise ConfigError("cap must be above 0")
        if self.load_by is not None and self.cap is None:
            raise ConfigError("load_by is of losses above a cap: give cap as well, or leave it out")
        found = []
        wanted = {"frequency": _FREQUENCY, "severity": ("gamma",)}
        for name, of in wanted.items():
            model = getattr(self, name)
            if not isinstance(model, Regressor):
                raise ConfigError(f"{name} must be a vfl.FederatedGLM or a vfl.SecureBoostRegressor")
            if getattr(model, model.named_by) not in of:
                raise ConfigError(f"{name} needs {model.named_by}={' or '.join(map(repr, of))}")
            found.append(clone(model))
        return found[0], found[1]

    def _claims(
        self,
        guest: pd.DataFrame,
        model: Regressor,
        y: object,
        counts: object,
        claims: object,
        amount: str,
    ) -> PolicyClaims:
        """What happened to each row. Raises ConfigError and DataError."""
        if (claims is None) == (y is None) or (y is None) != (counts is None):
            raise ConfigError("give y and counts, a value a row, or claims, a table with a row a claim")
        try:
            if claims is None:
                count = given_numbers(counts, guest, "counts")
                if (count < 0).any():
                    raise DataError("counts must not be negative")
                return PolicyClaims.of_policies(count, given_numbers(y, guest, "y"), self.cap)
            table = frame_of(claims, "claims").columns
            paid = given_numbers(table[column_named(amount, table)], table, amount)
            row = model.rows_of(guest, table)
            if stray := int((row < 0).sum()):
                warn(f"{counted(stray, 'claim')} of {len(row):,} of no policy in X: not used")
            return PolicyClaims.of_claims(row, paid, len(guest), self.cap)
        except BadLabel as error:
            raise DataError(f"{'y' if claims is None else amount} {error}") from None
        except KeyError:
            raise DataError(f"claims has no column {amount!r}: name it by amount=") from None

    def _segments(self, guest: pd.DataFrame) -> NDArray[np.object_] | None:
        """The value of load_by of each row as text, None where it is missing. Raises DataError."""
        if self.load_by is None:
            return None
        if self.load_by not in guest:
            raise DataError(f"the table has no column {self.load_by!r}, which load_by names")
        values = guest[self.load_by]
        texts = [None if gone else str(one) for one, gone in zip(values, values.isna(), strict=True)]
        return np.array(texts, dtype=object)

    def _without_claims(self, X: object, *given: object) -> object:
        """The table without columns that are given apart, as of the models' own fit."""
        if not isinstance(X, pd.DataFrame):
            return X
        names: Sequence[object] = [one.name for one in given if isinstance(one, pd.Series)]
        return X.drop(columns=[name for name in names if name in X.columns])
