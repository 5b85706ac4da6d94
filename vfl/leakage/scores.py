"""The guest works a host's column out of scores that it is shown, with the help of rows that it knows.

Scoring by a linear model shows the guest the host's part of each row's score, or that of each
column: a function of the host's values. Rows with the same part have the same values, near ones
near values, so that whoever knows the values of some rows knows them of all with such a part (Luo
et al., ICDE 2021). Trees show the sides of all splits instead: model_alone.py with `scored`.
"""

import numpy as np
from numpy.typing import NDArray

from vfl.arrays import Floats
from vfl.leakage.shown import Mask
from vfl.leakage.success import Success


def nearest(parts: Floats, known: Mask, values: NDArray[np.generic]) -> NDArray[np.generic]:
    """The value of each row: that of the known row whose part is nearest.

    `parts`: shape (rows,), or (rows, parts) of several columns; `values` is read where `known`.
    """
    table = parts.reshape(len(parts), -1)
    spread = table.std(axis=0)
    table = table / np.where(spread > 0, spread, 1.0)
    own = np.flatnonzero(known)
    found = np.empty(len(table), values.dtype)
    for start in range(0, len(table), 1024):
        piece = table[start : start + 1024]
        far = ((piece[:, None, :] - table[own][None, :, :]) ** 2).sum(axis=2)
        found[start : start + 1024] = values[own[np.argmin(far, axis=1)]]
    return found


def success(
    parts: Floats,
    known: Mask,
    values: NDArray[np.generic],
    who: str = "guest",
    about: str = "host",
) -> Success:
    """Rows, of those not known, whose value is found; who guesses gives the known rows' most frequent.

    `values` are levels, or the bins of numbers.
    """
    unit = "rows whose level is found"
    others = ~known
    names, often = np.unique(values[known], return_counts=True)
    if not others.any() or not len(names):
        return Success("scores of known rows", who, about, 0.0, 0.0, unit)
    guessing = float((values[others] == names[np.argmax(often)]).mean())
    right = float((nearest(parts, known, values) == values)[others].mean())
    return Success("scores of known rows", who, about, right, guessing, unit)
