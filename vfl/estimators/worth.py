"""What each host's data is worth, on tables in one place."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from sklearn.base import BaseEstimator

from vfl.errors import ConfigError
from vfl.estimators.parameters import check_share
from vfl.frames.features import FrameTable, RowIndices
from vfl.frames.rows import given_numbers
from vfl.frames.tables import frame_of
from vfl.learn.worth import WORTH_HEADS, JudgedRows, subsets, worth_lines
from vfl.simulate import GUEST, SimulatedTask
from vfl.simulate_worth import train_each


def judged(copy: BaseEstimator, holdout: object) -> float:
    """The share held out, and of an estimator what nobody reads here is off. Raises ConfigError."""
    share = check_share("holdout", holdout)
    if not 0 < share < 1:
        raise ConfigError(f"holdout must be above 0 and below 1, not {share}")
    settings = copy.get_params(deep=False)
    if settings.get("init_model") is not None:
        raise ConfigError("worth compares models that begin anew: leave init_model out")
    if settings.get("inference"):
        copy.set_params(inference=False)
    return share


class Compared:
    """Trains what is compared, in place of a fit on `X`, and makes the table of it."""

    def __init__(self, X: object, premium: object) -> None:
        self._premium = (
            None if premium is None else given_numbers(premium, frame_of(X, GUEST).columns, "premium")
        )
        self.table = pd.DataFrame(columns=[*WORTH_HEADS])

    def train(
        self, guest: FrameTable, hosts: Sequence[FrameTable], task: SimulatedTask, rows: RowIndices
    ) -> None:
        names = [host.name for host in hosts]
        if task.rows.loss.classes > 1:
            raise ConfigError(
                "worth is not for three classes or more: its figures are of one prediction"
            )
        if not names:
            raise ConfigError("worth says what hosts add: give hosts={name: table}")
        found = train_each(guest, hosts, task, [(), *subsets(names)])
        training, held = found.training, found.held_out
        premium = None if self._premium is None else self._premium[rows[found.rows[held]]]
        told = JudgedRows(
            training.label[held],
            np.asarray(training.weight[held]),
            None if training.offset is None else training.offset[held],
            None if training.exposure is None else training.exposure[held],
            premium,
        )
        lines, _ = worth_lines(training.loss, told, found.scores, names)
        cells = [
            (
                line.sense,
                line.name(GUEST),
                name,
                one.value,
                *((one.low, one.high) if one.known else (None, None)),
            )
            for line in lines
            for name, one in line.figures.items()
        ]
        self.table = pd.DataFrame(cells, columns=[*WORTH_HEADS])
        self.table.attrs = {
            "rows": guest.rows,
            "aligned": len(found.rows),
            "train": int(training.train.sum()),
            "held_out": int(held.sum()),
        }
