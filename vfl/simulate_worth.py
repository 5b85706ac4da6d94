"""Models of some of the hosts each, on the same rows: what each host's columns add."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from vfl.arrays import Floats, Mask
from vfl.errors import ConfigError, DataError
from vfl.frames.features import FrameTable, RowIndices
from vfl.learn.losses import BadLabel
from vfl.protocols.common.rows import Training
from vfl.simulate import Aligned, SimulatedTask, common_rows, fit_apart, fit_plain, run
from vfl.text import counted


@dataclass(frozen=True)
class ComparedModels:
    """The rows that all parties know, and what models say of those held out.

    rows: the guest's, ascending; held_out: which of them are. scores: of the rows held out, by the hosts
    of the model.
    """

    rows: RowIndices
    training: Training
    held_out: Mask
    scores: Mapping[tuple[str, ...], Floats]


def train_each(
    guest: FrameTable,
    hosts: Sequence[FrameTable],
    task: SimulatedTask,
    sets: Sequence[tuple[str, ...]],
) -> ComparedModels:
    """Train with the hosts of each set, on the rows that all parties know and that are not held out.

    Raises as vfl.simulate.train, ConfigError for a share that holds out no row, and DataError for rows
    held out on which no model could be compared.
    """
    tables = [guest, *hosts]
    rows, scores = common_rows(tables), {}
    for some in sets:
        chosen = [place for place, one in enumerate(tables) if one is guest or one.name in some]
        aligned = Aligned.of(task, [tables[i] for i in chosen], [rows[i] for i in chosen])
        held_out = ~(aligned.training.train | aligned.training.validation)
        _check(task, aligned.training, held_out)
        apart = task.engine == "protocol" and some
        fitted, _ = run(fit_apart(aligned) if apart else fit_plain(aligned))
        scores[some] = fitted.score[held_out]
    return ComparedModels(aligned.rows, aligned.training, held_out, scores)


def _check(task: SimulatedTask, rows: Training, held_out: Mask) -> None:
    """Raises ConfigError and DataError where nothing can be compared on the rows held out."""
    if not held_out.any():
        raise ConfigError(
            f"holdout={task.holdout} holds out none of the {counted(len(held_out), 'aligned row')}: "
            "raise it"
        )
    try:
        rows.loss.check(rows.label[held_out])
    except BadLabel as error:
        raise DataError(
            f"in the {counted(int(held_out.sum()), 'aligned row')} held out, y {error}: raise holdout"
        ) from None
